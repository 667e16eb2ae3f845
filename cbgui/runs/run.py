"""One run directory (docs/architecture.md): the names of its files, its settings, events and state.

A run's state is kept only in files; the app, the command line and the tests read the same ones. This module alone
knows the names of the files in a run directory.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from cbgui.config import DataConfig, RunConfig, find_data_file, parse_config
from cbgui.data.examples import Example
from cbgui.data.reading import read_examples
from cbgui.errors import InputError
from cbgui.plain_yaml import load_yaml
from cbgui.runs.process import BackgroundProcess, is_held

State = Literal["new", "waiting", "running", "paused", "stopped", "failed", "interrupted", "done"]
Request = Literal["run", "pause", "stop"]
FINISHED = ("paused", "stopped", "failed", "done")
STATE_LABELS: dict[State, str] = {
    "new": "not started",
    "waiting": "waiting for its turn",
    "running": "running",
    "paused": "paused",
    "stopped": "stopped, adapter kept",
    "failed": "failed",
    "interrupted": "interrupted",
    "done": "done",
}
TRAIN, EVALUATE, EXPORT, UPLOAD = TASKS = ("train", "evaluate", "export", "upload")  # what runs in the background
DATA_FIELDS = {"break": "break_file", "retain": "retain_file", "held_out": "held_out_file"}
CONFIG_NAME = "run.yaml"
LOG_VARIABLE = "CBGUI_LOG"  # tells a job where its tracebacks go
ADAPTER_WEIGHTS = "adapter_model.safetensors"  # PEFT's names
ADAPTER_CONFIG = "adapter_config.json"
COMPLETE = "complete"  # marks a whole checkpoint, and holds the sizes of its files
CHECKPOINT_FILES = (ADAPTER_WEIGHTS, "optimizer.pt", "scheduler.pt", "trainer_state.json")  # the Trainer's names
MEASURED = ("step", "validation", "samples", "checkpoint")  # events of one step
PART = ".part"  # ending of a file or folder that is still being written


def write_whole(path: Path, text: str) -> None:
    """Write to a temporary file (*.part) and rename it, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=PART, dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        part.chmod(0o644)  # mkstemp's files are private
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_data(data: DataConfig, notes: dict[str, list[str]] | None = None) -> dict[str, list[Example]]:
    """The run's sets by name (break, retain, held_out), read and checked. Raises InputError.

    `notes` gets for each file how it was read: the columns taken, and what was left out.
    """
    sets = {}
    for part, field in DATA_FIELDS.items():
        if name := getattr(data, field):
            kind, path = "break" if part == "break" else "retain", find_data_file(name)
            said = notes.setdefault(path.name, []) if notes is not None else None
            sets[part] = read_examples(path, kind, answer=data.break_answer, notes=said)
    for part, must_be_break in (("break", True), ("retain", False)):
        for example in sets[part]:
            if (example.kind == "break") != must_be_break:
                side, other = ("--break", "--retain") if must_be_break else ("--retain", "--break")
                raise InputError(
                    f"{example.source}: the example {example.prompt[:60]!r} is marked {example.kind!r}, but the file "
                    f"is given as {side}; move it to the {other} file, or correct its kind."
                )
    return sets


