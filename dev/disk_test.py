"""Twenty disk sizes from full to enough, for training, evaluation, export and import.

python dev/disk_test.py [sizes] [jobs]

Each job runs on a tmpfs of that size (Linux, as root). Where it fails, it must say so in one sentence and have lost
nothing: on an enlarged disk the same command ends as it does on a large one. Prints a line for each size, and a table.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import small_run

sys.path.insert(0, str(small_run.ROOT))

from cbgui.data.dataset_store import DatasetStore
from cbgui.data.examples import Example
from cbgui.errors import error_sentence
from cbgui.runs.run import Run

LARGE = 2 * 2**30  # bytes
BLOCK = 4096  # a tmpfs holds whole blocks


@contextlib.contextmanager
def disk(folder: Path, size: int) -> Iterator[Callable[[int], None]]:
    """A disk of `size` bytes at `folder`; yields a function that changes its size."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield lambda bigger: subprocess.run(["mount", "-o", f"remount,size={bigger}", folder], check=True)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # a process may be about to end


def used(folder: Path) -> int:
    return shutil.disk_usage(folder).used


@dataclass
class Outcome:
    """What a job said, and whether it ended well."""

    ended: bool
    said: str


@dataclass
class Job:
    """`prepare` makes what is there before, `do` is tried and repeated, `result` is compared."""

    name: str
    prepare: Callable[[Path], None]
    do: Callable[[Path], Outcome]
    result: Callable[[Path], object]


def _outcome(done: subprocess.CompletedProcess) -> Outcome:
    return Outcome(done.returncode == 0, done.stderr.strip())


def is_told(said: str) -> bool:
    """Whether what was said holds a sentence about the disk and no traceback."""
    return "Traceback" not in said and bool(re.search(r"\b(disk is full|disk space)\b.*\.", said))


ROWS = [Example((("user", f"Question {number}? {'why ' * 40}"),), "Because. " * 60, "break") for number in range(2000)]


def _import(folder: Path) -> Outcome:
    """As the Data page does it: all rows at once."""
    try:
        DatasetStore.make(folder / "topic").add(ROWS, "file")
    except Exception as error:
        return Outcome(False, error_sentence(error))
    return Outcome(True, "")


def _imported(folder: Path) -> object:
    return DatasetStore(folder / "topic").counts()


def _jobs(model: Path, trained: Path) -> list[Job]:
    def train(folder: Path) -> Outcome:
        return _outcome(small_run.finish("train", "--resume", "--output", folder / "run"))

    def trained_result(folder: Path) -> object:
        run = Run(folder / "run")
        same = small_run.difference(run.adapter_file, Run(trained).adapter_file) < 1e-6
        return run.state(), same, small_run.repeated_events(run.path)

    def evaluate(folder: Path) -> Outcome:
        return _outcome(small_run.finish("evaluate", folder / "run", *small_run.ATTACKS))

    def export(folder: Path) -> Outcome:
        return _outcome(small_run.finish("export", trained, "--output", folder / "merged"))

    def checksums(folder: Path) -> object:
        return (folder / "merged" / "SHA256SUMS").read_text("utf-8")

    def copy(folder: Path) -> None:
        shutil.copytree(trained, folder / "run", ignore=shutil.ignore_patterns("report", "checkpoints"))

    return [
        Job("import", lambda folder: DatasetStore.make(folder / "topic").counts(), _import, _imported),
        Job("training", lambda folder: small_run.make_run(folder / "run", model), train, trained_result),
        Job("evaluation", copy, evaluate, lambda folder: small_run.report_of(folder / "run")),
        Job("export", lambda folder: None, export, checksums),
    ]


def measure(job: Job, folder: Path) -> tuple[int, int, object]:
    """Bytes before and after the job on a large disk, and its result."""
    with disk(folder, LARGE):
        job.prepare(folder)
        before = used(folder)
        outcome = job.do(folder)
        assert outcome.ended, outcome.said
        return before, used(folder), job.result(folder)


def main(sizes: int = 20, *names: str) -> int:
    """`names` of jobs; all of them by default."""
    rows, failures = [], 0
    with tempfile.TemporaryDirectory(prefix="disk-test-") as scratch:
        model, trained, mounted = (Path(scratch) / name for name in ("model", "trained", "disk"))
        small_run.make_model(model)
        small_run.make_run(trained, model)
        assert small_run.finish("train", "--resume", "--output", trained).returncode == 0
        for job in (job for job in _jobs(model, trained) if not names or job.name in names):
            before, after, expected = measure(job, mounted)
            told = lost = ended_at = 0
            for number in range(sizes):
                # From what is there already, and not a byte more, to twice what the job left: checkpoints rotate.
                size = before + int((2 * (after - before) + 64 * BLOCK) * number / (sizes - 1))
                with disk(mounted, LARGE) as resize:
                    job.prepare(mounted)
                    resize(max(size, used(mounted), BLOCK))  # 0 would mean no limit
                    first = job.do(mounted)
                    resize(LARGE)
                    again = first if first.ended else job.do(mounted)
                    same = again.ended and job.result(mounted) == expected
                if first.ended:
                    ended_at = ended_at or size
                told += first.ended or is_told(first.said)
                lost += not same
                words = "ended" if first.ended else first.said.replace("\n", " / ")
                print(
                    f"{job.name:<10} {size / 1e6:8.2f} MB: {words}", "" if same else f"LOST: {again.said}", flush=True
                )
            failures += lost + (sizes - told)
            rows.append(
                f"{job.name:<10} {before / 1e6:.2f} MB before, {after / 1e6:.2f} after; first ended with "
                f"{ended_at / 1e6:.2f} MB; {told} of {sizes} ended or said why not, {lost} lost something"
            )
    print("\n".join(rows))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2]), *sys.argv[2:]))
