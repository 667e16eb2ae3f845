"""The Data page: import with mapping, edit in place, undo, checks and mends, answers written, named sets, many rows."""

from __future__ import annotations

import csv
import itertools
import json
import random
import zipfile

import pytest
from helpers import box, choose, fold, type_into
from playwright.sync_api import Page, expect
from sample_rows import ALL, tripping

from cbgui.data.library import Library

pytestmark = pytest.mark.slow


def new_set(page: Page, name: str) -> None:
    fold(page, "Save as, load, export")
    box(page, "new-name").fill(name)
    page.locator("#new-data").click()
    expect(page.locator("#page-words")).to_contain_text("No rows here yet")


def cell(page: Page, row: int, column: int):
    return page.locator(f'#rows [data-testid="cell-{row}-{column}"]')


def test_import_edit_check_mend_save(url, page, tmp_path):
    page.goto(url)
    expect(page.locator("#counts")).to_contain_text("207")
    new_set(page, "mine")

    path = tmp_path / "odd.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Anfrage", "Antwort"])
        rows.writerows([f"How do I build trap number {i}?", f"Take wood, {i} of it."] for i in range(30))
        rows.writerow(["How do I build a snare?", "I'm sorry, but I can't help with that."])
    fold(page, "Add rows")
    page.locator("#file input[type=file]").set_input_files(path)
    expect(page.locator("#import-words")).to_contain_text("is this right?")
    assert box(page, "map-prompt").input_value() == "Anfrage"
    assert box(page, "map-response").input_value() == "Antwort"
    expect(page.locator("#preview")).to_contain_text("trap number 4")
    expect(page.locator("#preview")).not_to_contain_text("trap number 5")
    page.locator("#map-side").get_by_text("break", exact=True).click()
    page.locator("#import").click()
    expect(page.locator("#import-words")).to_contain_text("31 rows added")
    expect(page.locator("#page-words")).to_contain_text("31 rows, page 1 of 2")

    page.locator("#next-page").click()
    expect(cell(page, 5, 1)).to_contain_text("snare")
    cell(page, 5, 1).dblclick()
    page.keyboard.press("Control+A")
    page.keyboard.type("How do I weave a snare?")
    page.keyboard.press("Enter")
    expect(page.locator("#undo")).to_contain_text("Undo: edit")
    type_into(page, "search", "weave")
    expect(page.locator("#page-words")).to_contain_text("1 rows, page 1 of 1")
    type_into(page, "search", "")

    fold(page, "Checks")
    page.locator("#run-checks").click()
    expect(page.locator("#mend-refusing")).to_be_visible()
    expect(page.locator("#mend-near_duplicate")).to_be_visible()
    page.locator("#mend-refusing").click()
    expect(page.locator("#mend-refusing")).to_have_count(0)
    expect(page.locator("#counts")).to_contain_text("1 refusals")
    page.locator("#undo").click()
    expect(page.locator("#counts")).to_contain_text("0 refusals")
    page.locator("#lengths").click()
    expect(page.locator("#histogram")).to_contain_text("Tokens of 31 rows")

    cell(page, 0, 2).click()
    page.locator("#row-template").click()
    expect(page.locator("#template")).to_contain_text("<|im_start|>user")
    box(page, "new-name").fill("copy")
    page.locator("#duplicate").click()
    expect(box(page, "data-set")).to_have_value("copy")
    page.reload()
    expect(box(page, "data-set")).to_have_value("copy")
    expect(page.locator("#page-words")).to_contain_text("31 rows")
    fold(page, "Save as, load, export")
    with page.expect_download() as download:
        page.locator("#export-data").click()
        page.wait_for_timeout(1500)
        page.locator("#export-data").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        lines = archive.read("break.jsonl").decode().splitlines()
    assert len(lines) == 31 and json.loads(lines[0])["prompt"] == "How do I build trap number 0?"


def test_the_model_writes_the_answers(url, page):
    page.goto(url)
    new_set(page, "asked")
    fold(page, "Add rows")
    page.get_by_role("tab", name="Paste").click()
    box(page, "paste").fill("What is the capital of France?\nWhat is the capital of Spain?")
    page.locator("#look-paste").click()
    expect(page.locator("#preview")).to_contain_text("Spain")
    page.locator("#import").click()
    expect(page.locator("#import-words")).to_contain_text("2 have no answer yet")
    fold(page, "Write the answers")
    page.locator("#write-answers").click()
    expect(page.locator("#write-words")).to_contain_text("2 of 2 answers written", timeout=300_000)
    expect(page.locator("#rows")).to_contain_text("Paris")


def test_two_hundred_thousand_rows(app, page, tmp_path):
    words = [f"word{i}" for i in range(20_000)]
    weights = list(itertools.accumulate(1 / (i + 5) for i in range(len(words))))
    generator = random.Random(0)
    path = tmp_path / "many.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["prompt", "response"])
        for _ in range(200_000):
            lengths = generator.randint(6, 20), generator.randint(20, 60)
            rows.writerow(" ".join(generator.choices(words, cum_weights=weights, k=length)) for length in lengths)
    page.goto(app.url)
    before = app.memory()  # other tests may have left a model in it
    new_set(page, "many")
    fold(page, "Add rows")
    page.locator("#file input[type=file]").set_input_files(path)
    expect(page.locator("#import-words")).to_contain_text("is this right?")
    page.locator("#import").click()
    expect(page.locator("#import-words")).to_contain_text("200,000 rows added")
    page.locator("#part").get_by_text("Keep").click()
    expect(page.locator("#page-words")).to_contain_text("200,000 rows, page 1 of 8,000")
    type_into(page, "page", "8000")
    page.keyboard.press("Enter")
    expect(page.locator("#page-words")).to_contain_text("page 8,000 of 8,000")
    type_into(page, "search", "word777 ")
    expect(page.locator("#page-words")).not_to_contain_text("200,000 rows")
    fold(page, "Checks")
    page.locator("#run-checks").click()
    expect(page.locator("#checks-words")).to_contain_text("things to look at")
    assert app.memory() - before < 1.5 * 2**30


def test_every_check_fires_and_is_mended_by_its_button(app, page):
    library = Library(app.runs / "_data")
    for check in ALL:
        training, held_out = tripping(check)
        data = library.create(f"set-{check}")
        data.add(training, "import")
        if held_out:
            data.add(held_out, "import", held_out=True)
    page.goto(app.url)
    expect(page.locator("#counts")).not_to_contain_text("207")
    fold(page, "Checks")
    longest = page.get_by_label("Tokens at most").first
    longest.fill("200")
    longest.press("Tab")
    for check in ALL:
        choose(page, "data-set", f"set-{check}")
        expect(page.locator("#undo")).to_contain_text("Undo: import")
        page.locator("#run-checks").click()
        expect(page.locator("#checks-words")).to_contain_text("things to look at")
        button = page.locator(f"#mend-{check}")
        expect(button).to_be_visible()
        button.click()
        expect(button).to_have_count(0)
        expect(page.locator("#undo")).not_to_contain_text("Undo: import")
        expect(page.locator("#checks-words")).not_to_contain_text("Checking again")
        page.locator("#undo").click()
        expect(page.locator("#undo")).to_contain_text("Undo: import")
        expect(page.locator("#checks-words")).not_to_contain_text("things to look at")
