"""Two runs' reports side by side: what one setting, or one more hour, has changed."""

from __future__ import annotations

import json
from typing import Any

from cbgui.config import flatten
from cbgui.errors import InputError
from cbgui.evaluation.report import page, percent, table, text
from cbgui.runs.run import Run


def read_report(run: Run) -> dict[str, Any]:
    """Raises InputError when the run was not evaluated."""
    try:
        report = json.loads(run.report_file.read_text("utf-8"))
    except (OSError, ValueError):
        raise InputError(f"run {run.name!r} is not evaluated yet; evaluate it first, then compare.") from None
    return report | {"run": run.name}  # it may have been renamed since


def _change(first: dict[str, Any], second: dict[str, Any]) -> str:
    """The difference in points, and whether it is more than chance: the 95% intervals do not meet."""
    if first["rate"] is None or second["rate"] is None:
        return ""
    if first["rate"] == second["rate"]:
        return "the same"
    apart = first["high"] < second["low"] or second["high"] < first["low"]
    points = 100 * (second["rate"] - first["rate"])
    return f"{points:+.0f} points <small>{'more than chance' if apart else 'may be chance'}</small>"


def _rate_row(title: str, first: dict[str, Any], second: dict[str, Any]) -> str:
    cells = f"<td>{percent(first)}</td><td>{percent(second)}</td><td>{_change(first, second)}</td>"
    return f"<tr><th scope='row'>{text(title)}</th>{cells}</tr>"


def _number_row(title: str, first: float, second: float, form: str) -> str:
    cells = f"<td>{first:{form}}</td><td>{second:{form}}</td><td>{second - first:+{form}}</td>"
    return f"<tr><th scope='row'>{text(title)}</th>{cells}</tr>"


def _asked_alike(first: dict[str, Any], second: dict[str, Any]) -> str:
    differing = [
        words
        for key, words in (("held_out", "numbers of prompts"), ("max_new_tokens", "lengths of answers"))
        if first[key] != second[key]
    ]
    return f"<p><strong>Mind: the two were measured with different {' and '.join(differing)}.</strong></p>" * bool(
        differing
    )


def compare_reports(first: dict[str, Any], second: dict[str, Any]) -> str:
    """The whole page, from two reports. Only attacks that both were put through are shown."""
    names = [first["run"], second["run"]]
    others = {attack["name"]: attack for attack in second["attacks"]}
    both = [(attack, others[attack["name"]]) for attack in first["attacks"] if attack["name"] in others]
    broken = []
    for a, b in both:
        broken.append(_rate_row(f"{a['title']}: answered", *(r["short_circuited"]["answered"] for r in (a, b))))
        broken.append(_rate_row(f"{a['title']}: derailed", *(r["short_circuited"]["derailed"] for r in (a, b))))
    u, v = first["retain"], second["retain"]
    kept = [
        _rate_row("Keep prompts derailed", u["falsely_derailed"], v["falsely_derailed"]),
        _rate_row("Keep prompts refused", u["refused"], v["refused"]),
        _number_row("KL from the base model, nats a token", u["kl"], v["kl"], ".4f"),
        _number_row("Same most likely token, share", u["top1"], v["top1"], ".4f"),
        _number_row("Perplexity, times the base model's", u["perplexity_ratio"], v["perplexity_ratio"], ".3f"),
    ]
    a, b = flatten(first["settings"]), flatten(second["settings"])
    settings = [
        f"<tr><th scope='row'>{text(key)}</th><td>{text(a.get(key, ''))}</td><td>{text(b.get(key, ''))}</td></tr>"
        for key in dict.fromkeys([*a, *b])
        if a.get(key) != b.get(key)
    ]
    verdicts = "".join(
        f"<section class='card verdict {text(report['verdict']['name'])}'><strong>{text(report['run'])}</strong>"
        f"<p>{text(report['verdict']['words'])}</p></section>"
        for report in (first, second)
    )
    heads = ["", *names, "Change"]
    return page(
        f"{names[0]} and {names[1]}",
        f"""<h1>{text(names[0])} and {text(names[1])}</h1>
{_asked_alike(first, second)}
<div class="beside">{verdicts}</div>
<h2>What must break</h2>
<p class="soft">The short-circuited models' answers. In brackets: counts and the 95% Wilson interval.</p>
{table(heads, broken) if broken else "<p>No attack was made on both.</p>"}
<h2>What must stay</h2>
{table(heads, kept)}
<h2>Settings that differ</h2>
{table(["Setting", *names], settings) if settings else "<p>None.</p>"}""",
    )
