"""The run directory (DESIGN.md): create, list, start as a detached process, ask to stop or pause, read events.

State lives in files alone; the app, the command line and the tests read the same ones.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml

from cbgui.config import DataConfig, InputError, RunConfig, find_data_file, parse_config
from cbgui.data.examples import Example, read_examples, write_examples

State = Literal["new", "waiting", "running", "paused", "stopped", "failed", "interrupted", "done"]
Request = Literal["run", "pause", "stop"]
FINISHED = ("paused", "stopped", "failed", "done")
TRASH = "_trash"
WAITING = "waiting"  # this file says that the run starts when no other trains
DATA_FILES = {"break": "break_file", "retain": "retain_file", "held_out": "held_out_file"}


def whole_folder() -> Path:
    """Where everybody's runs are kept."""
    return Path(os.environ.get("CBGUI_RUNS", "runs")).resolve()


_choose_folder: Callable[[Path], Path] = lambda whole: whole  # noqa: E731


def set_folder_chooser(choose: Callable[[Path], Path]) -> None:
    """`choose` says where, below the whole folder, the caller's runs are (a Space's visitors have their own)."""
    global _choose_folder
    _choose_folder = choose


def runs_folder() -> Path:
    """Where the caller's runs are kept."""
    return _choose_folder(whole_folder())


def detached() -> dict[str, Any]:
    """What subprocess.Popen needs for a process of this package that outlives its parent."""
    package = Path(__file__).resolve().parent.parent
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }
    if os.name == "nt":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS
        return {"env": environment, "creationflags": flags}
    return {"env": environment, "start_new_session": True}


def training_environment() -> dict[str, str]:
    """What the C library and oneDNN are told before a training process starts (docs/benchmarks.md); the user's own
    settings go before these.

    glibc takes memory in pages of 2 MiB where the system allows that (tunable `glibc.malloc.hugetlb`, 2.35 and later;
    others ignore it), and keeps no small freed blocks aside, which would lie between large ones and hold them apart
    (`tcache_count`, `mxfast`). oneDNN keeps half a MiB for every shape of matrix product in bfloat16, 1,024 of them by
    default. On a GPU, PyTorch lets its blocks grow instead of leaving gaps between them.
    """
    tunables = {"hugetlb": 1, "tcache_count": 0, "mxfast": 0}
    settings = {
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in tunables.items()),
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    }
    return {name: os.environ.get(name, value) for name, value in settings.items()}


def write_whole(path: Path, text: str) -> None:
    """Write and rename, so that a reader never sees half a file."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, "utf-8")
    part.replace(path)


def record_process(path: Path, pid: int) -> None:
    write_whole(path, json.dumps({"pid": pid, "start_time": psutil.Process(pid).create_time()}))


def recorded_process(path: Path) -> psutil.Process | None:
    """The process that `path` names, if it is alive and really that one (pids are given out again)."""
    try:
        known = json.loads(path.read_text("utf-8"))
        process = psutil.Process(known["pid"])
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return process if alive and abs(process.create_time() - known["start_time"]) < 1 else None
    except (OSError, ValueError, KeyError, psutil.Error):
        return None


def read_data(data: DataConfig) -> dict[str, list[Example]]:
    """The run's three sets, read and checked. Raises InputError."""
    sets = {
        "break": read_examples(find_data_file(data.break_file), "break"),
        "retain": read_examples(find_data_file(data.retain_file), "retain"),
    }
    if data.held_out_file:
        sets["held_out"] = read_examples(find_data_file(data.held_out_file), "retain")
    return sets


