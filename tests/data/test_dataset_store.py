"""The data set that is edited: rows, undo, sources with their mapping, checks with their mends, the held-out split."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sample_rows import ALL, BASE, SUBJECTS, example, save_rows, tripping

from cbgui.data import checks, files, sources
from cbgui.data.columns import Mapping, guess_mapping, to_examples
from cbgui.data.dataset_store import DatasetStore
from cbgui.data.library import Library
from cbgui.data.near_duplicates import near_pairs
from cbgui.data.split import hold_out
from cbgui.errors import InputError


@pytest.fixture
def data(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "set")


def test_rows_are_added_edited_searched_removed_and_each_is_undone(data):
    data.add([example(f"request {i}") for i in range(60)], "import")
    data.add([example("an ordinary one", kind="retain")], "typed")
    rows, total = data.page("break", offset=25, limit=25)
    assert total == 60 and [row.example.prompt for row in rows][:2] == ["request 25", "request 26"]
    chosen = rows[0].id
    data.edit(chosen, prompt="about 100% of it", response="x", kind="break")
    assert [row.example.prompt for row in data.page("break", search="100%")[0]] == ["about 100% of it"]
    assert data.page("break", offset=25, limit=1)[0][0].example.prompt == "about 100% of it"  # in its place
    assert data.page("break", search="%")[1] == 1  # no wildcard
    data.remove([data.page("keep")[0][0].id], "delete")
    assert data.counts()["keep"] == 0
    assert [data.undo() for _ in range(4)] == ["delete", "edit", "typed", "import"]
    assert data.counts()["break"] == 0 and data.undo() is None


def test_steps_that_go_on_are_undone_together(data):
    data.add([example(f"request {i}", "") for i in range(4)], "import")
    ids = [row.id for row in data.rows()]
    from dataclasses import replace

    for part in (ids[:2], ids[2:]):
        data.update(
            part, lambda r: replace(r, example=replace(r.example, response="written")), "write answers", join=True
        )
    assert all(row.example.response == "written" for row in data.rows())
    assert data.undo() == "write answers"
    assert [row.example.response for row in data.rows()] == [""] * 4


def test_a_bad_edit_is_one_sentence(data):
    data.add([example("request")], "import")
    (row,) = data.rows()
    with pytest.raises(InputError, match="prompt is empty"):
        data.edit(row.id, prompt=" ", response="x", kind="break")
    with pytest.raises(InputError, match="kind 'odd' is unknown"):
        data.edit(row.id, prompt="x", response="x", kind="odd")


ROWS = [{"Goal": f"build the {s}", "target": f"First, the {s}.", "n": i} for i, s in enumerate(SUBJECTS[:8])]


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_every_file_form_gives_the_same_rows(suffix, tmp_path):
    path = tmp_path / f"rows{suffix}"
    save_rows(path, ROWS)
    rows = list(files.read_rows(path))
    mapping = guess_mapping(rows)
    assert (mapping.prompt, mapping.response) == ("Goal", "target")
    found, _ = to_examples(rows, mapping, "break", path.name)
    assert [(e.prompt, e.response) for e in found] == [(row["Goal"], row["target"]) for row in ROWS]


def test_the_guess_takes_public_forms():
    alpaca = [{"instruction": "Add", "input": "1 and 2", "output": "It is 3."}]
    mapping = guess_mapping(alpaca)
    assert to_examples(alpaca, mapping, "retain", "x")[0][0].prompt == "Add\n\n1 and 2"
    turns = [{"from": "human", "value": "Hello there"}, {"from": "gpt", "value": "Good day."}]
    chat = [{"id": 7, "conversations": [*turns, {"from": "human", "value": "and?"}]}]
    (found,) = to_examples(chat, guess_mapping(chat), "retain", "x")[0]
    assert (found.messages, found.response) == ((("user", "Hello there"),), "Good day.")
    unnamed = [{"frage": "What is it like?", "zahl": 3, "antwort": "It is like this."}]
    assert guess_mapping(unnamed) == Mapping("frage", "antwort")


BAD_FILES = {
    "a.txt": (b"x", "ending is not known"),
    "a.jsonl": (b'{"prompt": "x"}\n{"prompt": ', "line 2: not JSON"),
    "b.jsonl": (b"[1]\n", "line 1: expected an object"),
    "a.json": (b'["x"]', "entry 1: expected an object"),
    "a.csv": ("é".encode("latin-1") * 5, "not UTF-8"),
    "a.parquet": (b"PAR1 and then nothing", "not a Parquet file"),
    "missing.csv": (None, "does not exist"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_sentence(name, tmp_path):
    content, words = BAD_FILES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        list(files.read_rows(tmp_path / name))
    assert "\n" not in str(error.value)


def test_pasted_text_in_its_three_forms():
    assert sources.paste_rows("one request\n\nanother\n") == [{"prompt": "one request"}, {"prompt": "another"}]
    assert sources.paste_rows('{"prompt": "x"}') == [{"prompt": "x"}]
    assert sources.paste_rows("prompt,response\nx,y") == [{"prompt": "x", "response": "y"}]
    with pytest.raises(InputError, match="empty"):
        sources.paste_rows(" ")


def test_a_dataset_name_is_checked_before_the_hub_is_asked():
    with pytest.raises(InputError, match="owner/name"):
        next(sources.hub_rows("../etc/passwd/x"))


def test_near_pairs_are_found_and_others_are_not():
    texts = [f"how does one paint {s} in a quiet corner of the garden" for s in SUBJECTS]
    texts += ["how does one paint red lamps in a quiet corner of the garden please", "something else"]
    pairs = near_pairs(texts, 0.9).tolist()
    assert [0, len(SUBJECTS)] in pairs
    assert all(len(SUBJECTS) + 1 not in pair for pair in pairs)


def findings(data: DatasetStore) -> dict[str, checks.Finding]:
    return {finding.check: finding for finding in checks.run_checks(data, max_tokens=200)}


def test_a_clean_set_has_no_findings(data):
    data.add(BASE, "import")
    data.add([example("What is a held-out request?", "This.", "retain")], "import", held_out=True)
    assert findings(data) == {}


@pytest.mark.parametrize("check", ALL)
def test_every_check_fires_and_its_mend_works(check, data):
    training, held_out = tripping(check)
    data.add(training, "import")
    if held_out or check != "no_held_out":
        held_out = held_out or [example("What is a held-out request?", "This.", "retain")]
        data.add(held_out, "import", held_out=True)
    before = [(row.example, row.held_out) for row in data.rows()]
    found = findings(data)
    assert set(found) == {check}, {name: finding.title for name, finding in found.items()}
    if found[check].ids:
        assert data.page(check=check)[1] == len(found[check].ids)
    assert found[check].mend
    checks.mend(data, found[check], max_tokens=200)
    assert check not in findings(data)
    data.undo()
    assert [(row.example, row.held_out) for row in data.rows()] == before


def test_a_long_request_is_cut_as_training_cuts_it(data):
    data.add([example("a" * 700 + "b" * 700, "word " * 200)], "import")
    checks.mend(data, findings(data)["too_long"], max_tokens=200)
    (row,) = data.rows()
    prompt, response = row.example.prompt, row.example.response
    assert len(prompt) + len(response) == 800 and 190 < len(response) <= 200
    assert abs(prompt.count("a") - prompt.count("b")) <= 1  # its middle is gone


def test_the_split_keeps_similar_requests_together(data):
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


def test_a_named_set_is_saved_duplicated_loaded_and_used(tmp_path):
    library = Library(tmp_path / "sets")
    assert library.names() == ["demo"] and library.current().counts()["break"] == 207
    mine = library.create("mine")
    with pytest.raises(InputError, match="no Break rows"):
        library.for_training(mine)
    mine.add(BASE, "import")
    files = library.for_training(mine)
    assert files.held_out_file and 0 < mine.counts()["held_out"] < 30  # made for the user
    copy = library.duplicate(mine, "copy")
    assert [row.example for row in copy.rows()] == [row.example for row in mine.rows()]
    loaded = library.load(mine.folder, "loaded")
    assert sorted(row.example.prompt for row in loaded.rows()) == sorted(row.example.prompt for row in mine.rows())
    assert Library(tmp_path / "sets").current().name == "loaded"  # on disk, not in memory
    for name in ("mine", "", "../up"):
        with pytest.raises(InputError):
            library.create(name) if name != "../up" else library.open(name)


def test_the_demo_is_made_once_when_all_parts_of_a_page_ask_for_it(tmp_path):
    at_once = threading.Barrier(4)

    def rows(_) -> int:
        at_once.wait()
        return len(list(Library(tmp_path / "sets").current().rows()))

    with ThreadPoolExecutor(4) as pool:
        counts = set(pool.map(rows, range(4)))
    assert counts == {207 + 388 + 120}
    assert Library(tmp_path / "sets").names() == ["demo"]
