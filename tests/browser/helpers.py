"""What a user does on any page."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect
from sample_rows import DEMO_ROWS

PATIENCE = 120_000  # ms that anything on a page may take; a busy machine needs them
LONG = 600_000  # ms that a training or an answer may take on a busy machine
PAGES = ("Home", "1 Topic", "2 Train", "3 Try", "4 Test", "5 Take away", "History")
# Small steps, and neither sample answers nor everyday questions; names as in the Train page's settings.
SMALL = {
    "training-break_batch_size": 2,
    "training-retain_batch_size": 2,
    "training-sample_every": 0,
    "data-general_keep": 0,
}


def new_page(place: Browser | BrowserContext) -> Page:
    """A further page, as patient as the first."""
    page = place.new_page()
    page.set_default_timeout(PATIENCE)
    return page


def open_app(page: Page, url: str) -> None:
    """Open the Topic page and wait until it shows the demo."""
    open_topic(page, url)
    expect(page.locator("#counts")).to_contain_text(str(DEMO_ROWS["break"]))


def open_topic(page: Page, url: str) -> None:
    """Open the app, then the Topic page."""
    page.goto(url)
    open_tab(page, "1 Topic")


def tab(page: Page, name: str) -> Locator:
    """A tab by its label, whatever mark it has."""
    return page.locator("#tabs").get_by_role("tab", name=re.compile(rf"^{name}( [✓!])?$"))


def open_tab(page: Page, name: str) -> None:
    tab(page, name).first.click()


def box(page: Page, name: str) -> Locator:
    """The text field of a component."""
    return page.locator(f"#{name} textarea, #{name} input").first


def fold(page: Page, name: str) -> None:
    """Open or close an accordion."""
    page.locator("button.label-wrap", has_text=name).click()


def type_into(page: Page, name: str, text: str) -> None:
    """Type as a user does: Gradio reacts to key presses, not to a value that a script has set."""
    box(page, name).click()
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.type(text)


def edit_cell(cell: Locator, text: str, key: str = "Control+A") -> None:
    """Double-click a table's cell, press a key there (all of it is selected), type, and leave the cell by Enter."""
    cell.dblclick()
    field = cell.locator("textarea, input")
    expect(field).to_be_focused()
    field.press(key)
    field.press_sequentially(text)
    field.press("Enter")


def choose(page: Page, name: str, option: str) -> None:
    """Choose from a dropdown."""
    page.locator(f"#{name} input").click()
    page.get_by_role("option", name=option, exact=True).click()
    expect(page.locator(f"#{name} input")).to_have_value(option)


def tick_options(page: Page, name: str, options: list[str]) -> None:
    """Choose several from a dropdown and close its list."""
    page.locator(f"#{name} input").click()
    for option in options:
        page.get_by_role("option", name=option, exact=True).click()
    page.keyboard.press("Escape")


def fill_settings(page: Page, settings: dict[str, object]) -> None:
    """Open "More settings" on the Train page and fill these in, once the preset's values are there."""
    fold(page, "More settings")
    for name, value in settings.items():
        field = page.locator(f"#{name} input")
        expect(field).not_to_have_value("")
        field.fill(str(value))
        field.press("Tab")


def start_training(page: Page, url: str, settings: dict[str, object]) -> None:
    """Open the Train page and start a run of the demo with small steps and these settings; its answers fall apart."""
    page.goto(url)
    open_tab(page, "2 Train")
    expect(page.locator("#memory")).to_contain_text("It fits.")
    fill_settings(page, SMALL | settings)
    page.locator("#objective-reroute").get_by_label("fall apart").click()  # no refusal has to be prepared
    page.locator("#start").click()


def wait_until_still(page: Page) -> None:
    """Wait until no animation runs: a colour that fades in has too little contrast for axe."""
    page.wait_for_function("document.getAnimations().every(animation => animation.playState !== 'running')")
