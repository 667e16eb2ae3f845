"""kill -9 at random moments of trainer, app, both, evaluation and export: python dev/kill_test.py [moments] [seed]

After each kill, what was killed is started again. The result must be that of a run that nobody disturbed, and the
events must hold nothing twice. Prints a line for each kill, and a table; exits with 1 if anything differed.
"""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import small_run

sys.path.insert(0, str(small_run.ROOT))

import psutil

from cbgui.runs.run import Run

TOLERANCE = 1e-6  # of an adapter's numbers; the reference states of a resumed run are computed in other batches


class Undisturbed:
    """A model, a run of it, its report and its merged model, with the seconds that each took."""

    def __init__(self, folder: Path) -> None:
        self.model, self.run = folder / "model", folder / "undisturbed"
        small_run.make_model(self.model)
        small_run.make_run(self.run, self.model)
        self.seconds = {
            "train": self._time("train", "--resume", "--output", self.run),
            "evaluate": self._time("evaluate", self.run, *small_run.ATTACKS),
            "export": self._time("export", self.run, "--output", folder / "merged"),
        }
        self.sums = (folder / "merged" / "SHA256SUMS").read_text("utf-8")
        self.report = small_run.report_of(self.run)

    def _time(self, *arguments: object) -> float:
        started = time.monotonic()
        done = small_run.finish(*arguments)
        assert done.returncode == 0, done.stderr
        return time.monotonic() - started


def kill(process: subprocess.Popen | psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def wait_until(condition, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def kill_trainer(run: Run) -> bool:
    """Whether one was running."""
    return run.training.kill()


def trained_as_undisturbed(run: Run, whole: Undisturbed) -> str:
    """What differs; "" if nothing does."""
    if run.state() != "done":
        return f"state {run.state()}"
    apart = small_run.difference(run.adapter_file, whole.run / "adapter" / "adapter_model.safetensors")
    wrong = small_run.repeated_events(run.path)
    return ", ".join([*([f"adapter differs by {apart:.1e}"] if apart > TOLERANCE else []), *wrong])


def trainer(folder: Path, whole: Undisturbed, share: float) -> str:
    run = Run(folder / "run")
    small_run.make_run(run.path, whole.model)
    process = small_run.start("train", "--resume", "--output", run.path)
    time.sleep(share * whole.seconds["train"])
    kill_trainer(run)
    kill(process)
    if run.state() != "done":
        done = small_run.finish("train", "--resume", "--output", run.path)
        if done.returncode:
            return done.stderr
    return trained_as_undisturbed(run, whole)


def _with_app(folder: Path, whole: Undisturbed, share: float, trainer_too: bool) -> str:
    run = Run(folder / "runs" / "run")
    small_run.make_run(run.path, whole.model)
    run.waiting_file.touch()  # as the Start button leaves it while another run trains; the app starts it
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ("app", "--runs", run.path.parent, "--port", port)
    log = (folder / "app.log").open("wb")
    app = small_run.start(*arguments, stdout=log, stderr=log)
    wait_until(lambda: run.state() != "waiting")
    time.sleep(share * whole.seconds["train"])
    kill(app)
    if trainer_too:
        kill_trainer(run)
    app = small_run.start(*arguments, stdout=log, stderr=log)
    try:
        if trainer_too and run.state() != "done":
            run.waiting_file.touch()  # as the Resume button does
        wait_until(lambda: run.state() in ("done", "failed", "interrupted"))
    finally:
        kill(app)
    return trained_as_undisturbed(run, whole)


def app(folder: Path, whole: Undisturbed, share: float) -> str:
    return _with_app(folder, whole, share, trainer_too=False)


def both(folder: Path, whole: Undisturbed, share: float) -> str:
    return _with_app(folder, whole, share, trainer_too=True)


def evaluation(folder: Path, whole: Undisturbed, share: float) -> str:
    run = Run(folder / "run")
    shutil.copytree(whole.run, run.path, ignore=shutil.ignore_patterns("report"))
    process = small_run.start("evaluate", run.path, *small_run.ATTACKS)
    time.sleep(share * whole.seconds["evaluate"])
    kill(process)
    done = small_run.finish("evaluate", run.path, *small_run.ATTACKS)
    if done.returncode:
        return done.stderr
    keys = [line.partition(",")[0] for line in run.answers_file.read_text("utf-8").splitlines() if line]
    twice = len(keys) - len(set(keys))
    same = small_run.report_of(run.path) == whole.report
    return ", ".join(["the report differs"] * (not same) + [f"{twice} answers twice"] * bool(twice))


def export(folder: Path, whole: Undisturbed, share: float) -> str:
    merged = folder / "merged"
    process = small_run.start("export", whole.run, "--output", merged)
    time.sleep(share * whole.seconds["export"])
    kill(process)
    if not merged.exists():
        done = small_run.finish("export", whole.run, "--output", merged)
        if done.returncode:
            return done.stderr
    left = [path.name for path in folder.iterdir() if path != merged]
    same = (merged / "SHA256SUMS").read_text("utf-8") == whole.sums
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=merged, capture_output=True)
    return ", ".join(["the merged model differs"] * (not same or checked.returncode != 0) + left)


def main(moments: int = 24, seed: int = 0) -> int:
    kinds = (trainer, app, both, evaluation, export)
    numbers, wrong, kills = random.Random(seed), dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0)
    with tempfile.TemporaryDirectory(prefix="kill-test-") as scratch:
        whole = Undisturbed(Path(scratch))
        print("undisturbed:", {name: f"{seconds:.1f} s" for name, seconds in whole.seconds.items()}, flush=True)
        for moment in range(moments):
            for kind in kinds:
                share = numbers.random()
                folder = Path(scratch) / f"{kind.__name__}-{moment}"
                folder.mkdir()
                try:
                    problem = kind(folder, whole, share)
                except AssertionError as error:
                    problem = str(error)
                kills[kind] += 1
                wrong[kind] += bool(problem)
                print(f"{kind.__name__:<10} {moment + 1:>2} at {share:4.0%}: {problem or 'the same'}", flush=True)
                if not problem:
                    shutil.rmtree(folder)
    for kind in kinds:
        print(f"{kind.__name__:<10} {kills[kind]} kills, {wrong[kind]} differed")
    return 1 if any(wrong.values()) else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
