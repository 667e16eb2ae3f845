"""Damaged files: whatever a disk, a kill or an editor does to a run is told, and other runs are as they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gradio as gr
import pytest
from made_runs import finished_run

from cbgui.errors import InputError
from cbgui.evaluation.compare import compare_reports, read_report
from cbgui.runs import folder, queue
from cbgui.runs.run import EVALUATE, STATE_LABELS, Run
from cbgui.ui.pages import export as export_page
from cbgui.ui.pages import report as report_page
from cbgui.ui.pages import runs as runs_page
from cbgui.ui.pages import train as train_page

FILES = (
    "run.yaml", "events.jsonl", "request.json", "lock", "log.txt", "evaluate.txt",
    "data/break.jsonl", "data/held_out.jsonl", "data/name.txt",
    "adapter/adapter_model.safetensors", "adapter/adapter_config.json",
    "checkpoints/checkpoint-4/complete", "checkpoints/checkpoint-4/optimizer.pt",
    "report/report.json", "report/report.html", "merged/cbgui.json",
)  # fmt: skip
DAMAGES = {
    "missing": lambda path: path.unlink(missing_ok=True),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "junk": lambda path: path.write_bytes(bytes(range(256)) * 16),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "list": lambda path: path.write_text("[1, 2]\n", "utf-8"),
    "number": lambda path: path.write_text("17\n", "utf-8"),
    "null": lambda path: path.write_text("null\n", "utf-8"),
    "NaN": lambda path: path.write_text("NaN\n", "utf-8"),
    "empty object": lambda path: path.write_text("{}\n", "utf-8"),
    "deep": lambda path: path.write_text("[" * 100_000, "utf-8"),
    "folder": lambda path: (path.unlink(missing_ok=True), path.mkdir()),
}
VALUES = (None, "x", float("nan"), [], {}, {"x": 1}, -1, 1e300, True)  # in place of each value of a JSON file


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Run:
    return finished_run(tmp_path_factory.mktemp("original") / "hurt")


@pytest.fixture
def hurt(original, tmp_path, monkeypatch) -> Run:
    """A copy of the run beside one that stays whole."""
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    shutil.copytree(original.path, tmp_path / "hurt")
    shutil.copytree(original.path, tmp_path / "whole")
    return Run(tmp_path / "hurt")


def said(function, *arguments) -> str:
    """What a refusal says; anything but a refusal in one sentence is a fault."""
    try:
        function(*arguments)
    except (InputError, gr.Error) as error:
        text = str(error)
        assert "Unexpected error" not in text and "\n" not in text.strip() and text.strip(" '\"").endswith("."), text
        return text
    return ""


def check(run: Run) -> None:
    """Everything that pages and commands read of a run."""
    table, _, _, names = runs_page._list()
    whole = table[table["run"] == "whole"].iloc[0].tolist()
    assert whole[1:3] == ["done", "demo"] and whole[6:] == ["4 of 4", "0.50", "10.0%", "25.0%", "0.0100"]
    assert "hurt" in names or not run.config_file.exists()
    assert run.state() in STATE_LABELS and run.request() in ("run", "pause", "stop")
    for name in ("hurt", "whole"):
        train_page._refresh(name, None)
        report_page._refresh(name, "whole", None)
        export_page._refresh(name, "", None)
    runs_page._validation_curves([run, Run(run.path.with_name("whole"))])
    queue.waiting_runs(run.path.parent)
    run.newest("status")
    for function in (run.config, run.need_adapter, lambda: run.examples("break"), lambda: run.examples("held_out")):
        said(function)
    said(lambda: compare_reports(read_report(run), read_report(Run(run.path.with_name("whole")))))
    run.complete_checkpoints()
    run.is_merged()
    run.delete_checkpoints_after(2)
    if run.events_file.is_file():
        run.append_event("status", state="done", text="x")
        assert run.state() == "done"
        run.forget_after(2)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_hides_one_run_at_most(name, damage, hurt):
    path = hurt.path / name
    if not path.exists():  # a lock or an output that a job would have left
        path.write_text("exit 1\n", "utf-8")
    DAMAGES[damage](path)
    check(hurt)


def _changed(content, value):
    """The content once for each of its values, which is replaced by `value`."""
    if isinstance(content, (dict, list)):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield [*content[:key], value, *content[key + 1 :]] if isinstance(content, list) else {**content, key: value}
            for inner in _changed(content[key], value):
                changed = list(content) if isinstance(content, list) else dict(content)
                changed[key] = inner
                yield changed


def _some(found, count: int):
    found = list(found)
    return found[:: max(1, len(found) // count)]


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("name", ["events.jsonl", "report/report.json", "adapter/adapter_config.json"])
def test_a_value_of_another_type_hides_one_run_at_most(name, value, hurt):
    path = hurt.path / name
    if name == "events.jsonl":
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        lines += [changed for event in (lines[0], lines[1], *lines[-2:]) for changed in _changed(event, value)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        check(hurt)
        return
    for changed in _some(_changed(json.loads(path.read_text("utf-8")), value), 6):
        path.write_text(json.dumps(changed), "utf-8")
        check(hurt)


def test_a_damaged_adapter_is_told(hurt):
    weights = hurt.adapter_file.read_bytes()
    hurt.adapter_file.write_bytes(weights[:-1])
    assert "its adapter is damaged or cut off" in said(hurt.need_adapter)
    hurt.adapter_file.write_bytes(weights)
    hurt.need_adapter()
    config = hurt.config()
    config.lora.r = 8
    hurt.write_config(config)
    assert "run.yaml: lora.r = 8, but the adapter was trained with 16" in said(hurt.need_adapter)


def test_a_mistake_in_run_yaml_names_its_place(hurt):
    text = hurt.config_file.read_text("utf-8")
    lines = text.splitlines()
    place = next(number for number, line in enumerate(lines, 1) if line.startswith("lora:"))
    lines.insert(place, "  r: [1, 2")
    hurt.config_file.write_text("\n".join(lines), "utf-8")
    assert f"run.yaml: line {place + 3}, column" in said(hurt.config)


def test_a_request_and_a_report_of_a_job_are_read_whatever_they_hold(hurt):
    hurt.request_file.write_text('{"request": ["pause"]}', "utf-8")
    assert hurt.request() == "run"
    Path(hurt.lock_file(EVALUATE)).touch()  # `cbgui evaluate` in a terminal prints elsewhere
    assert "failed" not in report_page._refresh("hurt", None, None)[0]


def test_a_run_that_vanishes_while_the_list_is_read_is_left_out(hurt, monkeypatch):
    (hurt.path / "run.yaml").unlink()
    (hurt.path / "run.yaml").symlink_to(hurt.path / "nowhere")
    assert [run.name for run in folder.list_runs()] == ["whole"]


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth", "complete"])
def test_a_checkpoint_that_lacks_a_file_is_not_whole(name, hurt):
    assert list(hurt.complete_checkpoints()) == [4]
    (hurt.checkpoint(4) / name).unlink()
    assert hurt.complete_checkpoints() == {} and list(hurt.checkpoints()) == [4]


def test_half_a_character_in_an_event_is_replaced(hurt):
    """As in the name of a file, or in an error that quotes a text."""
    hurt.append_event("warning", step=4, text="no \ud83d here")
    assert hurt.events()[0][-1]["text"] == "no ? here"
    check(hurt)
