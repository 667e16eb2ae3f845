"""Renaming, duplicating, deleting and restoring runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import sample_rows
from cli_process import ROOT

from cbgui.config import DataConfig, load_config
from cbgui.data.examples import write_examples
from cbgui.errors import InputError
from cbgui.runs import disk, folder, queue
from cbgui.runs.folder import create_run
from cbgui.runs.process import hold
from cbgui.runs.run import TRAIN, Run


@pytest.fixture
def run(tmp_path, monkeypatch, short_config):
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    return create_run(tmp_path / "first", short_config)


def test_rename_and_duplicate_carry_the_data(run):
    moved = folder.rename(run, "second one")
    assert moved.name == "second one" and [r.name for r in folder.list_runs()] == ["second one"]
    copy = folder.duplicate(moved)
    assert copy.name == "second one-2" and copy.state() == "new"
    assert copy.examples("break") == moved.examples("break") != []
    assert copy.config().training == moved.config().training
    for name in ("second one-2", "", "///"):
        with pytest.raises(InputError, match="name of the run"):
            folder.rename(moved, name)


def test_what_was_suggested_is_not_held_out(tmp_path, short_config):
    """A one-word variant of a trained question would look like an unseen question that is blocked."""
    fruits = "apple pear plum cherry fig lemon lime mango peach grape melon kiwi papaya quince banana date".split()
    own = [sample_rows.example(f"How do I peel one ripe {fruit} by hand?", "break") for fruit in fruits]
    suggested = [sample_rows.example(f"How do I slice one ripe {fruit} by hand?", "break") for fruit in fruits]
    keep = [
        sample_rows.example(f"Who painted {fruit}s in the year 17{place}?", kind="retain")
        for place, fruit in enumerate(fruits)
    ]
    for name, rows in (("break", own), ("keep", keep + suggested)):
        write_examples(tmp_path / f"{name}.jsonl", rows)
    files = {"break_file": str(tmp_path / "break.jsonl"), "retain_file": str(tmp_path / "keep.jsonl")}
    short_config.data = DataConfig(**files, held_out_file=None)
    run = create_run(tmp_path / "run", short_config)
    asked, trained = ({e.prompt for e in run.examples(part)} for part in ("held_out", "break"))
    stopped = {prompt for prompt in asked if "peel" in prompt}
    assert stopped and not any("slice" in prompt for prompt in asked)
    assert not {prompt.replace("peel", "slice") for prompt in stopped} & trained
    assert {prompt.replace("peel", "slice") for prompt in trained if "peel" in prompt} <= trained


def test_a_deleted_run_comes_back_until_the_trash_is_emptied(run):
    place = folder.delete(run)
    assert folder.list_runs() == []
    assert folder.restore(place).name == "first" and folder.list_runs()[0].examples("break")
    place = folder.delete(folder.list_runs()[0])
    folder.empty_trash()
    with pytest.raises(InputError, match="no longer in the trash"):
        folder.restore(place)
    with pytest.raises(InputError):
        folder.restore(place.parent.parent)  # nothing outside the trash


@pytest.mark.parametrize("task", ["train", "evaluate", "export", "upload"])
def test_a_busy_run_is_neither_renamed_nor_deleted(task, run):
    for change in (folder.delete, lambda run: folder.rename(run, "other")):
        with hold(run.lock_file(task)), pytest.raises(InputError, match=f"is busy \\({task}\\)"):
            change(run)
    assert run.path.is_dir()


def test_a_run_works_wherever_its_folder_is_moved(run, tmp_path):
    moved = Run(tmp_path / "elsewhere")
    run.path.rename(moved.path)
    assert str(run.path) not in moved.config_file.read_text("utf-8")
    copy = folder.duplicate(moved)
    assert copy.examples("break") == moved.examples("break") != []
    again = load_config(str(moved.config_file))  # as `cbgui train .../run.yaml` reads it
    assert again.data.break_file == str(moved.data_file("break"))


def test_names_keep_their_letters(run):
    for name in ("Händler - Dosen", "名前", "Clinic_2 b"):
        assert folder.free_name(name) == name
    assert folder.free_name(" a/b:  c ") == "a-b- c"
    assert folder.rename(run, "Früh\u0061\u0308").name == "Frühä"  # as macOS writes it


def test_special_folders_are_not_taken_for_runs(run, tmp_path):
    (tmp_path / "_special").mkdir()
    (tmp_path / "_special" / "run.yaml").write_text("{}")
    assert [one.name for one in folder.list_runs()] == ["first"]
    assert folder.free_name("_trash") == "trash" and folder.free_name("__") == "run"


def test_a_second_app_does_not_empty_the_trash(run):
    place = folder.delete(run)
    code = "from cbgui.runs import folder; folder.claim(folder.root_folder()); print('ready', flush=True); input()"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    try:
        assert first.stdout.readline().strip() == b"ready"
        folder.empty_trash()  # this process is the second app
        assert place.is_dir()
    finally:
        first.communicate(b"\n")
    folder.empty_trash()
    assert not place.exists()


@pytest.mark.parametrize("name", ["_mine", "CON", "nul.txt", "com1", "ends.", "ends "])
def test_names_that_windows_or_the_app_keeps_are_no_runs(name, run, tmp_path, short_config):
    with pytest.raises(InputError, match="a run's name may not"):
        create_run(tmp_path / name, short_config)
    assert not (tmp_path / name).exists()
    assert folder.free_name(name) not in ("con", "CON", "com1")
    assert folder.rename(run, "CON").name == "CON-run"


def test_a_run_that_cannot_be_written_leaves_nothing(tmp_path, short_config, monkeypatch):
    def broken(path, examples):
        path.write_text("\ud800" if path.stem == "retain" else "{}", "utf-8")  # half a character

    with monkeypatch.context() as patch, pytest.raises(InputError, match="half a character"):
        patch.setattr(folder, "write_examples", broken)
        create_run(tmp_path / "run", short_config)
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()  # a folder that was there before stays
    with monkeypatch.context() as patch, pytest.raises(InputError, match="half a character"):
        patch.setattr(folder, "write_examples", broken)
        create_run(tmp_path / "mine", short_config)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match="File name too long"):
        create_run(tmp_path / ("a" * 300), short_config)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        create_run(tmp_path / "file" / "run", short_config)


def test_a_folder_that_another_process_has_open_is_renamed_later(run, monkeypatch):
    """As on Windows, where a virus scanner or a reader makes os.replace fail for a moment."""
    monkeypatch.setattr(disk, "OPEN_FILES_STAY", True)
    real, refused = os.replace, []

    def replace(source, target):
        if len(refused) < 2:
            refused.append(source)
            raise PermissionError(13, "The process cannot access the file", str(source))
        real(source, target)

    monkeypatch.setattr(disk.os, "replace", replace)
    place = folder.delete(run)
    assert len(refused) == 2 and not run.path.exists()
    refused.clear()
    assert folder.restore(place).examples("break")
    refused.clear()
    run.ask("pause")
    assert run.request() == "pause" and len(refused) == 2
    monkeypatch.setattr(disk, "RETRY_SECONDS", 0)
    refused.clear()
    with pytest.raises(PermissionError):
        run.ask("stop")
    assert run.request() == "pause" and not list(run.path.glob(f"*{disk.PART}"))


def test_a_run_that_cannot_start_leaves_the_queue_to_the_others(run, short_config, monkeypatch):
    other = create_run(run.path.with_name("other"), short_config)
    run.waiting_file.touch()
    os.utime(run.waiting_file, (0, 0))
    other.waiting_file.touch()
    started = []

    def start(one):
        if one == run:
            raise OSError(30, "Read-only file system")
        started.append(one)

    monkeypatch.setattr(Run, "start", start)
    with pytest.raises(OSError):
        queue.start_next(run.path.parent)
    queue.start_next(run.path.parent)
    assert started == [other]


def test_a_run_that_trains_or_waits_keeps_others_waiting(run):
    assert not queue.is_busy(run.path.parent)
    with hold(run.lock_file(TRAIN)):
        assert queue.is_busy(run.path.parent)
    run.waiting_file.write_text("")
    assert queue.is_busy(run.path.parent)
