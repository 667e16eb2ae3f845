"""Compare the reports of two runs on one page, to see what a setting has changed."""

from __future__ import annotations

import json
from typing import Any

from cbgui.config import flatten
from cbgui.errors import InputError
from cbgui.evaluation.pages import render_page
from cbgui.evaluation.schema import Report
from cbgui.runs.run import Run

# Keys of a report -> what differs: plural nouns for the sentence "measured with different ..." of the page.
CONDITIONS = {"held_out": "numbers of questions", "max_new_tokens": "lengths of answers"}


def read_report(run: Run) -> dict[str, Any]:
    """The run's report.json, under the run's present name. Raises InputError if the run was not evaluated."""
    try:
        content = run.report_file.read_bytes()
        Report.model_validate_json(content)
        report = json.loads(content)
    except OSError:
        raise InputError(f"run {run.name!r} is not evaluated yet; evaluate it first.") from None
    except ValueError:  # no JSON, or not what schema.py says
        raise InputError(
            f"run {run.name!r}: its report is damaged, or of an earlier version of cbgui; evaluate it again."
        ) from None
    return report | {"run": run.name}


def is_of_present_adapter(report: dict[str, Any], run: Run) -> bool:
    """Whether the report judges the run's adapter as it is now; training may have gone on."""
    try:
        return report.get("adapter_sha256") == run.adapter_hash()
    except OSError:
        return False


def _rates(title: str, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two rates and their difference in percentage points; `certain` if their 95% intervals do not overlap."""
    known = first["rate"] is not None and second["rate"] is not None
    return {
        "title": title,
        "first": first,
        "second": second,
        "points": 100 * (second["rate"] - first["rate"]) if known else None,
        "certain": first["high"] < second["low"] or second["high"] < first["low"],
    }


def _numbers(title: str, first: float, second: float, form: str) -> dict[str, Any]:
    """Two numbers; `form` is a format specification such as ".4f"."""
    return {"title": title, "first": first, "second": second, "form": f"{{:{form}}}", "change_form": f"{{:+{form}}}"}


def compare_reports(first: dict[str, Any], second: dict[str, Any]) -> str:
    """A page that compares two reports. It shows only attacks that both reports have."""
    others = {attack["name"]: attack for attack in second["attacks"]}
    shared = [(attack, others[attack["name"]]) for attack in first["attacks"] if attack["name"] in others]
    retain, other_retain = first["retain"], second["retain"]
    settings, other_settings = flatten(first["settings"]), flatten(second["settings"])
    return render_page(
        "comparison.html",
        reports=[first, second],
        names=[first["run"], second["run"]],
        differences=[words for key, words in CONDITIONS.items() if first[key] != second[key]],
        break_rates=[
            _rates(f"{one['title']}: {outcome}", one["short_circuited"][outcome], other["short_circuited"][outcome])
            for one, other in shared
            for outcome in ("answered", "derailed", "refused")
            if outcome in one["short_circuited"] and outcome in other["short_circuited"]
        ],
        retain_rates=[
            _rates("Must-keep questions derailed", retain["falsely_derailed"], other_retain["falsely_derailed"]),
            _rates("Must-keep questions refused", retain["refused"], other_retain["refused"]),
        ],
        retain_numbers=[
            _numbers("KL from the original model, nats a token", retain["kl"], other_retain["kl"], ".4f"),
            _numbers("Same most likely token, share", retain["top1"], other_retain["top1"], ".4f"),
            _numbers(
                "Perplexity, times the original model's",
                retain["perplexity_ratio"],
                other_retain["perplexity_ratio"],
                ".3f",
            ),
        ],
        settings=[
            (name, settings.get(name, ""), other_settings.get(name, ""))
            for name in dict.fromkeys([*settings, *other_settings])
            if settings.get(name) != other_settings.get(name)
        ],
    )
