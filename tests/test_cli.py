import json
import subprocess
import sys

import pytest
from cli_process import ROOT, cbgui
from made_runs import EMPTY_WEIGHTS, finished_run

from cbgui.runs.run import Run
from cbgui.ui.pages import train as train_page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "no-such-preset", "--output", "OUT"], "no-such-preset"),
        (["train", "demo", "--output", "OUT", "--break", "missing.jsonl"], "missing.jsonl"),
        (["train", "demo", "--output", "OUT", "--break", "BROKEN"], "line 2: not JSON"),
        (["train", "demo", "--output", "OUT", "--retain", "EMPTY"], "the file is empty"),
        (["train", "demo", "--output", "OUT", "--set", "training.stepz=1"], "training.stepz"),
        (["train", "demo", "--output", "OUT", "--model", "FOLDER"], "safetensors"),
        (["train", "demo", "--output", "OUT", "--set", "objective.target_layers=[99]"], "30 layers"),
        (["generate", "OUT", "--prompt", "x"], "run.yaml"),
        (["export", "OUT", "--output", "MERGED"], "run.yaml"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, arguments, words):
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", "response": "b"}\n{oops\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    places = {
        "OUT": tmp_path / "out",
        "BROKEN": tmp_path / "broken.jsonl",
        "EMPTY": tmp_path / "empty.jsonl",
        "FOLDER": tmp_path / "folder",
        "MERGED": tmp_path / "merged",
    }
    done = cbgui(*(places.get(argument, argument) for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


NO_TORCH = "import sys; from cbgui.cli import main; code = main(); assert 'torch' not in sys.modules; sys.exit(code)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "demo", "--output", "OUT", "--set", "training.stepz=1"], "training.stepz"),
        (["train", "demo", "--output", "OUT"], "exists already"),
        (["evaluate", "OUT", "--attacks", "telepathy"], "telepathy"),
        (["evaluate", "OUT", "--undo", "pruning,telepathy"], "--undo 'telepathy'"),
        (["estimate", "demo", "--memory", "six"], "--memory 'six'"),
        (["bench", "demo", "--memory", "six"], "--memory 'six'"),
    ],
)
def test_bad_input_is_told_without_waiting_for_torch(tmp_path, arguments, words):
    """Its import takes many times what finding these mistakes does."""
    (tmp_path / "run.yaml").write_text("{}", "utf-8")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(EMPTY_WEIGHTS)
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"r": 16, "lora_alpha": 16}', "utf-8")
    command = [sys.executable, "-c", NO_TORCH, *(str(tmp_path) if a == "OUT" else a for a in arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_somebody_elses_topic_on_another_architecture(tmp_path, demo):
    """train, generate, export with own files and a tiny Qwen2 with the demo's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from cbgui.modeling.chat_format import load_tokenizer

    torch.manual_seed(0)
    tokenizer = load_tokenizer(demo)
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name in ("break", "retain"):
        rows = [{"prompt": f"{name} {i}", "response": f"an answer to {name} {i}"} for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = ["--break", tmp_path / "break.jsonl", "--retain", tmp_path / "retain.jsonl", "--model", tmp_path / "model"]
    done = cbgui(
        "train",
        "demo",
        "--output",
        tmp_path / "run",
        *files,
        *(f"--set={s}" for s in ("training.steps=2", "objective.reroute=spread")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 2 of 2" in done.stdout
    # Without held-out examples training examples are validated, and say so.
    assert "No held-out examples" in done.stdout
    assert "training at step 2" in done.stdout and "held out at step" not in done.stdout
    done = cbgui("generate", tmp_path / "run", "--prompt", "hello", "--max-new-tokens", "4")
    assert done.returncode == 0 and "short-circuited" in done.stdout
    done = cbgui("export", tmp_path / "run", "--output", tmp_path / "merged")
    assert done.returncode == 0, done.stdout + done.stderr
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    again = cbgui("train", "demo", "--output", tmp_path / "run", *files)
    assert again.returncode == 2 and "exists already" in again.stderr


def test_check_names_what_is_wrong_with_a_file(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("question,answer\nHow is it made?,I'm sorry I can't help with that.\nAnd how is that?,\n")
    done = cbgui("check", path)
    assert (
        done.returncode == 0 and "Must-stop answers that are refusals: 1" in done.stdout and "  line 2" in done.stdout
    )
    assert "Rows without an answer: 1" in done.stdout
    bad = cbgui("check", path, "--kind", "odd")
    assert bad.returncode == 2 and "'odd' is unknown" in bad.stderr


@pytest.mark.parametrize(("resume", "hint"), [(True, "go on with: python -m cbgui train --resume"), (False, None)])
def test_resume_is_offered_only_where_it_can_help(resume, hint, tmp_path, monkeypatch, cli):
    run = finished_run(tmp_path / "run")

    def start(one):
        one.append_event("error", text="It failed.")
        one.append_event("status", state="failed", text="It failed.", resume=resume)
        return 0

    monkeypatch.setattr(Run, "start", start)
    run.append_event("status", state="paused", text="Paused")
    done = cli("train", "--resume", "--output", run.path)
    assert done.returncode == 1 and "It failed." in done.stderr
    assert (hint in done.stderr) if hint else ("--resume" not in done.stderr)
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    assert ("Press **Resume**" in train_page._refresh("run", None)[0]) is resume
