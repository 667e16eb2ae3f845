"""A report and a model card belong to the adapter that was judged."""

from __future__ import annotations

from made_runs import finished_run
from safetensors.numpy import save_file

from cbgui.evaluation.compare import is_of_present_adapter, read_report
from cbgui.export.merge import renew_card
from cbgui.export.model_card import model_card
from cbgui.modeling.hub import resolve_model
from cbgui.runs.run import Run
from cbgui.ui.pages import report, runs


def train_further(run: Run) -> None:
    save_file({}, run.adapter_file, metadata={"trained": "further"})


def test_a_report_of_an_earlier_adapter_is_told_and_not_used(tmp_path):
    run = finished_run(tmp_path / "run")
    source = resolve_model("demo", weights=False)
    assert is_of_present_adapter(read_report(run), run) and "evaluated." in report._words(
        run, report.Job(run, "evaluate")
    )
    assert "It works." in model_card(run, source) and runs._row(run)[-2] == "25.0%"
    train_further(run)
    assert not is_of_present_adapter(read_report(run), run)
    assert "an earlier state of the run" in report._words(run, report.Job(run, "evaluate"))
    card = model_card(run, source)
    assert "It works." not in card and "trained further after its last evaluation" in card
    assert runs._row(run)[-2] == "evaluate again"


def test_the_card_of_a_merged_model_is_written_anew_after_an_evaluation(tmp_path):
    run = finished_run(tmp_path / "run")
    sums = run.merged_folder / "SHA256SUMS"
    sums.write_text("0  README.md\n1  model.safetensors\n", "utf-8")
    assert renew_card(run)
    assert "It works." in (run.merged_folder / "README.md").read_text("utf-8")
    card, weights = sums.read_text("utf-8").splitlines()
    assert card.endswith("  README.md") and card != "0  README.md" and weights == "1  model.safetensors"
    train_further(run)
    assert not renew_card(run)
