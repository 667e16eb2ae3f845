"""What a user does on any page."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

# Small steps, and sample answers at the last one alone; names as in the Train page's settings.
SMALL = {"training-break_batch_size": 2, "training-retain_batch_size": 2, "training-sample_every": 1000}


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def box(page: Page, name: str) -> Locator:
    """The text field of a component."""
    return page.locator(f"#{name} textarea, #{name} input").first


def fold(page: Page, name: str) -> None:
    """Open or close an accordion."""
    page.locator("button.label-wrap", has_text=name).click()


def type_into(page: Page, name: str, text: str) -> None:
    """As a user types it: Gradio acts at key presses, not at a value that was set."""
    box(page, name).click()
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.type(text)


def choose(page: Page, name: str, option: str) -> None:
    """Pick from a dropdown."""
    page.locator(f"#{name} input").click()
    page.get_by_role("option", name=option, exact=True).click()
    expect(page.locator(f"#{name} input")).to_have_value(option)


def fill_settings(page: Page, settings: dict[str, object]) -> None:
    """Open "More settings" on the Train page and fill these in, once the preset's own are there."""
    fold(page, "More settings")
    for name, value in settings.items():
        field = page.locator(f"#{name} input")
        expect(field).not_to_have_value("", timeout=60_000)
        field.fill(str(value))
        field.press("Tab")
