"""Renaming, duplicating, deleting and restoring runs."""

from __future__ import annotations

import pytest

from cbgui.errors import InputError
from cbgui.runs import folder
from cbgui.runs.folder import create_run


@pytest.fixture
def run(tmp_path, monkeypatch, short_config):
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    return create_run(tmp_path / "first", short_config)


def test_rename_and_duplicate_carry_the_data(run):
    moved = folder.rename(run, "second one")
    assert moved.name == "second-one" and [r.name for r in folder.list_runs()] == ["second-one"]
    copy = folder.duplicate(moved)
    assert copy.name == "second-one-2" and copy.state() == "new"
    assert copy.examples("break") == moved.examples("break") != []
    assert copy.config().training == moved.config().training
    for name in ("second-one-2", "", "///"):
        with pytest.raises(InputError, match="name of the run"):
            folder.rename(moved, name)


def test_a_deleted_run_comes_back_until_the_trash_is_emptied(run):
    place = folder.delete(run)
    assert folder.list_runs() == []
    assert folder.restore(place).name == "first" and folder.list_runs()[0].examples("break")
    place = folder.delete(folder.list_runs()[0])
    folder.empty_trash()
    with pytest.raises(InputError, match="nothing to bring back"):
        folder.restore(place)
    with pytest.raises(InputError):
        folder.restore(place.parent.parent)  # nothing outside the trash
