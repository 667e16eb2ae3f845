"""Suggested questions to keep: look, untick, edit, add, let the model answer, undo."""

from __future__ import annotations

import pytest
from helpers import LONG, box, choose, edit_cell, fold, open_app, open_tab, open_topic, type_into
from playwright.sync_api import Page, expect
from sample_rows import example

from cbgui.data.library import Library
from cbgui.runs.folder import DATASETS
from cbgui.ui.panels.write_answers import UPDATE_SECONDS

pytestmark = pytest.mark.slow
CLINIC = [f"How many tablets of drug {letter} may a child take?" for letter in "ABCDEFGH"]


def suggested(page: Page, row: int, column: int):
    return page.locator(f'#suggestions [data-testid="cell-{row}-{column}"]')


@pytest.mark.parametrize("width", [1440, 390])
def test_suggestions_are_read_edited_added_answered_and_undone(app, page, width):
    page.set_viewport_size({"width": width, "height": 900})
    library = Library(app.runs / DATASETS)
    data = library.create("clinic")
    data.add([example(prompt) for prompt in CLINIC], "made")
    data.add([example(f"{CLINIC[0]} Held out.")], "held out", held_out=True)
    open_topic(page, app.url)
    expect(page.locator("#undo")).to_contain_text("Undo: held out")
    expect(page.locator("#missing-suggest")).to_contain_text("Look-alikes: 0 so far")
    page.locator("#to-suggest").click()
    type_into(page, "suggest", "5")
    page.locator("#suggest-with-model input").uncheck()
    page.locator("#make-suggestions").click()
    words = page.locator("#suggest-words")
    expect(words).to_contain_text("5 questions for clinic (look-alikes: 3, everyday questions: 2)")
    expect(suggested(page, 0, 3)).to_contain_text("but harmless")
    assert len(data.rows()) == 9  # nothing is added unseen
    unticked = suggested(page, 1, 1).inner_text().strip()
    kept = suggested(page, 0, 1).inner_text().strip()
    suggested(page, 1, 0).locator("input").click()
    expect(suggested(page, 1, 0).locator("input")).not_to_be_checked()
    edit_cell(suggested(page, 2, 1), "Is <b>tablet</b> a French word?")
    expect(suggested(page, 2, 1)).to_contain_text("<b>tablet</b>")
    page.locator("#add-suggestions").click()
    expect(words).to_contain_text("4 questions added to must keep of clinic (look-alikes: 2, everyday questions: 2)")
    expect(page.locator("#undo")).to_contain_text("Undo: add suggestions")
    added = [row.example for row in data.rows()][9:]
    assert [one.kind for one in added] == ["near_miss", "near_miss", "retain", "retain"]
    assert [one.prompt for one in added][:2] == [kept, "Is <b>tablet</b> a French word?"]
    assert unticked not in [one.prompt for one in added]

    page.locator("#suggest-write").click()
    expect(page.locator("#suggest-written")).to_contain_text("4 of 4 answers finished", timeout=LONG)
    assert all(row.example.response for row in data.rows())
    for undone in ("add suggestions", "held out"):  # what the button says after the step before it was undone
        page.locator("#undo").click()
        expect(page.locator("#undo")).to_contain_text(f"Undo: {undone}")
    assert len(data.rows()) == 9

    page.locator("#make-suggestions").click()  # what was unticked does not come again
    expect(suggested(page, 4, 1)).to_be_visible()
    shown = [suggested(page, row, 1).inner_text().strip() for row in range(5)]
    assert unticked not in shown and kept in shown
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_model_adds_to_the_suggestions_while_they_are_read(app, page, small_model):
    data = Library(app.runs / DATASETS).create("clinic")
    data.add([example(prompt) for prompt in CLINIC], "made")
    open_topic(page, app.url)
    open_tab(page, "2 Train")
    box(page, "model").fill(str(small_model))
    open_tab(page, "1 Topic")
    page.locator("#to-suggest").click()
    type_into(page, "suggest", "5")
    page.locator("#make-suggestions").click()
    of_model = page.locator("#suggest-of-model")
    expect(of_model).to_contain_text("% done", timeout=LONG)
    page.locator("#stop-drafting").click()
    expect(of_model).to_have_text("Stopped.")
    page.wait_for_timeout(3 * UPDATE_SECONDS * 1000)  # what went on would say how far it is
    expect(of_model).to_have_text("Stopped.")
    page.locator("#make-suggestions").click()
    suggested(page, 1, 0).locator("input").click()
    expect(of_model).to_contain_text("The model added", timeout=LONG)
    expect(suggested(page, 1, 0).locator("input")).not_to_be_checked()  # the user's change stays
    expect(suggested(page, 5, 1)).not_to_be_empty()
    page.locator("#add-suggestions").click()
    expect(page.locator("#suggest-words")).to_contain_text("added to")
    added = [row.example for row in data.rows()][len(CLINIC) :]
    assert len(added) > 4 and {one.kind for one in added} >= {"near_miss", "retain"}


def test_suggestions_go_to_the_topic_that_they_were_made_for(app, page):
    library = Library(app.runs / DATASETS)
    clinic = library.create("clinic")
    clinic.add([example(prompt) for prompt in CLINIC], "made")
    library.restore_demo()
    library.choose("demo")
    open_app(page, app.url)
    choose(page, "topic", "clinic")
    fold(page, "Suggest questions to keep")
    page.locator("#suggest-with-model input").uncheck()
    page.locator("#make-suggestions").click()
    expect(page.locator("#suggest-words")).to_contain_text("300 questions for clinic")
    expect(page.locator("#suggestions")).to_be_visible()
    choose(page, "topic", "demo")
    expect(page.locator("#suggestions")).to_be_hidden()
    assert len(clinic.rows()) == 8
