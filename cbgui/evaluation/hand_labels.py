"""Answers that a person has judged, kept beside the report, and how far the rules agree with that person."""

from __future__ import annotations

import json
from typing import Any

from cbgui.evaluation.agreement import OUTCOMES, agreement
from cbgui.evaluation.compare import read_report
from cbgui.evaluation.report import render
from cbgui.evaluation.store import key_of
from cbgui.runs.run import Run, write_whole


def labels_of(run: Run, report: dict[str, Any]) -> list[str | None]:
    """For each answer of the report's `to_label` what the person said; None for those not judged yet."""
    known = _read(run)
    return [known.get(_key(one)) for one in report.get("to_label", [])]


def label(run: Run, number: int, said: str | None) -> dict[str, Any]:
    """Keep what a person says of the answer `number` of `to_label` (None takes it back), write the report anew, and
    return it. `said` is one of OUTCOMES."""
    report = read_report(run)
    known = _read(run)
    key = _key(report["to_label"][number])
    known.pop(key, None)
    if said in OUTCOMES:
        known[key] = said
    write_whole(run.labels_file, json.dumps(known, indent=1))
    said_of = [(one["rules"], known[_key(one)]) for one in report["to_label"] if _key(one) in known]
    report["by_hand"] = agreement([rules for rules, _ in said_of], [person for _, person in said_of])
    write_whole(run.report_file, json.dumps(report, indent=1, ensure_ascii=False))
    write_whole(run.report_page, render(report))
    return report


def _key(one: dict[str, str]) -> str:
    return key_of(one["prompt"], one["answer"])


def _read(run: Run) -> dict[str, str]:
    try:
        known = json.loads(run.labels_file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: said for key, said in known.items() if said in OUTCOMES} if isinstance(known, dict) else {}
