"""The charts of the Train page show the chosen run as far as it has come, however the page got there."""

from __future__ import annotations

import json
import re

import pytest
from helpers import choose, fold, open_tab
from made_runs import finished_run, step_event, validation_event
from playwright.sync_api import Page, expect
from waiting import wait_until

from cbgui.runs.process import hold
from cbgui.runs.run import TRAIN, Run
from cbgui.training.diagnostics import TOO_WEAK

pytestmark = pytest.mark.slow


def last_point(page: Page, chart: str, series: str) -> tuple[int, float] | None:
    """Step and value of the last point of a series in a chart's picture."""
    labels = page.locator(f"#{chart} [aria-label^='step: ']").evaluate_all(
        "marks => marks.map(mark => mark.getAttribute('aria-label'))"
    )
    found = [re.fullmatch(r"step: (\d+);[^:]*: ([-\d.]+); \w+: (.*)", label) for label in labels]
    points = [(int(match[1]), float(match[2])) for match in found if match and match[3] == series]
    return max(points, default=None)


def expect_drawn(page: Page, run: Run) -> None:
    """The last plotted points are the run's last measurements."""
    steps = [event for event in run.events()[0] if event["kind"] == "step"]
    step, loss, cosine = steps[-1]["step"], steps[-1]["reroute_loss"], steps[-1]["cosine"]["20"]

    def drawn() -> bool:
        page.wait_for_timeout(100)  # also lets the page go on
        return last_point(page, "loss-chart", "must stop") == (step, pytest.approx(loss, abs=1e-3)) and last_point(
            page, "cosine-chart", "20"
        ) == (step, pytest.approx(cosine, abs=1e-3))

    wait_until(drawn)
    page.wait_for_timeout(300)
    assert drawn()  # and nothing older comes after it


def test_the_charts_are_those_of_the_chosen_run(app, page):
    runs = {name: finished_run(app.runs / name, steps) for name, steps in (("long", 40), ("short", 8), ("middle", 16))}
    page.goto(app.url)
    open_tab(page, "2 Train")
    for name in ("long", "short", "middle", "long", "middle", "short"):
        choose(page, "run", name)
        expect(page.locator("#run-line")).to_contain_text(name)
        expect_drawn(page, runs[name])
    open_tab(page, "History")
    page.locator("#runs [data-testid$='-0']", has_text="middle").first.click()
    expect(page.locator("#run input")).to_have_value("middle")
    open_tab(page, "2 Train")
    expect_drawn(page, runs["middle"])


def test_the_charts_end_where_the_run_ended(app, page):
    run = finished_run(app.runs / "grows", 40)

    def write(*events: dict) -> None:
        with run.events_file.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(event) + "\n" for event in events)

    run.events_file.write_text("", "utf-8")
    with hold(run.lock_file(TRAIN)):  # as if it were training
        page.goto(app.url)
        open_tab(page, "2 Train")
        expect(page.locator("#run-line")).to_contain_text("running")
        for step in range(1, 10):
            write(step_event(step, 40))
        expect_drawn(page, run)
        write(step_event(10, 40), validation_event(10))  # new series in new colours
        expect_drawn(page, run)
        open_tab(page, "1 Topic")
        for step in range(11, 40):
            write(step_event(step, 40))
        page.wait_for_timeout(3000)
        open_tab(page, "2 Train")
        expect_drawn(page, run)
        write(step_event(40, 40), validation_event(40))
    write({"time": 1.8e9, "kind": "status", "state": "done", "text": "Done"})
    expect(page.locator("#run-line")).to_contain_text("done, step 40 of 40")
    expect_drawn(page, run)


def test_the_button_that_comes_next_stands_out_and_a_weak_run_is_offered_more_steps(app, page):
    primary = re.compile(r"\bprimary\b")
    weak, paused = finished_run(app.runs / "weak", 8), finished_run(app.runs / "paused", 8)
    trouble = {"time": 1.8e9, "kind": "warning", "step": 8, "trouble": TOO_WEAK, "text": "It is too weak."}
    for run, *more in ((weak, trouble, status("done")), (paused, status("paused"))):
        with run.events_file.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(event) + "\n" for event in more)
    page.goto(app.url)
    open_tab(page, "2 Train")
    choose(page, "run", "paused")
    expect(page.locator("#resume")).to_have_class(primary)
    expect(page.locator("#start")).not_to_have_class(primary)
    expect(page.locator("#train-again")).to_be_hidden()
    choose(page, "run", "weak")
    expect(page.locator("#start")).to_have_class(primary)
    page.locator("#train-again").click()
    expect(page.locator("#starting")).to_contain_text(f"{2 * weak.config().training.steps} steps are filled in")
    fold(page, "More settings")
    expect(page.locator("#training-steps input")).to_have_value(str(2 * weak.config().training.steps))


def status(state: str) -> dict:
    return {"time": 1.8e9, "kind": "status", "state": state, "text": state}