@dataclass(frozen=True)
class Run:
    """One run directory. `state` and `events` are read from the files each time they are asked for."""

    path: Path
    writes: bool = True  # false in all but the first of several training processes

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def config(self) -> RunConfig:
        try:
            values = yaml.safe_load((self.path / "run.yaml").read_text("utf-8"))
        except OSError:
            raise InputError(f"run {str(self.path)!r} has no run.yaml; give the folder of a run.") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise InputError(f"run {str(self.path)!r}: its run.yaml is no YAML; start the run anew.") from None
        return parse_config(values, str(self.path / "run.yaml"))

    def write_config(self, config: RunConfig) -> None:
        write_whole(self.path / "run.yaml", config.to_yaml())

    def examples(self, name: str) -> list[Example]:
        path = self.path / "data" / f"{name}.jsonl"
        if name == "held_out" and not path.is_file():
            return []
        return read_examples(path, "break" if name == "break" else "retain")

    def events(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Whole events from byte `offset` on, and the offset to go on from."""
        try:
            with (self.path / "events.jsonl").open("rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return [], 0
        whole = data[: data.rfind(b"\n") + 1]
        events = []
        for line in whole.splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:  # a line cut by kill -9 or a full disk
                continue
        return events, offset + len(whole)

    def append_event(self, kind: str, **values: Any) -> None:
        if not self.writes:
            return
        path = self.path / "events.jsonl"
        line = json.dumps({"time": time.time(), "kind": kind, **values}) + "\n"
        with path.open("ab+") as file:
            if file.tell():  # a killed process may have left half a line
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = "\n" + line
            file.write(line.encode())
            file.flush()

    def process(self) -> psutil.Process | None:
        """The training process, if it is alive."""
        return recorded_process(self.path / "process.json")

    def record_process(self, pid: int) -> None:
        record_process(self.path / "process.json", pid)

    def need_adapter(self) -> None:
        """Raises InputError when there is nothing to talk to, judge or merge yet."""
        if not (self.adapter / "adapter_model.safetensors").is_file():
            raise InputError(f"run {self.name!r} has no adapter yet; let the training finish, or stop and keep it.")

    def state(self) -> State:
        if self.process() is not None:
            return "running"
        if (self.path / WAITING).is_file():
            return "waiting"
        states = [event["state"] for event in self.events()[0] if event["kind"] == "status"]
        if not states:
            return "interrupted" if (self.path / "process.json").exists() else "new"
        return states[-1] if states[-1] in FINISHED else "interrupted"

    def request(self) -> Request:
        try:
            return json.loads((self.path / "request.json").read_text("utf-8"))["request"]
        except (OSError, ValueError, KeyError):
            return "run"

    def ask(self, request: Request) -> None:
        write_whole(self.path / "request.json", json.dumps({"request": request}))

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint; the trainer marks one as complete when all of it is on disk."""
        complete = [path.parent for path in self.path.glob("checkpoints/checkpoint-*/complete")]
        return max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)

    def start(self) -> None:
        """Start (or resume) training as a detached process. Raises InputError if it runs already."""
        if self.process() is not None:
            raise InputError(f"run {self.name!r} is running already; stop it first.")
        self.ask("run")
        (self.path / WAITING).unlink(missing_ok=True)
        options = detached()
        options["env"] = options["env"] | training_environment()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "cbgui.training", str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **options,
            )
        self.record_process(process.pid)

    def follow(self, offset: int = 0, poll_seconds: float = 0.3) -> Iterator[dict[str, Any]]:
        """Events from byte `offset` on as they come, until the process has ended."""
        while True:
            alive = self.process() is not None
            events, offset = self.events(offset)
            yield from events
            if not alive:
                return
            time.sleep(poll_seconds)

    def delete(self) -> Path:
        """Move the run to the trash, whence `restore` brings it back until the app closes. Raises InputError."""
        if self.process() is not None:
            raise InputError(f"run {self.name!r} is running; stop it before deleting it.")
        (self.path / WAITING).unlink(missing_ok=True)
        trash = self.path.parent / TRASH
        trash.mkdir(parents=True, exist_ok=True)
        place = trash / f"{time.time_ns()}-{self.name}"
        self.path.rename(place)
        return place

    def rename(self, name: str) -> Run:
        """Raises InputError when the run is running or the name is taken."""
        if self.process() is not None:
            raise InputError(f"run {self.name!r} is running; rename it when it has ended.")
        place = self.path.parent / free_name(name)
        if not name.strip() or place.name != re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]:
            raise InputError(f"name of the run = {name!r}: it is empty or taken; choose another.")
        config = self.config()
        self.path.rename(place)
        moved = Run(place)
        for part, field in DATA_FILES.items():
            if getattr(config.data, field):
                setattr(config.data, field, str(place / "data" / f"{part}.jsonl"))
        moved.write_config(config)
        return moved

    def duplicate(self, name: str = "") -> Run:
        """A new run with the same settings and data, not started."""
        return create_run(self.path.parent / free_name(name or self.name), self.config())


def need_new(path: Path) -> None:
    """Raises InputError when a run is there already."""
    if (path / "run.yaml").exists():
        raise InputError(f"run {str(path)!r} exists already; choose another --output, or pass --resume.")


def create_run(path: Path, config: RunConfig) -> Run:
    """Make a run directory: the resolved config and copies of the data. Raises InputError."""
    need_new(path)
    sets = read_data(config.data)
    config = config.model_copy(deep=True)
    try:
        (path / "data").mkdir(parents=True, exist_ok=True)
        for name, examples in sets.items():
            write_examples(path / "data" / f"{name}.jsonl", examples)
            setattr(config.data, DATA_FILES[name], str((path / "data" / f"{name}.jsonl").resolve()))
        write_whole(path / "run.yaml", config.to_yaml())
    except OSError as error:
        raise InputError(f"run {str(path)!r} cannot be written ({error.strerror}); choose another folder.") from None
    return Run(path.resolve())


def open_run(path: Path) -> Run:
    """Raises InputError when `path` is not a run directory."""
    run = Run(path.resolve())
    run.config()
    return run


def list_runs() -> list[Run]:
    """The caller's runs, newest first."""
    return runs_in(runs_folder())


def runs_in(folder: Path) -> list[Run]:
    """Newest first."""
    found = [path.parent for path in folder.glob("*/run.yaml")]
    return [Run(path) for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def restore(place: Path) -> Run:
    """Bring a deleted run back from the trash. Raises InputError."""
    if place.parent != runs_folder() / TRASH or not place.is_dir():
        raise InputError("there is nothing to bring back.")
    run = Run(runs_folder() / free_name(place.name.split("-", 1)[1]))
    place.rename(run.path)
    return run


def empty_trash() -> None:
    for trash in (whole_folder() / TRASH, *whole_folder().glob(f"*/*/{TRASH}")):
        shutil.rmtree(trash, ignore_errors=True)


def free_name(wanted: str) -> str:
    """A run name of letters, digits, '-' and '_' that is not taken yet."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", wanted).strip("-")[:60] or "run"
    number, free = 2, name
    while (runs_folder() / free).exists():
        free, number = f"{name}-{number}", number + 1
    return free
