"""The program is right without what makes a CPU fast."""

import json
import os
import subprocess
import sys

import pytest
from cli_process import ROOT

FIRST_STEPS = """
import json, tempfile
from pathlib import Path
from cbgui.config import load_config, override
from cbgui.runs.folder import create_run
from cbgui.training.session import train

settings = ["training.steps=2", "training.break_batch_size=2", "training.retain_batch_size=2", "data.max_tokens=48"]
settings += ["training.sample_every=0", "objective.reroute=spread", "data.general_keep=0"]
found = {}
for dtype in ("float32", "bfloat16"):
    with tempfile.TemporaryDirectory() as scratch:
        run = create_run(Path(scratch) / "run", override(load_config("demo"), [*settings, f"model.dtype={dtype}"]))
        train(run)
        found[dtype] = [[e["reroute_loss"], e["retain_loss"]] for e in run.events()[0] if e["kind"] == "step"]
print(json.dumps(found))
"""


def losses(switch: str) -> dict[str, list[list[float]]]:
    environment = os.environ | {"CBGUI_CPU_TRICKS": switch, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FIRST_STEPS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_losses_are_the_same_with_the_switch_off(demo):
    on, off = losses("1"), losses("0")
    for dtype, tolerance in (("float32", 1e-3), ("bfloat16", 0.15)):
        for one, other in zip(on[dtype], off[dtype], strict=True):
            assert one == pytest.approx(other, rel=tolerance, abs=1e-4), dtype