@dataclass(frozen=True)
class Run:
    """One run directory. Every method reads the files anew."""

    path: Path
    writes: bool = True  # False in all but the first of several training processes

    @property
    def name(self) -> str:
        return self.path.name

    # Files and folders

    @property
    def config_file(self) -> Path:
        return self.path / CONFIG_NAME

    def data_file(self, part: str) -> Path:
        """`part` is break, retain or held_out."""
        return self.path / "data" / f"{part}.jsonl"

    @property
    def dataset_name_file(self) -> Path:
        return self.path / "data" / "name.txt"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def request_file(self) -> Path:
        return self.path / "request.json"

    @property
    def waiting_file(self) -> Path:
        """Exists while the run waits for its turn to train."""
        return self.path / "waiting"

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoints_folder(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints_folder / f"checkpoint-{step}"

    @property
    def adapter_folder(self) -> Path:
        return self.path / "adapter"

    @property
    def adapter_file(self) -> Path:
        return self.adapter_folder / ADAPTER_WEIGHTS

    @property
    def report_folder(self) -> Path:
        return self.path / "report"

    @property
    def report_file(self) -> Path:
        return self.report_folder / "report.json"

    @property
    def report_page(self) -> Path:
        return self.report_folder / "report.html"

    @property
    def answers_file(self) -> Path:
        """Answers of an evaluation that has begun."""
        return self.report_folder / "answers.jsonl"

    @property
    def judgements_file(self) -> Path:
        """A classifier's judgements of these answers."""
        return self.report_folder / "judgements.jsonl"

    def report_prompts_file(self, name: str) -> Path:
        """A copy of the further prompts that a report asks."""
        return self.report_folder / "prompts" / f"{name}.jsonl"

    @property
    def merged_folder(self) -> Path:
        return self.path / "merged"

    def lock_file(self, task: str) -> Path:
        """Held by the process of `task` as long as it lives."""
        return self.path / ("lock" if task == TRAIN else f"{task}.lock")

    def job_output(self, task: str) -> Path:
        """What the job printed."""
        return self.path / f"{task}.txt"

    # Settings and data

    def config(self) -> RunConfig:
        """The settings, with the paths of the run's own data. Raises InputError when they are missing or damaged."""
        try:
            values = load_yaml(self.config_file.read_text("utf-8"))
        except OSError:
            raise InputError(f"run {str(self.path)!r} has no {CONFIG_NAME}; give the folder of a run.") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise InputError(f"run {str(self.path)!r}: its {CONFIG_NAME} is not YAML; start a new run.") from None
        config = parse_config(values, str(self.config_file))
        for part, field in DATA_FIELDS.items():
            if getattr(config.data, field):  # wherever the folder was copied or moved to
                setattr(config.data, field, str(self.data_file(part)))
        return config

    def write_config(self, config: RunConfig) -> None:
        """Write the settings, with the data files' paths relative to the run."""
        config = config.model_copy(deep=True)
        for part, field in DATA_FIELDS.items():
            if getattr(config.data, field):
                setattr(config.data, field, self.data_file(part).relative_to(self.path).as_posix())
        write_whole(self.config_file, config.to_yaml())

    def examples(self, part: str) -> list[Example]:
        """The examples of break, retain or held_out. Raises InputError when a file is damaged."""
        path = self.data_file(part)
        if part == "held_out" and not path.is_file():
            return []
        return read_examples(path, "break" if part == "break" else "retain")

    def dataset_name(self) -> str | None:
        """The name of the data set that the run was started with; None for plain files."""
        try:
            return self.dataset_name_file.read_text("utf-8").strip() or None
        except OSError:
            return None

    # Events

    def events(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Complete events from byte `offset` on, and the offset to go on from."""
        try:
            with self.events_file.open("rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return [], 0
        whole = data[: data.rfind(b"\n") + 1]
        events = []
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:  # a line cut by kill -9 or a full disk
                continue
            if isinstance(event, dict) and "kind" in event:
                events.append(event)
        return events, offset + len(whole)

    def append_event(self, kind: str, **values: Any) -> None:
        """Append one line to events.jsonl; does nothing in a process that does not write (`writes`)."""
        if not self.writes:
            return
        line = json.dumps({"time": time.time(), "kind": kind, **values}) + "\n"
        with self.events_file.open("ab+") as file:
            if file.tell():  # a killed process may have left half a line
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = "\n" + line
            file.write(line.encode())
            file.flush()

    def forget_after(self, step: int) -> int:
        """Remove the events of later steps, which a resumed run will measure again; returns the file's new size.

        Call this only while nothing is training.
        """
        events, size = self.events()
        kept = [event for event in events if event["kind"] not in MEASURED or event.get("step", 0) <= step]
        if len(kept) == len(events):
            return size
        write_whole(self.events_file, "".join(json.dumps(event) + "\n" for event in kept))
        return self.events_file.stat().st_size

    def follow(self, offset: int = 0, poll_seconds: float = 0.3) -> Iterator[dict[str, Any]]:
        """Events from byte `offset` on as they come, until the training process has ended."""
        while True:
            alive = self.training.is_running()
            if self.events_file.is_file():  # a resumed run may have shortened the file
                offset = min(offset, self.events_file.stat().st_size)
            events, offset = self.events(offset)
            yield from events
            if not alive:
                return
            time.sleep(poll_seconds)

    # Process and state

    @property
    def training(self) -> BackgroundProcess:
        return BackgroundProcess(self.path, TRAIN, self.lock_file(TRAIN), self.log_file)

    def state(self) -> State:
        """A live process or a place in the queue counts first; otherwise the last status in the events decides."""
        if self.training.is_running():
            return "running"
        if self.waiting_file.is_file():
            return "waiting"
        states = [event.get("state") for event in self.events()[0] if event["kind"] == "status"]
        if not states:
            return "interrupted" if self.training.was_started() else "new"
        return states[-1] if states[-1] in FINISHED else "interrupted"

    def running_task(self) -> str | None:
        """The task that runs on this directory now, training first; None when there is none."""
        return next((task for task in TASKS if is_held(self.lock_file(task))), None)

    def start(self) -> int:
        """Start or resume training in the background; returns the offset of its first event.

        Raises InputError if it is running already.
        """
        offset = 0

        def prepare() -> None:
            nonlocal offset
            self.ask("run")
            self.waiting_file.unlink(missing_ok=True)
            offset = self.forget_after(max(self.complete_checkpoints(), default=0))

        self.training.start(append=True, prepare=prepare)
        return offset

    def request(self) -> Request:
        """What the user last asked of the training process."""
        try:
            return json.loads(self.request_file.read_text("utf-8"))["request"]
        except (OSError, ValueError, KeyError, TypeError):
            return "run"

    def ask(self, request: Request) -> None:
        """Ask the training process to go on, to pause or to stop after its current step."""
        write_whole(self.request_file, json.dumps({"request": request}))

    # What training leaves

    def need_adapter(self) -> None:
        """Raises InputError when there is no adapter to chat with, evaluate or export."""
        if not self.adapter_file.is_file():
            raise InputError(f"run {self.name!r} has no adapter yet; let training finish, or stop it.")

    def complete_checkpoints(self) -> dict[int, Path]:
        """Step -> folder of each checkpoint that is whole, in the order of their steps."""
        found = {}
        for mark in self.checkpoints_folder.glob(f"checkpoint-*/{COMPLETE}"):
            step = mark.parent.name.removeprefix("checkpoint-")
            if step.isdecimal() and _is_whole(mark):
                found[int(step)] = mark.parent
        return dict(sorted(found.items()))

    def mark_complete(self, step: int) -> None:
        """Call this once all of the checkpoint is on disk."""
        folder = self.checkpoint(step)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
        write_whole(folder / COMPLETE, json.dumps(sizes))

    def delete_checkpoints_after(self, step: int) -> None:
        """Delete checkpoints of later steps: they are incomplete or damaged, and would be taken for newer ones."""
        for folder in self.checkpoints_folder.glob("checkpoint-*"):
            number = folder.name.removeprefix("checkpoint-")
            if number.isdecimal() and int(number) > step:
                shutil.rmtree(folder, ignore_errors=True)


def _is_whole(mark: Path) -> bool:
    """Whether all files of a checkpoint are there, in the sizes that `mark` holds."""
    try:
        sizes = json.loads(mark.read_text("utf-8"))
        there = {name: (mark.parent / name).stat().st_size == size for name, size in sizes.items()}
    except (OSError, ValueError, AttributeError):
        return False
    random_state = any(name.startswith("rng_state") for name in there)
    return random_state and all(there.values()) and all(name in there for name in CHECKPOINT_FILES)
