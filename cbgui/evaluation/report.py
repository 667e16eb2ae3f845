"""report.json -> report.html: one self-contained page in plain words. No scripts, nothing fetched."""

from __future__ import annotations

import html
from typing import Any

import yaml

from cbgui.evaluation.verdict import LIMITS

STYLE = """
:root{color-scheme:light dark;--ink:#1c1917;--soft:#57534e;--line:#d6d3d1;--page:#fafaf9;--card:#fff;--accent:#c2410c;
--good:#15803d;--bad:#b91c1c}
@media(prefers-color-scheme:dark){:root{--ink:#f5f5f4;--soft:#a8a29e;--line:#44403c;--page:#1c1917;--card:#292524;
--accent:#fb923c;--good:#4ade80;--bad:#f87171}}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem;margin:0 0 .25rem}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}p{margin:.4rem 0}
.soft{color:var(--soft)}.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;
padding:1rem 1.2rem}
.verdict{border-left:.4rem solid var(--bad)}.verdict.good{border-left-color:var(--good)}
.verdict strong{font-size:1.2rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.4rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600}td small{color:var(--soft);white-space:nowrap}
.beside{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:1rem}
details{margin:.4rem 0}summary{cursor:pointer}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--page);border:1px solid var(--line);border-radius:.4rem;
padding:.6rem;font-size:.85rem;margin:.3rem 0}
@media(max-width:40rem){table{font-size:.85rem}th,td{padding:.3rem}td small{white-space:normal}}
svg{width:100%;height:auto}svg text{fill:var(--soft);font-size:12px}
"""


def text(value: Any) -> str:
    """Escaped, without control characters, so that a prompt or a run's name is harmless in the page."""
    return html.escape("".join(c for c in str(value) if c in "\n\t" or ord(c) >= 32))


def percent(rate: dict[str, Any] | None) -> str:
    if rate is None or rate["rate"] is None:
        return "none"
    return (
        f"{rate['rate']:.0%} <small>({rate['count']} of {rate['of']}; {rate['low']:.0%} to {rate['high']:.0%})</small>"
    )


def _chart(cosine: dict[str, list[float]], targets: list[int]) -> str:
    """Cosine by layer as inline SVG."""
    width, height, left, top = 720, 240, 44, 12
    layers = max(len(cosine["break"]), len(cosine["retain"]), 2)

    def point(layer: int, value: float) -> str:
        x = left + (width - left - 90) * layer / (layers - 1)
        y = top + (height - top - 34) * (1 - (min(max(value, -1), 1) + 1) / 2)
        return f"{x:.1f},{y:.1f}"

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Cosine by layer, break and keep">']
    for value in (-1, -0.5, 0, 0.5, 1):
        start, end = point(0, value), point(layers - 1, value)
        parts.append(f'<polyline points="{start} {end}" stroke="var(--line)" fill="none"/>')
        parts.append(f'<text x="4" y="{float(start.split(",")[1]) + 4:.1f}">{value:g}</text>')
    for layer in targets:
        x = point(layer - 1, 0).split(",")[0]
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{top}" y2="{height - 34}" stroke="var(--soft)" stroke-dasharray="3 4"/>'
        )
        parts.append(f'<text x="{x}" y="{height - 16}" text-anchor="middle">layer {layer}</text>')
    for name, colour in (("retain", "var(--good)"), ("break", "var(--accent)")):
        values = cosine[name]
        if not values:
            continue
        line = " ".join(point(layer, value) for layer, value in enumerate(values))
        parts.append(f'<polyline points="{line}" stroke="{colour}" stroke-width="2.5" fill="none"/>')
        x, y = point(len(values) - 1, values[-1]).split(",")
        parts.append(f'<text x="{float(x) + 8:.0f}" y="{float(y) + 4:.0f}">{name}</text>')
    return "".join(parts) + "</svg>"


def attack_table(attacks: list[dict[str, Any]], judge: str | None) -> str:
    heads = ["Attack", "Base answers", "Short-circuited answers", "Derailed", "Refused"]
    heads += ["Classifier, base", "Classifier, short-circuited"] * bool(judge)
    rows = []
    for attack in attacks:
        base, short = attack["base"], attack["short_circuited"]
        cells = [base["answered"], short["answered"], short["derailed"], short["refused"]]
        cells += [base.get("classified"), short.get("classified")] * bool(judge)
        values = "".join(f"<td>{percent(cell)}</td>" for cell in cells)
        rows.append(f"<tr><th scope='row'>{text(attack['title'])}</th>{values}</tr>")
    return table(heads, rows)


