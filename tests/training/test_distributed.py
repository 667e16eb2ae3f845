"""Two processes on the CPU (gloo) train what one trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cbgui.config import PRESETS
from cbgui.runs.folder import open_run

ROOT = Path(__file__).resolve().parents[2]
# The command line in processes whose memory and choices differ, as on two cards of which one is in use.
TWO = """
import json, os, pathlib, sys
from cbgui.training import session

rank, estimate, make = int(os.environ["RANK"]), session.estimate_memory, session.make_trainer
memory = (64, 8)[rank] * 2**30
session.hardware.memory_for_training = lambda: memory

def estimate_otherwise(model_config, config, memory, device, **more):
    config.training.micro_batch_size = rank + 1
    estimate_otherwise.memory = memory
    return estimate(model_config, config, memory, device, **more)

def note(run, config, *rest):
    chosen = {"memory": estimate_otherwise.memory, "micro_batch_size": config.training.micro_batch_size}
    pathlib.Path(f"rank{rank}.json").write_text(json.dumps(chosen))
    return make(run, config, *rest)

session.estimate_memory, session.make_trainer = estimate_otherwise, note
from cbgui.__main__ import run
sys.exit(run())
"""


# Without GPUs, `accelerate launch` starts one process alone, whatever --num_processes says.
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def train(command: list[str], folder: Path) -> None:
    """Three steps, in as many processes as the command starts."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 3 of 3" in done.stdout


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path, small_model):
    settings = ["training.steps=3", "training.break_batch_size=3", "training.retain_batch_size=3", "data.max_tokens=48"]
    settings += [
        "objective.reroute=spread",
        "model.dtype=float32",
        "training.validate_every=2",
        "training.checkpoint_every=2",
    ]
    arguments = ["-m", "cbgui", "train", "demo", "--model", str(small_model)]
    arguments += [word for setting in settings for word in ("--set", setting)]
    (tmp_path / "two.py").write_text(TWO, "utf-8")
    two = [*LAUNCH, "two.py", *arguments[2:], "--output", "two"]
    for command in ([sys.executable, *arguments, "--output", "one"], two):
        train(command, tmp_path)
    chosen = [json.loads((tmp_path / f"rank{rank}.json").read_text("utf-8")) for rank in (0, 1)]
    assert chosen == [{"memory": 8 * 2**30, "micro_batch_size": 1}] * 2
    one, two = open_run(tmp_path / "one"), open_run(tmp_path / "two")
    for kind in ("step", "validation"):
        pairs = [[event for event in run.events()[0] if event["kind"] == kind] for run in (one, two)]
        assert len(pairs[0]) == len(pairs[1])
        for a, b in zip(*pairs, strict=True):
            assert a["step"] == b["step"]
            for name in ("reroute_loss", "retain_loss"):
                assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), json.dumps([a, b])
    weights = [load_file(run.adapter_file) for run in (one, two)]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=2e-3), name


@pytest.mark.slow
def test_two_processes_train_the_published_recipe_with_its_dropout(tmp_path, small_model):
    data = PRESETS / "demo"
    settings = ["training.steps=3", "training.break_batch_size=3", "training.retain_batch_size=3", "data.max_tokens=48"]
    settings += ["objective.target_layers=[2]", "training.validate_every=2"]
    command = [*LAUNCH, "-m", "cbgui", "train", "published", "--model", str(small_model), "--output", "run"]
    command += ["--break", str(data / "break.jsonl"), "--retain", str(data / "retain.jsonl")]
    train([*command, *(word for setting in settings for word in ("--set", setting))], tmp_path)
    run = open_run(tmp_path / "run")
    assert run.state() == "done" and run.config().lora.lora_dropout > 0
    assert [event["step"] for event in run.events()[0] if event["kind"] == "step"] == [1, 2, 3]
    changes = [tensor for name, tensor in load_file(run.adapter_file).items() if "lora_B" in name]
    assert changes and all(tensor.isfinite().all() and tensor.any() for tensor in changes)
