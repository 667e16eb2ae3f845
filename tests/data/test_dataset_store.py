"""Editing a data set: rows and undo, named sets, the held-out split."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sample_rows import CLEAN_ROWS, DEMO_ROWS, SUBJECTS, example

from cbgui.data.dataset_store import DatasetStore
from cbgui.data.library import CHOSEN, Library
from cbgui.data.split import hold_out
from cbgui.errors import InputError
from cbgui.runs import folder
from cbgui.ui.pages import data as data_page
from cbgui.ui.panels import progress


@pytest.fixture
def data(tmp_path: Path) -> DatasetStore:
    return DatasetStore.make(tmp_path / "set")


def test_rows_are_added_edited_searched_removed_and_every_step_is_undone(data):
    data.add([example(f"question {i}") for i in range(60)], "import")
    data.add([example("an everyday one", kind="retain")], "typed")
    rows, total = data.page("break", offset=25, limit=25)
    assert total == 60 and [row.example.prompt for row in rows][:2] == ["question 25", "question 26"]
    data.edit(rows[0].id, prompt="about 100% of it", response="x", kind="break")
    assert [row.example.prompt for row in data.page("break", search="100%")[0]] == ["about 100% of it"]
    assert data.page("break", offset=25, limit=1)[0][0].example.prompt == "about 100% of it"  # position unchanged
    assert data.page("break", search="%")[1] == 1  # % is not a wildcard
    data.remove([data.page("retain")[0][0].id], "delete")
    assert data.counts()["retain"] == 0
    assert [data.undo() for _ in range(4)] == ["delete", "edit", "typed", "import"]
    assert data.counts()["break"] == 0 and data.undo() is None


def test_joined_steps_are_undone_together(data):
    data.add([example(f"question {i}", "") for i in range(4)], "import")
    ids = [row.id for row in data.rows()]

    def write(row):
        return replace(row, example=replace(row.example, response="written"))

    for part in (ids[:2], ids[2:]):
        data.update(part, write, "write answers", join=True)
    assert all(row.example.response == "written" for row in data.rows())
    assert data.undo() == "write answers"
    assert [row.example.response for row in data.rows()] == [""] * 4


def test_a_file_of_an_earlier_version_keeps_its_index(data):
    """The index over positions was called by_place."""

    def indexes() -> set[str]:
        return {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}

    data.add([example("question")], "import")
    with closing(sqlite3.connect(data.path)) as file:
        assert "by_position" in indexes()
        file.execute("DROP INDEX by_position")
        file.execute("CREATE INDEX by_place ON rows (removed, position)")
        data.add([example("another")], "import")
        assert "by_place" in indexes() and "by_position" not in indexes()
    assert [row.example.prompt for row in data.rows()] == ["question", "another"]


def test_a_bad_edit_is_refused(data):
    data.add([example("question")], "import")
    (row,) = data.rows()
    with pytest.raises(InputError, match="prompt is empty"):
        data.edit(row.id, prompt=" ", response="x", kind="break")
    with pytest.raises(InputError, match="kind 'odd' is unknown"):
        data.edit(row.id, prompt="x", response="x", kind="odd")


def test_an_export_is_read_back_unchanged(data, tmp_path):
    data.add(CLEAN_ROWS, "import")
    data.add([example("Held out?")], "import", held_out=True)
    folder = tmp_path / "exported"
    assert [path.name for path in data.export(folder)] == ["break.jsonl", "retain.jsonl", "held_out.jsonl"]
    assert sorted(path.name for path in folder.iterdir()) == ["break.jsonl", "held_out.jsonl", "retain.jsonl"]
    again = DatasetStore.make(tmp_path / "again")
    again.fill_from({path.stem: path for path in folder.iterdir()})
    assert again.counts() == data.counts() and again.last_step() is None


def test_the_split_keeps_similar_prompts_together(data):
    families = [f"tell me how the {s} was made long ago" for s in SUBJECTS[:40]]
    rows = [example(text + ending, f"answer {i}") for i, text in enumerate(families) for ending in ("", " please")]
    data.add(rows, "import")
    assert hold_out(data, share=0.2) > 0
    table = data.table()
    sides = {}
    for prompt, held_out in zip(table.prompt, table.held_out, strict=True):
        sides.setdefault(prompt.removesuffix(" please"), set()).add(held_out)
    assert all(len(side) == 1 for side in sides.values())
    assert data.undo() == "hold out" and data.counts()["held_out"] == 0


def test_a_named_set_is_created_duplicated_loaded_and_used(tmp_path):
    library = Library(tmp_path / "sets")
    assert library.names() == ["demo"] and library.current().counts()["break"] == DEMO_ROWS["break"]
    mine = library.create("mine")
    with pytest.raises(InputError, match="no must-stop rows"):
        library.for_training(mine)
    mine.add(CLEAN_ROWS, "import")
    mine.add([example("Unanswered?", " ", "retain")], "import")
    with pytest.raises(InputError, match="1 row without an answer"):
        library.for_training(mine)
    assert mine.counts()["held_out"] == 0  # nothing was changed
    mine.undo()
    files = library.for_training(mine)
    assert files.held_out_file and 0 < mine.counts()["held_out"] < 30  # held out by for_training
    copy = library.duplicate(mine, "copy")
    assert [row.example for row in copy.rows()] == [row.example for row in mine.rows()]
    loaded = library.load(mine.folder, "loaded")
    assert sorted(row.example.prompt for row in loaded.rows()) == sorted(row.example.prompt for row in mine.rows())
    assert Library(tmp_path / "sets").current().name == "loaded"  # the choice is on disk
    for name in ("mine", ""):
        with pytest.raises(InputError):
            library.create(name)
    with pytest.raises(InputError):
        library.open("../up")


def test_the_demo_is_made_once_even_if_several_threads_ask_for_it(tmp_path):
    at_once = threading.Barrier(4)

    def count_rows(_) -> int:
        at_once.wait()
        return len(Library(tmp_path / "sets").current().rows())

    with ThreadPoolExecutor(4) as pool:
        counts = set(pool.map(count_rows, range(4)))
    assert counts == {sum(DEMO_ROWS.values())}
    assert Library(tmp_path / "sets").names() == ["demo"]


def test_a_deleted_topic_comes_back_until_the_app_closes(tmp_path, monkeypatch):
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    library = Library(tmp_path / folder.DATASETS)
    data = library.create("clinic - doses")
    data.add([example("A question?")], "typed")
    library.delete(data)
    assert (library.names(), library.deleted()) == (["demo"], ["clinic - doses"])
    library.create("clinic - doses")
    back = library.restore()  # nothing is overwritten
    assert back.name == "clinic - doses-2" and [row.example.prompt for row in back.rows()] == ["A question?"]
    library.delete(back)
    folder.empty_trash()
    with pytest.raises(InputError, match="no topic was deleted"):
        library.restore()


def test_enough_is_held_out_of_a_small_topic_but_never_more_than_half(data):
    words = [f"{first}{second}" for first in SUBJECTS for second in ("ology", "ist", "ery", "wards")]
    data.add([example(f"{word} {word}s?") for word in words[:30]], "stop")
    data.add([example(f"about {word}?", kind="near_miss") for word in words[30:50]], "keep")
    assert hold_out(data, 0, least=(15, 30)) == 25
    assert (data.counts()["held_out_break"], data.counts()["held_out"]) == (15, 25)
    assert hold_out(data, 0, least=(15, 10)) == 0  # what is held out already counts
    table = data.table()
    assert not set(table.prompt[table.held_out == 1]) & set(table.prompt[table.held_out == 0])


def test_a_topic_remembers_its_model(data):
    assert data.model() == "demo"
    data.remember_model("owner/name")
    assert data.model() == "owner/name"


DAMAGES = {
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "junk": lambda path: path.write_bytes(bytes(range(256)) * 16),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:3000]),
    "words": lambda path: path.write_text("hello", "utf-8"),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_hides_one_topic_alone(damage, tmp_path, monkeypatch):
    """Also when it is the topic that was chosen last, which every page opens."""
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    library = Library(tmp_path / folder.DATASETS)
    whole, hurt = library.create("whole"), library.create("hurt")
    for data in (whole, hurt):
        data.add([example("A question?")], "typed")
    DAMAGES[damage](hurt.path)
    (library.folder / CHOSEN).write_text("hurt", "utf-8")
    assert library.names() == ["demo", "hurt", "whole"] and library.readable() == ["demo", "whole"]
    assert library.current().name == "demo"
    assert [data.name for data in progress.own_topics()] == ["whole"]
    names, *_ = data_page._refresh(None, "break", "", "any", "any", 1)
    assert names.value == "demo" and "hurt" in dict(names.choices)
    with pytest.raises(InputError, match="topic 'hurt': its file .* cannot be read .* delete its folder"):
        library.choose("hurt")
    assert library.choose("whole").rows() and progress.labels(whole, None)[1] == "1 Topic !"


def test_a_topic_without_bytes_is_an_empty_one(data, tmp_path):
    data.path.write_bytes(b"")
    assert data.version() == ("set", 0, 0) and data.rows() == []


def test_a_topic_whose_folder_is_gone_is_not_made_again_empty(tmp_path):
    """A page that still showed it would else leave a demo without rows for all pages after it."""
    library = Library(tmp_path)
    shown = library.current()
    shutil.rmtree(tmp_path)
    with pytest.raises(InputError, match="does not exist any more"):
        shown.counts()
    assert not tmp_path.exists()
    assert library.current().counts()["break"]
