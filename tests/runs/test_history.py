"""Long runs and many runs: what is new is read, and little of it is kept and drawn."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from made_runs import finished_run, step_event, validation_event

from cbgui.runs import events, history
from cbgui.runs.run import Run
from cbgui.ui.pages import runs as runs_page
from cbgui.ui.panels import charts

DRAWN = 2000  # points of a chart; more cannot be told apart


def lines(*some: dict) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in some)


def counting_reads(monkeypatch) -> list[int]:
    """The sizes of what is read from files of events from now on."""
    read: list[int] = []

    class Counted:
        def __init__(self, file):
            self.file = file

        def read(self, *size):
            data = self.file.read(*size)
            read.append(len(data))
            return data

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

    real = Path.open

    def counted(path, *arguments, **options):
        opened = real(path, *arguments, **options)
        return Counted(opened) if path.name == "events.jsonl" else opened

    monkeypatch.setattr(Path, "open", counted)
    return read


def test_a_long_run_is_read_once_and_drawn_with_few_points(tmp_path, monkeypatch):
    steps = 200_000
    template = json.dumps(step_event(1, steps))
    run = Run(tmp_path)
    with run.events_file.open("w") as file:
        for step in range(1, steps + 1):
            file.write(template.replace('"step": 1,', f'"step": {step},') + "\n")
            if step % 10 == 0:
                file.write(json.dumps(validation_event(step)) + "\n")
    past = history.history(run)
    assert past.measured == steps + steps // 10 and past.newest["step"]["step"] == steps
    points = past.points()
    assert points[0]["step"] == 1 and points[-1]["step"] == steps
    for table in (charts.loss_table(points), charts.cosine_table(points)):
        assert 500 < len(table) <= DRAWN
    size = run.events_file.stat().st_size
    read = counting_reads(monkeypatch)
    with run.events_file.open("ab") as file:
        file.write(lines(step_event(steps + 1, steps + 1)) + b'{"half')
    past = history.history(run)
    assert past.newest["step"]["step"] == steps + 1 and sum(read) < 2000
    assert past.end > size and history.history(run) == past
    read.clear()
    assert run.state() == "interrupted" and run.newest("step", "validation")["validation"]["step"] == steps
    assert sum(read) <= 3 * events.BLOCK


def test_a_resumed_run_is_read_anew(tmp_path):
    run = finished_run(tmp_path / "run", steps=6)
    assert history.history(run).measured == 12
    run.forget_after(4)
    assert history.history(run).newest["step"]["step"] == 4 and history.history(run).measured == 8
    run.append_event(**{key: value for key, value in step_event(5, 6).items() if key != "time"})
    assert history.history(run).newest["step"]["step"] == 5


def test_the_newest_events_are_found_across_blocks(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.events_file.write_bytes(lines(validation_event(1), *(step_event(step, 90) for step in range(1, 91))))
    for block in (1, 7, 100, 1000, 10**6):
        monkeypatch.setattr(events, "BLOCK", block)
        assert [e["step"] for e in events.newest_first(run.events_file)] == [*range(90, 0, -1), 1]
    monkeypatch.setattr(events, "SEARCHED", 2000)
    assert "validation" not in run.newest("step", "validation")


def test_a_thousand_runs_are_listed_from_the_ends_of_their_files(tmp_path, monkeypatch):
    """And the second time from what is remembered of them."""
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    first = finished_run(tmp_path / "run-0", steps=2000)
    for number in range(1, 1000):
        (tmp_path / f"run-{number}").mkdir()
        for name in ("run.yaml", "events.jsonl"):
            os.link(first.path / name, tmp_path / f"run-{number}" / name)
    read = counting_reads(monkeypatch)
    table, *_ = runs_page._list()
    assert len(table) == 1000 and set(table["steps"]) == {"2000 of 2000"} and set(table["minutes"]) == {"66.7"}
    assert sum(read) <= 1000 * 4 * events.BLOCK
    read.clear()
    runs_page._list()
    assert sum(read) <= 1000 * events.BLOCK  # for the state alone
    shutil.rmtree(tmp_path / "run-7")
    assert len(runs_page._list()[0]) == 999
