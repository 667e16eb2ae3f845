"""Rows and files of them for the tests of the data room."""

import pandas as pd

from cbgui.data import checks
from cbgui.data.examples import Example


def save_rows(path, rows):
    """In the form that the file's ending names."""
    table = pd.DataFrame(rows)
    match path.suffix:
        case ".csv" | ".tsv":
            table.to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
        case ".json" | ".jsonl":
            table.to_json(path, orient="records", lines=path.suffix == ".jsonl")
        case ".parquet":
            table.to_parquet(path)


SUBJECTS = [f"{colour} {thing}" for colour in ("red", "green", "old", "tiny") for thing in (
    "lamps", "boats", "fences", "kites", "ovens", "bells", "chairs", "drums", "gloves", "ladders",
    "mirrors", "pianos", "rugs", "saddles", "tents", "vases", "wagons", "anchors", "brooms", "clocks")]  # fmt: skip


def example(prompt: str, response: str = "An answer.", kind: str = "break") -> Example:
    return Example((("user", prompt),), response, kind)


def good_rows(count: int, kind: str, form: str) -> list[Example]:
    """Rows that no check minds: each about a subject of its own, in words of its own."""
    return [example(form.format(s), f"{kind}, {s}: one could say {i} things in {i * 7} ways.", kind)
            for i, s in enumerate(SUBJECTS[:count])]  # fmt: skip


BASE = good_rows(60, "break", "Tell me all about {}") + good_rows(80, "retain", "Tell me all that {} can do") + [
    example(f"Where do {s} sleep at night?", f"{s} never sleep, {i} times.", "near_miss") for i, s in
    enumerate(SUBJECTS[:40])
]  # fmt: skip


def tripping(check: str) -> tuple[list[Example], list[Example]]:
    """(training, held out) rows that make `check` fire and were clean without it."""
    long = " ".join(["word"] * 400)
    match check:
        case "empty":
            return [*BASE, example("Unanswered?", " ")], []
        case "refusing":
            return [*BASE, example("Refused?", "I'm sorry, but I can't help with it.")], []
        case "both_sides":
            return [*BASE, example(BASE[0].prompt, "Something quite different.", "retain")], []
        case "duplicate":
            return [*BASE, BASE[3]], []
        case "near_duplicate":
            return [*BASE, example(BASE[3].prompt + " please", BASE[3].response)], []
        case "leak":
            return BASE, [example(BASE[3].prompt, "Another answer.")]
        case "too_few":
            return [*BASE[:60], *BASE[60:70], BASE[-1]], []
        case "unbalanced":
            more = [example(f"{s}, are they sold?", f"Sold {i} times, {s}.") for i, s in enumerate(SUBJECTS * 2)]
            return [*BASE, *dict.fromkeys(more[:80])], []
        case "forms":
            return [*good_rows(60, "break", "How do I make {}?"), *BASE[60:]], []
        case "no_near_misses":
            return [row for row in BASE if row.kind != "near_miss"] + good_rows(60, "retain", "Who sells {}?"), []
        case "too_long":
            return [*BASE, example("At length?", long)], []
        case "no_held_out":
            return BASE, []
    raise ValueError(check)


ALL = [check.__name__.removeprefix("_") for check in checks.CHECKS]
