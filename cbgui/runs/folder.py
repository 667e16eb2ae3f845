"""The folder of all runs: create, list, rename, duplicate, delete, restore."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import lock_descriptor

from cbgui.config import RunConfig
from cbgui.data import library
from cbgui.data.examples import write_examples
from cbgui.data.split import split_off
from cbgui.errors import InputError, is_disk_full
from cbgui.naming import cleaned_name, is_reserved
from cbgui.runs.disk import move, version
from cbgui.runs.run import CONFIG_NAME, DATA_FIELDS, Run, read_data

TRASH = "_trash"
VISITORS = "_visitors"  # a Space keeps each visitor's runs in a folder below this one
PRESETS = "_presets"  # presets that the user saved
DATASETS = "_data"  # the user's data sets
APP_LOCK = "_app.lock"  # held by the first app that opened the folder


def root_folder() -> Path:
    """The folder of everybody's runs."""
    return Path(os.environ.get("CBGUI_RUNS", "runs")).resolve()


def _same(root: Path) -> Path:
    return root


_choose_folder: Callable[[Path], Path] = _same
_claimed: dict[Path, int] = {}  # root folders whose APP_LOCK this process holds


def set_folder_chooser(choose: Callable[[Path], Path]) -> None:
    """`choose` returns the caller's own folder below the root folder; a Space gives each visitor one."""
    global _choose_folder
    _choose_folder = choose


def runs_folder() -> Path:
    """The folder of the caller's runs."""
    return _choose_folder(root_folder())


def refuse_existing(path: Path) -> None:
    """Raises InputError when `path` holds a run already, or is no name for one."""
    name = path.name
    if name.startswith("_") or name.endswith((".", " ")) or is_reserved(name):
        raise InputError(
            f"--output {str(path)!r}: a run's name may not begin with '_', end with a dot or a space, or be one that "
            "Windows keeps for a device, such as CON; choose another."
        )
    try:
        taken = (path / CONFIG_NAME).exists()
    except OSError as error:
        raise _cannot_be_written(path, error) from None
    if taken:
        raise InputError(f"run {str(path)!r} exists already; choose another --output, or pass --resume.")


def _cannot_be_written(path: Path, error: OSError) -> InputError:
    shown = str(path) if len(str(path)) < 200 else f"{str(path)[:200]}..."
    why = "the disk is full; free some space" if is_disk_full(error) else f"{error.strerror}; choose another folder"
    return InputError(f"run {shown!r} cannot be written ({why}).")


def create_run(path: Path, config: RunConfig) -> Run:
    """Make a run directory with the resolved settings and copies of the data. Raises InputError, and leaves nothing."""
    refuse_existing(path)
    sets = read_data(config.data)
    if "held_out" not in sets:  # so that no run goes unwatched
        file = sets["break"][0].source
        own = [example for example in sets["break"] if example.source == file]
        suggested = [example for example in sets["break"] if example.source != file]  # among the rows to keep
        training, held_out = split_off(own + sets["retain"], suggested)
        if held_out:
            sets["break"] = [example for example in training if example.kind == "break"]
            sets["retain"] = [example for example in training if example.kind != "break"]
            sets["held_out"] = held_out
    config = config.model_copy(deep=True)
    if Path(config.model.name).is_dir():  # the run may be opened from elsewhere
        config.model.name = str(Path(config.model.name).resolve())
    run = Run(path.resolve())
    new = not run.path.exists()
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        for part, examples in sets.items():
            run.data_file(part).parent.mkdir(exist_ok=True)
            write_examples(run.data_file(part), examples)
            setattr(config.data, DATA_FIELDS[part], str(run.data_file(part)))  # written relative to the run
        run.write_config(config)
    except BaseException as error:
        if new:
            shutil.rmtree(run.path, ignore_errors=True)
        else:  # the folder and what else is in it are the user's
            with suppress(OSError):
                for part in sets:
                    run.data_file(part).unlink(missing_ok=True)
                run.data_file("break").parent.rmdir()
        if isinstance(error, UnicodeError):
            raise InputError(
                f"run {str(path)!r}: an example holds half a character (a lone surrogate), which no file can hold; "
                "correct it in the data file."
            ) from None
        if isinstance(error, OSError):
            raise _cannot_be_written(path, error) from None
        raise
    return run


