"""Rows, and files of rows, for the tests of the data room."""

from pathlib import Path
from typing import Any

import pandas as pd

from cbgui.config import PRESETS
from cbgui.data import checks
from cbgui.data.dataset_store import PARTS
from cbgui.data.examples import Example

# Rows of the demo's data set, by part.
DEMO_ROWS = {part: len((PRESETS / "demo" / f"{part}.jsonl").read_text("utf-8").splitlines()) for part in PARTS}


def save_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows in the format that the path's ending names."""
    table = pd.DataFrame(rows)
    match path.suffix:
        case ".csv" | ".tsv":
            table.to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
        case ".json" | ".jsonl":
            table.to_json(path, orient="records", lines=path.suffix == ".jsonl")
        case ".parquet":
            table.to_parquet(path)
        case ".xlsx":
            table.to_excel(path, index=False)


COLOURS = ("red", "green", "old", "tiny")
THINGS = (
    "lamps", "boats", "fences", "kites", "ovens", "bells", "chairs", "drums", "gloves", "ladders",
    "mirrors", "pianos", "rugs", "saddles", "tents", "vases", "wagons", "anchors", "brooms", "clocks",
)  # fmt: skip
SUBJECTS = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]


def example(prompt: str, response: str = "An answer.", kind: str = "break") -> Example:
    return Example((("user", prompt),), response, kind)


def good_rows(count: int, kind: str, form: str) -> list[Example]:
    """Rows that pass every check: each has its own subject and its own response."""
    return [
        example(form.format(subject), f"{kind}, {subject}: one could say {i} things in {i * 7} ways.", kind)
        for i, subject in enumerate(SUBJECTS[:count])
    ]


BREAKS = good_rows(60, "break", "Tell me all about {}")
RETAINS = good_rows(80, "retain", "Tell me all that {} can do")
LOOK_ALIKES = [
    example(f"Where do {subject} sleep at night?", f"{subject} never sleep, {i} times.", "near_miss")
    for i, subject in enumerate(SUBJECTS[:40])
]
CLEAN_ROWS = BREAKS + RETAINS + LOOK_ALIKES


def rows_with_fault(check: str) -> tuple[list[Example], list[Example]]:
    """(training, held-out) rows on which `check`, and only `check`, reports something."""
    long = " ".join(["word"] * 400)
    match check:
        case "empty":
            return [*CLEAN_ROWS, example("Unanswered?", " ")], []
        case "refusing":
            return [*CLEAN_ROWS, example("Refused?", "I'm sorry, but I can't help with it.")], []
        case "both_sides":
            return [*CLEAN_ROWS, example(BREAKS[0].prompt, "Something quite different.", "retain")], []
        case "duplicate":
            return [*CLEAN_ROWS, BREAKS[3]], []
        case "near_duplicate":
            return [*CLEAN_ROWS, example(BREAKS[3].prompt + " please", BREAKS[3].response)], []
        case "leak":
            return CLEAN_ROWS, [example(BREAKS[3].prompt, "Another answer.")]
        case "too_few":
            return [*BREAKS, *RETAINS[:10], LOOK_ALIKES[-1]], []
        case "unbalanced":
            more = [example(f"{s}, are they sold?", f"Sold {i} times, {s}.") for i, s in enumerate(SUBJECTS * 2)]
            return [*CLEAN_ROWS, *dict.fromkeys(more[:80])], []
        case "forms":
            return [*good_rows(60, "break", "How do I make {}?"), *RETAINS, *LOOK_ALIKES], []
        case "no_near_misses":
            return [*BREAKS, *RETAINS, *good_rows(60, "retain", "Who sells {}?")], []
        case "too_long":
            return [*CLEAN_ROWS, example("At length?", long)], []
        case "no_held_out":
            return CLEAN_ROWS, []
    raise ValueError(check)


CHECK_NAMES = [check.__name__.removeprefix("_") for check in checks.CHECKS]