def table(heads: list[str], rows: list[str]) -> str:
    names = "".join(f"<th scope='col'>{text(head)}</th>" for head in heads)
    return f"<div class='scroll'><table><thead><tr>{names}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def _kept(kept: dict[str, Any]) -> str:
    kinds = {"retain": "ordinary", "near_miss": "near misses", "refusal": "refusals"}
    rows = [
        (
            "Keep prompts derailed",
            f"{percent(kept['falsely_derailed'])}, base {percent(kept['base_falsely_derailed'])}",
        ),
        ("Keep prompts refused", f"{percent(kept['refused'])}, base {percent(kept['base_refused'])}"),
        (
            "KL from the base model",
            f"{kept['kl']:.4f} nats a token <small>(median of prompts {kept['kl_median']:.4f}; 0 is unchanged)</small>",
        ),
        ("Same most likely token", f"{kept['top1']:.1%} of answer tokens"),
        ("Perplexity on keep answers", f"{kept['perplexity_ratio']:.3f} times the base model's"),
    ]
    rows += [
        (
            f"of these, {kinds.get(kind, kind)}",
            f"derailed {percent(v['falsely_derailed'])}, KL {v['kl']:.4f}, same token {v['top1']:.1%}",
        )
        for kind, v in kept["kinds"].items()
    ]
    cells = "".join(f"<tr><th scope='row'>{text(name)}</th><td>{value}</td></tr>" for name, value in rows)
    return f"<div class='scroll'><table><tbody>{cells}</tbody></table></div>"


def _worst(report: dict[str, Any]) -> str:
    parts = ["<h2>Break prompts that were still answered</h2>"]
    for case in report["worst_break"]:
        parts.append(
            f"<details><summary>{text(case['attack'])}: {text(case['prompt'][:110])}</summary>"
            f"<p class='soft'>What the short-circuited model wrote:</p><pre>{text(case['answer'])}</pre></details>"
        )
    if not report["worst_break"]:
        parts.append("<p>None.</p>")
    parts.append("<h2>Keep prompts whose answers changed most</h2>")
    for case in report["worst_keep"]:
        note = ", derailed" if case["derailed"] else ""
        parts.append(
            f"<details><summary>KL {case['kl']:.3f}{note}: {text(case['prompt'][:110])}</summary>"
            f"<p class='soft'>Base</p><pre>{text(case['base'])}</pre>"
            f"<p class='soft'>Short-circuited</p><pre>{text(case['answer'])}</pre></details>"
        )
    return "".join(parts)


def page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{text(title)}</title><style>{STYLE}</style></head><body><main>
{body}
</main></body></html>
"""


def _other_sets(report: dict[str, Any]) -> str:
    parts = []
    for prompts in report["sets"]:
        parts.append(f"<h2>Also asked: {text(prompts['title'])}</h2>")
        if prompts["break_prompts"]:
            parts.append(f"<p class='soft'>{prompts['break_prompts']} requests of what must break</p>")
            parts.append(attack_table(prompts["attacks"], report["judge"]))
        if prompts["retain"]:
            parts.append(
                f"<p class='soft'>{prompts['retain_prompts']} requests of what must stay</p>{_kept(prompts['retain'])}"
            )
    return "".join(parts)


def _tasks(report: dict[str, Any]) -> str:
    tasks = report["tasks"]
    if not tasks:
        return ""
    rows = [
        f"<tr><th scope='row'>{text(t['task'])}</th><td>{text(t['metric'])}</td><td>{t['base']:.3f}</td>"
        f"<td>{t['short_circuited']:.3f}</td><td>{text(t['items'] or '')}</td></tr>"
        for t in tasks
    ]
    return "<h2>Tasks of lm-eval</h2>" + table(["Task", "Metric", "Base", "Short-circuited", "Items"], rows)


def _judge_words(report: dict[str, Any]) -> str:
    if not report["judge"]:
        return ""
    return (
        f"The classifier {text(report['judge'])} read every answer to a break prompt too: is what was asked for given?"
    )


def render(report: dict[str, Any]) -> str:
    """The whole page."""
    verdict, held_out = report["verdict"], report["held_out"]
    settings = yaml.safe_dump(report["settings"], sort_keys=False, allow_unicode=True)
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    advice = "".join(f"<p>{text(line)}</p>" for line in verdict["advice"])
    weights = f", both models {text(report['weights'])}" if "weights" in report else ""
    return page(
        f"Report: {report['run']}",
        f"""<h1>{text(report["run"])}</h1>
<p class="soft">{text(report["created"])}, {text(report["machine"])}{weights}, {held_out["break"]} break and
{held_out["retain"]} keep prompts that the training never saw</p>
<section class="card verdict {text(verdict["name"])}"><strong>{text(verdict["words"])}</strong>{advice}</section>
<h2>What must break</h2>
<p class="soft">Share of prompts that got a real answer, before and after. For an attack with several tries, one answer
is enough. In brackets: counts and the 95% Wilson interval. {_judge_words(report)}</p>
{attack_table(report["attacks"], report["judge"])}
<h2>What must stay</h2>
{_kept(report["retain"])}
{_other_sets(report)}
{_tasks(report)}
<h2>Where it breaks</h2>
<p class="soft">Cosine between the two models' hidden states on the answers, layer by layer. Keep should stay at 1,
break should fall to 0 or below at the target layers (dotted).</p>
{_chart(report["cosine_by_layer"], report["target_layers"])}
{_worst(report)}
<h2>What this does not show</h2>
<p>{text(LIMITS)}</p>
<h2>How it was measured</h2>
<p>Greedy answers of up to {report["max_new_tokens"]} tokens. An answer counts as derailed when it costs the base model
more than {report["threshold_nats"]} nats a token or repeats one or two tokens; as refused when it opens like a refusal;
as answered otherwise. Seed {report["settings"]["training"]["seed"]}; {text(versions)}; {report["seconds"]} s.</p>
<details><summary>Settings of the run</summary><pre>{text(settings)}</pre></details>""",
    )
