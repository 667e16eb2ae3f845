"""The Topic page: import with mapping, edit in place, undo, checks and fixes, written answers, topics, many rows."""

from __future__ import annotations

import csv
import itertools
import json
import random
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from helpers import LONG, box, choose, edit_cell, fold, new_page, open_app, open_tab, open_topic, type_into
from playwright.sync_api import Page, expect
from sample_rows import DEMO_ROWS, example, rows_with_fault

from cbgui.config import PRESETS
from cbgui.data.library import Library
from cbgui.data.reading import read_examples
from cbgui.runs.folder import DATASETS

pytestmark = pytest.mark.slow
# One that names rows, one that reads the field on the page, one about the whole; tests/data/test_checks.py has all.
CHECKS = ("duplicate", "too_long", "no_held_out")
THINGS_TO_LOOK_AT = re.compile("things? to look at")


def new_topic(page: Page, name: str) -> None:
    fold(page, "Save as, load, export")
    box(page, "new-name").fill(name)
    page.locator("#new-topic").click()
    expect(page.locator("#page-words")).to_contain_text("No rows here yet")


def cell(page: Page, row: int, column: int):
    return page.locator(f'#rows [data-testid="cell-{row}-{column}"]')


def write_csv(path: Path, rows: Iterable[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def open_part(page: Page, name: str) -> None:
    page.locator("#part").get_by_role("tab", name=name).click()


def look_at_file(page: Page, path: Path, part: str = "break") -> None:
    """Drop a file in the open part and wait for its preview."""
    page.locator(f"#file-{part} input[type=file]").set_input_files(path)
    expect(page.locator("#import-words")).to_contain_text("is this right?")


def choose_side(page: Page, words: str) -> None:
    page.locator("#map-side").get_by_text(words, exact=True).click()


def test_import_edit_check_fix_and_save(url, page, tmp_path):
    open_app(page, url)
    new_topic(page, "mine")

    rows = [["Anfrage", "Antwort"]]
    rows += [[f"How do I build trap number {i}?", f"Take wood, {i} of it."] for i in range(30)]
    rows += [["How do I build a snare?", "I'm sorry, but I can't help with that."]]
    look_at_file(page, write_csv(tmp_path / "odd.csv", rows))
    expect(box(page, "map-prompt")).to_have_value("Anfrage")
    expect(box(page, "map-response")).to_have_value("Antwort")
    expect(page.locator("#preview")).to_contain_text("trap number 4")
    expect(page.locator("#preview")).not_to_contain_text("trap number 5")
    expect(page.locator("#map-side").get_by_label("Must not be answered")).to_be_checked()  # as the tab says
    expect(page.locator("#preview")).to_contain_text("must stop")
    choose_side(page, "Must be answered")
    expect(page.locator("#preview")).to_contain_text("everyday")
    page.locator("#map-kept").get_by_text("look-alike", exact=True).click()
    expect(page.locator("#preview")).to_contain_text("look-alike")
    choose_side(page, "Must not be answered")
    expect(page.locator("#preview")).to_contain_text("must stop")
    expect(page.locator("#map-kept")).to_be_hidden()
    page.locator("#import").click()
    expect(page.locator("#import-words")).to_contain_text("31 added to Must stop of mine")
    expect(page.locator("#page-words")).to_contain_text("31 rows, page 1 of 2")

    page.locator("#next-page").click()
    expect(cell(page, 5, 1)).to_contain_text("snare")
    edit_cell(cell(page, 5, 1), "How do I weave a snare?")
    expect(page.locator("#undo")).to_contain_text("Undo: edit")
    type_into(page, "search", "weave")
    expect(page.locator("#page-words")).to_contain_text("1 row, page 1 of 1")
    type_into(page, "search", "")
    expect(page.locator("#page-words")).to_contain_text("31 rows, page 1 of 2")

    fold(page, "Checks")
    page.locator("#run-checks").click()
    expect(page.locator("#fix-refusing")).to_be_visible()
    expect(page.locator("#fix-near_duplicate")).to_be_visible()
    page.locator("#fix-refusing").click()
    expect(page.locator("#fix-refusing")).to_have_count(0)
    expect(page.locator("#counts")).to_contain_text("refusals: 1")
    page.locator("#undo").click()
    expect(page.locator("#counts")).to_contain_text("refusals: 0")
    page.locator("#lengths").click()
    expect(page.locator("#histogram")).to_contain_text("Tokens of 31 rows")

    box(page, "new-name").fill("copy")
    page.locator("#duplicate").click()
    expect(box(page, "topic")).to_have_value("copy")
    page.reload()
    open_tab(page, "1 Topic")
    expect(box(page, "topic")).to_have_value("copy")
    expect(page.locator("#page-words")).to_contain_text("31 rows")
    fold(page, "Save as, load, export")
    with page.expect_download() as download:
        page.locator("#export-data").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        lines = archive.read("break.jsonl").decode().splitlines()
    assert len(lines) == 31 and json.loads(lines[0])["prompt"] == "How do I build trap number 0?"


def test_each_tab_changes_the_topic_that_it_shows(app, page):
    """Though another tab has chosen another topic since; and a long text stays whole when a cell is edited."""
    library = Library(app.runs / DATASETS)
    long = "word " * 94 + "end."
    first, second = library.create("first"), library.create("second")
    for data in (first, second):
        data.add([example(f"Question {i} of {data.name}?", long) for i in range(3)], "made")
    library.choose("first")
    open_topic(page, app.url)
    expect(cell(page, 0, 1)).to_contain_text("of first")
    other = new_page(page.context.browser)
    open_topic(other, app.url)
    choose(other, "topic", "second")
    expect(cell(other, 0, 1)).to_contain_text("of second")

    edit_cell(cell(page, 1, 2), " More.", "End")
    expect(page.locator("#undo")).to_contain_text("Undo: edit")
    assert [row.example.response for row in first.rows()] == [long, f"{long} More.", long]
    cell(page, 2, 1).click()
    expect(page.locator("#row-words")).to_contain_text("Row 3,")
    page.locator("#row-delete").click()
    expect(page.locator("#page-words")).to_contain_text("2 rows")
    assert (len(first.rows()), len(second.rows())) == (2, 3)
    cell(page, 0, 1).click()
    expect(page.locator("#row-words")).to_contain_text("Row 1,")
    choose(page, "topic", "second")  # the editor must not save row 1 of the first topic there
    expect(page.locator("#row-save")).to_be_hidden()
    other.close()


def test_nothing_is_added_from_a_file_that_was_taken_away(url, page, tmp_path):
    open_app(page, url)
    look_at_file(page, write_csv(tmp_path / "good.csv", [["prompt", "response"], ["How?", "So."]]))
    expect(page.locator("#import")).to_be_visible()
    page.locator("#file-break").get_by_label("Clear").click()
    expect(page.locator("#import")).to_be_hidden()
    page.locator("#file-break input[type=file]").set_input_files(tmp_path / "good.csv")
    expect(page.locator("#import")).to_be_visible()
    page.locator("#file-break").get_by_label("Clear").click()
    (tmp_path / "bad.csv").write_text('prompt,response\nHow?,"So.\n', "utf-8")
    page.locator("#file-break input[type=file]").set_input_files(tmp_path / "bad.csv")
    expect(page.locator("#import-words")).to_contain_text("a quotation mark is never closed")
    expect(page.locator("#import")).to_be_hidden()


def test_each_part_takes_its_own_rows(app, page, tmp_path):
    data = Library(app.runs / DATASETS).create("clinic")
    open_topic(page, app.url)
    expect(page.locator("#page-words")).to_contain_text("No rows here yet")
    look_at_file(page, write_csv(tmp_path / "stop.csv", [["question"], *([f"Dose {i}?"] for i in range(9))]))
    page.locator("#import").click()
    expect(page.locator("#import-words")).to_contain_text("9 added to Must stop of clinic")
    expect(page.locator("#file-break")).not_to_contain_text("stop.csv")

    open_part(page, "Look-alikes")
    expect(page.locator("#page-words")).to_contain_text("No rows here yet")
    box(page, "paste-near_miss").fill("Who invented the tablet?\nWhat is a dose in physics?")
    page.locator("#look-near_miss").click()
    expect(page.locator("#preview")).to_contain_text("look-alike")
    page.locator("#import").click()
    expect(page.locator("#import-words")).to_contain_text("2 added to Look-alikes of clinic")
    expect(page.locator("#page-words")).to_contain_text("2 rows")
    page.locator("#more-near_miss").click()
    expect(page.locator("#suggest-words")).to_contain_text("for clinic (look-alikes: ")
    expect(page.locator("#suggest-words")).not_to_contain_text("everyday")

    open_part(page, "Must keep")
    expect(page.locator("#page-words")).to_contain_text("No rows here yet")
    page.locator("#more-retain").click()
    expect(page.locator("#suggest-words")).to_contain_text("for clinic (everyday questions: 50)")
    page.locator("#add-suggestions").click()
    expect(page.locator("#page-words")).to_contain_text("50 rows")

    open_part(page, "Test questions")
    box(page, "paste-held_out").fill("Dose 10?")
    page.locator("#look-held_out").click()
    expect(page.locator("#hold-all-out input")).to_be_checked()
    page.locator("#import").click()  # on which side it is is not guessed
    expect(page.get_by_text("say whether these questions")).to_be_visible()
    choose_side(page, "Must not be answered")
    page.locator("#import").click()
    expect(page.locator("#import-words")).to_contain_text("1 added to Test questions of clinic")
    expect(page.locator("#page-words")).to_contain_text("1 row,")
    page.locator("#more-held_out").click()
    expect(page.locator("#undo")).to_have_text("Undo: hold out")
    kinds = [row.example.kind for row in data.rows()]
    assert (kinds.count("break"), kinds.count("near_miss"), kinds.count("retain")) == (10, 2, 50)


def test_the_model_writes_more_questions_of_the_topic(app, page):
    data = Library(app.runs / DATASETS).create("potions")
    rows = [e for kind in ("break", "retain") for e in read_examples(PRESETS / "demo" / f"{kind}.jsonl", kind)[:40]]
    data.add(rows, "made")
    open_topic(page, app.url)
    page.locator("#more-break").click()
    expect(page.locator("#suggest-words")).to_contain_text("The model wrote", timeout=LONG)
    expect(page.locator("#suggestions")).to_contain_text("in your topic")
    page.locator("#add-suggestions").click()
    expect(page.locator("#suggest-words")).to_contain_text("added to potions (must-stop questions:")
    added = [row.example for row in data.rows()][len(rows) :]
    assert any(one.kind == "break" for one in added) and not any(one.response for one in added)


def test_one_click_saves_the_row_in_the_editor(url, page):
    open_app(page, url)
    for row in range(3):
        cell(page, row, 2).click()
        expect(page.locator("#row-words")).to_contain_text(f"Row {row + 1},")
        page.locator("#row-template").click()
        expect(page.locator("#template")).to_contain_text("<|im_start|>user")
        type_into(page, "row-prompt", f"Question number {row}?")
        page.locator("#row-save").click()
        expect(cell(page, row, 1)).to_contain_text(f"Question number {row}?")
        expect(page.locator("#row-save")).to_be_hidden()
    expect(page.locator("#undo")).to_contain_text("Undo: edit")


def test_the_model_writes_the_answers(url, page):
    open_topic(page, url)
    new_topic(page, "asked")
    open_part(page, "Must keep")
    box(page, "paste-retain").fill("What is the capital of France?\nWhat is the capital of Spain?")
    page.locator("#look-retain").click()
    expect(page.locator("#preview")).to_contain_text("Spain")
    page.locator("#import").click()
    expect(page.locator("#import-words")).to_contain_text("2 added to Must keep of asked")
    expect(page.locator("#import-words")).to_contain_text("2 have no answer yet")
    page.locator("#import-write").click()
    expect(page.locator("#import-written")).to_contain_text("2 of 2 answers finished", timeout=LONG)
    expect(page.locator("#rows")).to_contain_text("Paris")  # the table shows where they went
    fold(page, "Write the answers")
    page.locator("#write-answers").click()
    expect(page.get_by_text("there are no such rows")).to_be_visible()


def many_rows(count: int) -> Iterable[list[str]]:
    words = [f"word{i}" for i in range(20_000)]
    weights = list(itertools.accumulate(1 / (i + 5) for i in range(len(words))))
    generator = random.Random(0)
    yield ["prompt", "response"]
    for _ in range(count):
        lengths = generator.randint(6, 20), generator.randint(20, 60)
        yield [" ".join(generator.choices(words, cum_weights=weights, k=length)) for length in lengths]


def test_two_hundred_thousand_rows(app, page, tmp_path):
    path = write_csv(tmp_path / "many.csv", many_rows(200_000))
    open_topic(page, app.url)
    before = app.memory()  # with whatever other tests left in it
    new_topic(page, "many")
    look_at_file(page, path)
    choose_side(page, "Must be answered")
    page.locator("#import").click()
    expect(page.locator("#import-words")).to_contain_text("200,000 added to Must keep", timeout=LONG)
    expect(page.locator("#page-words")).to_contain_text("200,000 rows, page 1 of 8,000")
    type_into(page, "page", "8000")
    page.keyboard.press("Enter")
    expect(page.locator("#page-words")).to_contain_text("page 8,000 of 8,000")
    type_into(page, "search", "word777 ")
    expect(page.locator("#page-words")).not_to_contain_text("200,000 rows")
    fold(page, "Checks")
    page.locator("#run-checks").click()
    expect(page.locator("#checks-words")).to_contain_text(THINGS_TO_LOOK_AT, timeout=LONG)
    assert app.memory() - before < 1.5 * 2**30


def test_a_check_finds_its_fault_and_its_button_fixes_it(app, page):
    library = Library(app.runs / DATASETS)
    for check in CHECKS:
        training, held_out = rows_with_fault(check)
        data = library.create(f"set-{check}")
        data.add(training, f"import {check}")
        if held_out:
            data.add(held_out, f"import {check}", held_out=True)
    open_topic(page, app.url)
    expect(page.locator("#counts")).not_to_contain_text(str(DEMO_ROWS["break"]))
    fold(page, "Checks")
    undo, words, longest = page.locator("#undo"), page.locator("#checks-words"), box(page, "check-tokens")
    for check in CHECKS:
        choose(page, "topic", f"set-{check}")
        expect(undo).to_have_text(f"Undo: import {check}")  # tells that this topic is open, not the one before
        longest.fill("200")  # not before: a fold that has just opened gives its fields their values once more
        longest.press("Tab")
        page.locator("#run-checks").click()
        expect(words).to_contain_text(THINGS_TO_LOOK_AT)
        button = page.locator(f"#fix-{check}")
        expect(button).to_be_visible()
        button.click()
        expect(button).to_have_count(0)
        expect(undo).not_to_contain_text("Undo: import")
        expect(words).not_to_contain_text("Checking again")
        undo.click()
        expect(undo).to_have_text(f"Undo: import {check}")
        expect(words).not_to_contain_text(THINGS_TO_LOOK_AT)
