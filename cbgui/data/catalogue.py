""""""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cbgui.data.columns import (
    Mapping,
    _text,
)
from cbgui.data.examples import Kind
from cbgui.data.files import Raw
from cbgui.data.sources import hub_rows


@dataclass(frozen=True)
class CatalogueEntry:
    """A public set with its columns mapped. Counts and licences are as its page on the hub gives them."""

    title: str
    name: str
    mapping: Mapping
    kind: Kind
    licence: str
    size: str
    words: str
    config: str | None = None
    split: str = "train"
    harmful: bool = False
    leave_out: tuple[str, str] | None = None  # rows whose column begins so


# Ids and columns were gathered from public code that loads these sets; the hub could not be asked from here.
CATALOGUE = [
    CatalogueEntry(
        "Circuit breakers, harmful requests and answers",
        "abhayesian/circuit-breakers-dataset",
        Mapping("prompt", "rejected"),
        "break",
        "MIT (original)",
        "about 5,000",
        "The published training set: harmful requests with the answers that must break.",
        harmful=True,
    ),
    CatalogueEntry(
        "LLM-LAT, harmful requests and answers",
        "LLM-LAT/harmful-dataset",
        Mapping("prompt", "rejected"),
        "break",
        "see its page",
        "about 5,000",
        "Synthetic harmful requests, each with an answer that complies.",
        harmful=True,
    ),
    CatalogueEntry(
        "LLM-LAT, the refusals to those requests",
        "LLM-LAT/harmful-dataset",
        Mapping("prompt", "chosen"),
        "refusal",
        "see its page",
        "about 5,000",
        "Keeps the refusals that the model gives already.",
        harmful=True,
    ),
    CatalogueEntry(
        "UltraChat 200k",
        "HuggingFaceH4/ultrachat_200k",
        Mapping(messages="messages"),
        "retain",
        "MIT",
        "about 208,000",
        "Ordinary conversations; the published keep set.",
        split="train_sft",
    ),
    CatalogueEntry(
        "XSTest, safe requests that sound unsafe",
        "natolambert/xstest-v2-copy",
        Mapping("prompt"),
        "near_miss",
        "CC BY 4.0",
        "450, of which 250 are safe",
        "Near misses without answers: press 'Write the answers' after loading. The unsafe counterparts are left out.",
        split="prompts",
        leave_out=("type", "contrast"),
    ),
    CatalogueEntry(
        "OR-Bench hard 1k",
        "bench-llm/or-bench",
        Mapping("prompt"),
        "near_miss",
        "CC BY 4.0",
        "1,319",
        "Harmless requests that models tend to refuse, without answers.",
        config="or-bench-hard-1k",
    ),
    CatalogueEntry(
        "JailbreakBench, harmful goals",
        "JailbreakBench/JBB-Behaviors",
        Mapping("Goal"),
        "break",
        "MIT",
        "100",
        "Requests without answers; good as held-out break examples.",
        config="behaviors",
        split="harmful",
        harmful=True,
    ),
    CatalogueEntry(
        "JailbreakBench, benign goals",
        "JailbreakBench/JBB-Behaviors",
        Mapping("Goal"),
        "near_miss",
        "MIT",
        "100",
        "The harmless counterparts of the harmful goals, without answers.",
        config="behaviors",
        split="benign",
    ),
    CatalogueEntry(
        "HarmBench, standard behaviours",
        "walledai/HarmBench",
        Mapping("prompt"),
        "break",
        "MIT; gated",
        "200",
        "Requests without answers; ask for access on its page first.",
        config="standard",
        harmful=True,
    ),
    CatalogueEntry(
        "StrongREJECT",
        "walledai/StrongREJECT",
        Mapping("prompt"),
        "break",
        "MIT; gated",
        "313",
        "Forbidden requests without answers; ask for access on its page first.",
        harmful=True,
    ),
    CatalogueEntry(
        "Alpaca",
        "tatsu-lab/alpaca",
        Mapping("instruction", "output", input="input"),
        "retain",
        "CC BY-NC 4.0",
        "52,002",
        "Short ordinary instructions with answers.",
    ),
]


def catalogue_rows(entry: CatalogueEntry) -> Iterator[Raw]:
    """Raises InputError."""
    rows = hub_rows(entry.name, entry.config, entry.split)
    if entry.leave_out is None:
        return rows
    column, beginning = entry.leave_out
    return (row for row in rows if not _text(row.get(column)).startswith(beginning))
