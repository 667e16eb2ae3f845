"""One run directory (docs/architecture.md): the names of its files, its settings, events and state.

A run's state is kept only in files; the app, the command line and the tests read the same ones. This module alone
knows the names of the files in a run directory.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from cbgui.config import DataConfig, RunConfig, find_data_file, parse_config, read_yaml
from cbgui.data.examples import Example
from cbgui.data.reading import read_examples
from cbgui.errors import InputError
from cbgui.runs import events as event_lines
from cbgui.runs.adapter import ADAPTER_WEIGHTS, COMPLETE, check_adapter, is_whole, sha256
from cbgui.runs.disk import PART as PART
from cbgui.runs.disk import version, write_whole
from cbgui.runs.events import MEASURED, Event
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
MERGED_FROM = "cbgui.json"  # in a merged model: the hash of the adapter that it was made from


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
    for example in sets["break"]:
        if example.kind != "break":
            raise InputError(
                f"{example.source}: the example {example.prompt[:60]!r} is marked {example.kind!r}, but the file is "
                "given as --break; move it to the --retain file, or correct its kind."
            )
    # `cbgui suggest` writes both kinds into one file.
    if marked := [example for example in sets["retain"] if example.kind == "break"]:
        sets["break"] = sets["break"] + marked
        sets["retain"] = [example for example in sets["retain"] if example.kind != "break"]
        if notes is not None:
            notes[find_data_file(data.retain_file).name].append(
                f"Rows marked break, which are taken as must-stop examples: {len(marked):,}."
            )
    if not sets["retain"]:
        raise InputError(f"{data.retain_file}: no row must be kept; add some (see `cbgui suggest`).")
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
        """`part` is break, retain, held_out, or general: everyday questions that cbgui added."""
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

    @property
    def labels_file(self) -> Path:
        """What a person said of the report's answers."""
        return self.report_folder / "labels.json"

    @property
    def undoing_file(self) -> Path:
        """What attempts to undo the breaker have shown so far."""
        return self.report_folder / "undoing.jsonl"

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
            text = self.config_file.read_text("utf-8")
        except OSError:
            raise InputError(f"run {str(self.path)!r} has no {CONFIG_NAME}; give the folder of a run.") from None
        except UnicodeDecodeError:
            raise InputError(f"{self.config_file}: not YAML in UTF-8; save the file as UTF-8.") from None
        config = parse_config(read_yaml(text, str(self.config_file)), str(self.config_file))
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
        """The examples of break, retain, held_out or general. Raises InputError when a file is damaged."""
        path = self.data_file(part)
        if part in ("held_out", "general") and not path.is_file():
            return []
        return read_examples(path, "break" if part == "break" else "retain")

    def dataset_name(self) -> str | None:
        """The name of the data set that the run was started with; None for plain files."""
        try:
            return self.dataset_name_file.read_text("utf-8", errors="replace").strip() or None
        except OSError:
            return None

    # Events

    def events(self, offset: int = 0) -> tuple[list[Event], int]:
        """Complete events from byte `offset` on, and the offset to go on from."""
        return event_lines.read(self.events_file, offset)

    def first_event(self) -> Event | None:
        return event_lines.first(self.events_file)

    def newest(self, *kinds: str) -> dict[str, Event]:
        """The newest event of each kind, where the end of the file holds one; a long run takes no longer than a short
        one."""
        found: dict[str, Event] = {}
        for event in event_lines.newest_first(self.events_file):
            if event["kind"] in kinds:
                found.setdefault(event["kind"], event)
                if len(found) == len(kinds):
                    break
        return found

    def append_event(self, kind: str, **values: Any) -> None:
        """Append one line to events.jsonl; does nothing in a process that does not write (`writes`)."""
        if not self.writes:
            return
        line = json.dumps({"time": time.time(), "kind": kind, **values}, ensure_ascii=False) + "\n"
        with self.events_file.open("ab+") as file:
            if file.tell():  # a killed process may have left half a line
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = "\n" + line
            file.write(line.encode("utf-8", "replace"))  # half a character, from a name or an error, becomes "?"
            file.flush()

    def forget_after(self, step: int) -> int:
        """Remove the events of later steps, which a resumed run will measure again; returns the file's new size.

        Call this only while nothing is training.
        """
        events, size = self.events()
        kept = [event for event in events if event["kind"] not in MEASURED or event.get("step", 0) <= step]
        if len(kept) == len(events):
            return size
        write_whole(self.events_file, "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in kept))
        return self.events_file.stat().st_size

    def follow(self, offset: int = 0, poll_seconds: float = 0.3) -> Iterator[Event]:
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
        """A live process or a place in the queue counts first; otherwise the newest event decides."""
        if self.training.is_running():
            return "running"
        if self.waiting_file.is_file():
            return "waiting"
        newest = next(
            (e for e in event_lines.newest_first(self.events_file) if e["kind"] in ("status", *MEASURED)), None
        )
        if newest is None:
            return "interrupted" if self.training.was_started() else "new"
        state = newest.get("state")  # a run that has ended measures nothing more
        return state if newest["kind"] == "status" and state in FINISHED else "interrupted"

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
            offset = self.forget_after(max(self.complete_checkpoints(), default=0))

        self.training.start(append=True, prepare=prepare)
        self.waiting_file.unlink(missing_ok=True)  # not before, or the run would be shown as interrupted meanwhile
        return offset

    def request(self) -> Request:
        """What the user last asked of the training process."""
        try:
            request = json.loads(self.request_file.read_text("utf-8"))["request"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return "run"
        return request if request in get_args(Request) else "run"

    def ask(self, request: Request) -> None:
        """Ask the training process to go on, to pause or to stop after its current step."""
        write_whole(self.request_file, json.dumps({"request": request}))

    # What training leaves

    def need_adapter(self) -> None:
        """Raises InputError when there is no adapter to chat with, evaluate or export."""
        if not self.adapter_file.is_file():
            raise InputError(f"run {self.name!r} has no adapter yet; let training finish, or stop it.")
        try:
            settings = check_adapter(self.adapter_folder)
        except ValueError:
            raise InputError(
                f"run {self.name!r}: its adapter is damaged or cut off; restore {str(self.adapter_folder)!r} from a "
                "backup, or duplicate the run and train it again."
            ) from None
        self.need_same_lora(settings, "the adapter was")

    def need_same_lora(self, trained: dict[str, Any], what: str) -> None:
        """Raises InputError when run.yaml was changed since `what` trained with these settings."""
        lora = self.config().lora
        for name, value in trained.items():
            if getattr(lora, name) != value:
                raise InputError(
                    f"{self.config_file}: lora.{name} = {getattr(lora, name)}, but {what} trained with {value}; set it "
                    f"back to {value}, or train a new run."
                )

    def need_merged(self) -> None:
        """Raises InputError when there is no merged model to upload."""
        if not self.merged_folder.is_dir():
            raise InputError(
                f"run {self.name!r} is not merged; first run python -m cbgui export {self.path} --output "
                f"{self.merged_folder}."
            )

    def adapter_hash(self) -> str:
        """SHA-256 of the adapter's weights, which is what a merged model or an answer belongs to."""
        return sha256(self.adapter_file, version(self.adapter_file))

    def is_merged(self, folder: Path | None = None) -> bool:
        """Whether the merged model, or that in `folder`, holds the adapter as it is now; training may have gone on."""
        try:
            made_from = json.loads(((folder or self.merged_folder) / MERGED_FROM).read_text("utf-8"))["adapter_sha256"]
            return made_from == self.adapter_hash()
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False

    def complete_checkpoints(self) -> dict[int, Path]:
        """Step -> folder of each checkpoint that is whole, in the order of their steps."""
        return {step: folder for step, folder in self.checkpoints().items() if is_whole(folder / COMPLETE)}

    def checkpoints(self) -> dict[int, Path]:
        """Step -> folder of each checkpoint, whole or not, in the order of their steps."""
        folders = [path for path in self.checkpoints_folder.glob("checkpoint-*") if path.is_dir()]
        steps = {path.name.removeprefix("checkpoint-"): path for path in folders}
        return dict(sorted((int(step), path) for step, path in steps.items() if step.isdecimal()))

    def mark_complete(self, step: int) -> None:
        """Call this once all of the checkpoint is on disk."""
        folder = self.checkpoint(step)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
        write_whole(folder / COMPLETE, json.dumps(sizes))

    def delete_checkpoints_after(self, step: int) -> None:
        """Delete checkpoints of later steps: they are incomplete or damaged, and would be taken for newer ones."""
        for number, folder in self.checkpoints().items():
            if number > step:
                shutil.rmtree(folder, ignore_errors=True)
