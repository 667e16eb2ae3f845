"""The program is right without what makes a CPU fast."""

import json
import os
import subprocess
import sys

import pytest
from cli_process import ROOT

FIRST_STEPS = """
import json, sys, tempfile
from pathlib import Path
from cbgui.config import load_config, override
from cbgui.runs.folder import create_run
from cbgui.training.session import train

settings = ["training.steps=2", "training.break_batch_size=2", "training.retain_batch_size=2", "data.max_tokens=48"]
settings += ["training.sample_every=0", f"model.dtype={sys.argv[1]}"]
with tempfile.TemporaryDirectory() as scratch:
    run = create_run(Path(scratch) / "run", override(load_config("demo"), settings))
    train(run)
    print(json.dumps([[e["reroute_loss"], e["retain_loss"]] for e in run.events()[0] if e["kind"] == "step"]))
"""


def losses(dtype: str, switch: str) -> list[list[float]]:
    environment = os.environ | {"CBGUI_CPU_TRICKS": switch, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FIRST_STEPS, dtype]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.15)])
def test_the_losses_are_the_same_with_the_switch_off(demo, dtype, tolerance):
    for on, off in zip(losses(dtype, "1"), losses(dtype, "0"), strict=True):
        assert on == pytest.approx(off, rel=tolerance, abs=1e-4)
