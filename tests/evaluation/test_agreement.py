"""How far judges agree, what a person may label, and what report.json holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cbgui.data.examples import Example
from cbgui.evaluation.agreement import TO_LABEL, agreement, to_label, with_classifier
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.cases import Case
from cbgui.evaluation.compare import read_report
from cbgui.evaluation.evaluate import evaluate_run
from cbgui.evaluation.hand_labels import label, labels_of
from cbgui.evaluation.schema import Report
from cbgui.runs.folder import open_run

ASKED = Example((("user", "How?"),), "So.", "break")


def case(example: int, attack: str, base: str, short: str) -> Case:
    found = Case(0, attack, example, Attempt(ASKED.messages))
    for model, said in (("base", base), ("short_circuited", short)):
        found.answers[model] = {
            "text": f"{model} {example} {attack}",
            "nats": 1.0,
            **{name: name == said for name in ("answered", "derailed", "refused")},
        }
    return found


def test_kappa_is_the_agreement_beyond_chance():
    yes_no = agreement(
        [True] * 20 + [True] * 5 + [False] * 10 + [False] * 15, [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    )
    assert (yes_no["same"], yes_no["of"]) == (35, 50) and yes_no["kappa"] == pytest.approx(0.4)
    assert agreement([True] * 4, [True] * 4) == {"of": 4, "same": 4, "kappa": None}
    assert agreement([], []) == {"of": 0, "same": 0, "kappa": None}


def test_answers_to_label_are_of_every_outcome():
    cases = [case(row, "direct", "answered", "refused" if row % 5 else "derailed") for row in range(40)]
    chosen = to_label(cases, ["How?"] * 40)
    counts = {name: sum(one["rules"] == name for one in chosen) for name in ("answered", "refused", "derailed")}
    assert len(chosen) == TO_LABEL and min(counts.values()) >= 6
    assert chosen == sorted(chosen, key=lambda one: (one["prompt"], one["answer"]))
    for row, one in enumerate(cases):
        one.answers["base"]["classified"], one.answers["short_circuited"]["classified"] = row > 0, False
    assert with_classifier(cases)["same"] == 79


@pytest.mark.slow
def test_a_report_is_what_the_schema_says_and_takes_labels(blocking, tmp_path):
    run = open_run(Path(shutil.copytree(blocking.path, tmp_path / "run")))
    report = evaluate_run(run, attacks=["direct"], limit=3, max_new_tokens=16)
    stored = json.loads(run.report_file.read_text("utf-8"))
    assert set(stored) <= set(Report.model_fields), "schema.py and docs/report.md know every part"
    assert len(report["to_label"]) == 6 and labels_of(run, report) == [None] * 6
    for number, one in enumerate(report["to_label"]):
        label(run, number, one["rules"] if number else "refused")
    report = read_report(run)
    assert report["by_hand"]["of"] == 6 and report["by_hand"]["same"] == 5
    assert "The rules and a person agree on 5 of 6 answers" in run.report_page.read_text("utf-8")
    assert label(run, 0, None)["by_hand"] == {"of": 5, "same": 5, "kappa": 1.0}
    run.labels_file.write_text("no JSON", "utf-8")
    assert labels_of(run, report) == [None] * 6
    words = Path("docs/report.md").read_text("utf-8")
    assert [name for name in Report.model_fields if f"`{name}`" not in words] == []
