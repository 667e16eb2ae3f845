"""Peak memory and time of merging into a large, sharded model of random weights.

    python tests/measure/measure_export.py [--gigabytes 5] [--folder DIR]

The export is killed half-way once and started again. Only the files are checked, not the figures.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from random_models import random_adapter, random_sharded_model  # noqa: E402

from cbgui import hardware  # noqa: E402
from cbgui.config import RunConfig  # noqa: E402
from cbgui.runs.folder import create_run  # noqa: E402


def start(run: Path, output: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "cbgui", "export", str(run), "--output", str(output)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        model, output = Path(scratch, "model"), Path(scratch, "merged")
        layers = max(2, round(arguments.gigabytes * 1e9 / 134e6))
        total = random_sharded_model(model, layers=layers, hidden_size=2048, intermediate_size=8192, shard_layers=8)
        config = RunConfig()
        config.model.name = str(model)
        run = create_run(Path(scratch, "run"), config)
        random_adapter(run.adapter_folder, model, layers=layers * 5 // 8)

        process = start(run.path, output)
        for line in process.stdout:
            if line.strip().startswith("4"):  # over 40 percent
                break
        process.kill()
        process.wait()
        assert not output.exists(), "a half-written export looks like a whole one"

        began, peak, status = time.perf_counter(), 0, None
        process = start(run.path, output)
        for line in process.stdout:
            print(line, end="", flush=True)
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                peak = max(peak, int(status.split("VmHWM:")[1].split()[0]) * 1024)
            except (OSError, IndexError):  # it has ended
                pass
        seconds = time.perf_counter() - began
        assert process.wait() == 0
        for line in (output / "SHA256SUMS").read_text().splitlines():
            known, name = line.split("  ")
            with (output / name).open("rb") as file:
                assert hashlib.file_digest(file, "sha256").hexdigest() == known, name
        result = {
            "machine": hardware.describe(),
            "torch": torch.__version__,
            "model_gb": round(total / 1e9, 2),
            "seconds": round(seconds),
            "peak_resident_mb": round(peak / 1e6),
        }
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