def open_run(path: Path) -> Run:
    """Raises InputError when `path` is not a run directory."""
    run = Run(path.resolve())
    run.config()
    return run


def list_runs() -> list[Run]:
    """The caller's runs, newest first."""
    return runs_in(runs_folder())


def runs_in(folder: Path) -> list[Run]:
    """The runs in `folder`, newest first."""
    found = [path for path in folder.glob(f"*/{CONFIG_NAME}") if not path.parent.name.startswith("_")]
    # A run may be deleted meanwhile.
    newest_first = sorted(found, key=lambda path: version(path) or (0, 0, 0), reverse=True)
    return [Run(path.parent) for path in newest_first]


def all_runs(root: Path) -> list[Run]:
    """Everybody's runs: those in `root` and, on a Space, every visitor's."""
    patterns = (f"*/{CONFIG_NAME}", f"{VISITORS}/*/*/{CONFIG_NAME}")
    return [Run(path.parent) for pattern in patterns for path in root.glob(pattern)]


def delete(run: Run) -> Path:
    """Move the run to the trash; `restore` brings it back until the app closes. Raises InputError while it is busy."""
    if task := run.running_task():
        raise InputError(f"run {run.name!r} is busy ({task}); stop that before you delete it.")
    run.waiting_file.unlink(missing_ok=True)
    trash = run.path.parent / TRASH
    trash.mkdir(parents=True, exist_ok=True)
    trashed_run = trash / f"{time.time_ns()}-{run.name}"
    move(run.path, trashed_run)
    return trashed_run


def restore(place: Path) -> Run:
    """Bring a deleted run back from the trash. Raises InputError."""
    if place.parent != runs_folder() / TRASH or not place.is_dir():
        raise InputError("this run is no longer in the trash.")
    run = Run(runs_folder() / free_name(place.name.split("-", 1)[1]))
    move(place, run.path)
    return run


def trashed() -> list[Path]:
    """The caller's deleted runs, oldest first."""
    return sorted((runs_folder() / TRASH).glob("*"))


def claim(root: Path) -> bool:
    """Whether this process is the first app that has opened the runs folder; it remains so until it ends."""
    if root in _claimed:
        return True
    fd = os.open(root / APP_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    if not lock_descriptor(fd, blocking=False):
        os.close(fd)
        return False
    _claimed[root] = fd
    return True


def empty_trash() -> None:
    """Delete for good what everybody has deleted, unless another app has this runs folder open."""
    root = root_folder()
    if not claim(root):
        return
    for folder in (root, *root.glob(f"{VISITORS}/*")):
        for trash in (folder / TRASH, folder / DATASETS / library.TRASH):
            shutil.rmtree(trash, ignore_errors=True)


def rename(run: Run, name: str) -> Run:
    """Raises InputError while the run is busy, or when the name is empty or taken."""
    if task := run.running_task():
        raise InputError(f"run {run.name!r} is busy ({task}); rename it when that has ended.")
    place = run.path.parent / free_name(name)
    if not name.strip() or place.name != cleaned_name(name):
        raise InputError(
            f"name of the run = {name!r}: it is taken, unchanged, or has no letters or digits; choose another."
        )
    move(run.path, place)
    return Run(place)


def duplicate(run: Run, name: str = "") -> Run:
    """A new run with the same settings and data, not started."""
    copy = create_run(run.path.parent / free_name(name or run.name), run.config())
    if topic := run.dataset_name():
        copy.dataset_name_file.write_text(topic, "utf-8")
    return copy


def free_name(wanted: str) -> str:
    """A run name that is not taken yet."""
    name = cleaned_name(wanted) or "run"
    number, free = 2, name
    while (runs_folder() / free).exists():
        free, number = f"{name}-{number}", number + 1
    return free
