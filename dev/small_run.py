"""A run of six float32 steps on a tiny random model, and its commands; what kill_test.py and disk_test.py start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [
    "training.steps=6", "training.break_batch_size=2", "training.retain_batch_size=2", "data.max_tokens=64",
    "training.sample_every=0", "training.checkpoint_every=2", "training.validate_every=2", "model.dtype=float32",
    "training.micro_batch_size=4",
]  # fmt: skip
ATTACKS = ["--attacks", "direct,prefill", "--limit", "4", "--max-new-tokens", "8"]
MADE_ANEW = ("created", "seconds", "machine", "run")  # of a report


def make_model(folder: Path) -> None:
    """A Llama of random weights with the demo's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from cbgui.modeling.chat_format import load_tokenizer
    from cbgui.modeling.hub import resolve_model

    torch.manual_seed(0)
    tokenizer = load_tokenizer(resolve_model("demo"))
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), num_key_value_heads=2, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_run(folder: Path, model: Path) -> None:
    """A run that has not started."""
    from cbgui.config import load_config, override
    from cbgui.runs.folder import create_run

    config = override(load_config("demo"), SETTINGS)
    config.model.name = str(model)
    create_run(folder, config)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cbgui", *map(str, arguments)]


def start(*arguments: object, **options: Any) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(*arguments), cwd=ROOT, env=environment, **(piped | options))


def finish(*arguments: object) -> subprocess.CompletedProcess:
    process = start(*arguments)
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def difference(one: Path, other: Path) -> float:
    """The largest absolute difference of two adapters' numbers; infinity when their tensors differ in form."""
    from safetensors.numpy import load_file

    first, second = load_file(one), load_file(other)
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        return float("inf")
    return max(float(abs(first[name] - second[name]).max()) for name in first)


def report_of(run: Path) -> dict[str, Any]:
    """The report without what is new each time."""
    report = json.loads((run / "report" / "report.json").read_text("utf-8"))
    return {key: value for key, value in report.items() if key not in MADE_ANEW}


def repeated_events(run: Path) -> list[str]:
    """Steps, validations and checkpoints that the events hold twice, or that they lack."""
    wrong = []
    events = [json.loads(line) for line in (run / "events.jsonl").read_text("utf-8").splitlines() if line]
    for kind, expected in (("step", range(1, 7)), ("validation", (2, 4, 6)), ("checkpoint", (2, 4, 6))):
        found = [event["step"] for event in events if event["kind"] == kind]
        if found != list(expected):
            wrong.append(f"{kind} {found}")
    return wrong
