"""Rows of the hub and of pasted text, and rows of any columns -> Example, through a column mapping."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

import datasets.config
import httpx2
from datasets import load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from cbgui.config import InputError
from cbgui.data.examples import Example, Kind
from cbgui.data.files import Raw, csv_rows, jsonl_rows
from cbgui.hub_errors import asks_to_slow_down

RETRIES = 2  # of a streamed read, each with five of huggingface_hub's own; datasets' 20 take ten minutes
LOOKED_AT = 200  # rows read for the guess
# Names that public sets use, the likeliest first.
NAMES = {
    "messages": ["messages", "conversations", "conversation", "chat", "turns"],
    "prompt": [
        "prompt",
        "instruction",
        "question",
        "goal",
        "behavior",
        "forbidden_prompt",
        "request",
        "query",
        "input",
    ],
    "response": ["response", "answer", "output", "completion", "rejected", "target", "reply", "assistant", "chosen"],
    "kind": ["kind"],
}
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


@dataclass(frozen=True)
class Mapping:
    """Which column holds what. `messages` holds a whole conversation and goes before `prompt` and `response`."""

    prompt: str | None = None
    response: str | None = None
    messages: str | None = None
    kind: str | None = None
    input: str | None = None  # a second part of the request, put under it (Alpaca's form)


@dataclass
class Skipped:
    """Rows that gave no example, counted by reason."""

    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def words(self) -> str:
        parts = [f"{count:,} {reason}" for reason, count in self.reasons.items()]
        return f"Left out: {'; '.join(parts)}." if parts else ""


def paste_rows(text: str) -> list[Raw]:
    """Pasted text: JSON Lines, CSV or tab-separated with headings, or one request a line. Raises InputError."""
    text = text.strip()
    if not text:
        raise InputError("the pasted text is empty; paste JSON Lines, CSV with headings, or one request a line.")
    if text.startswith("{"):
        return [row for _, row in jsonl_rows(text.splitlines(), "pasted text")]
    if text.startswith("["):
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise InputError(f"pasted text: not JSON ({error}); mend it.") from None
        return [row for row in rows if isinstance(row, dict)]
    heading = text.splitlines()[0].lower()
    delimiter = "\t" if "\t" in heading else ","
    columns = [cell.strip().strip('"') for cell in heading.split(delimiter)]
    if any(column in names for column in columns for names in NAMES.values()):
        return [row for _, row in csv_rows(io.StringIO(text), "pasted text", delimiter)]
    return [{"prompt": line.strip()} for line in text.splitlines() if line.strip()]


def hub_rows(name: str, config: str | None = None, split: str = "train") -> Iterator[Raw]:
    """Rows of a hub dataset, streamed, without running code from it. Raises InputError."""
    if name.count("/") != 1 or not all(name.split("/")) or any(c.isspace() for c in name):
        raise InputError(f"dataset {name!r}: write it as the hub does, owner/name.")
    datasets.config.STREAMING_READ_MAX_RETRIES = RETRIES
    try:
        yield from load_dataset(name, config or None, split=split or "train", streaming=True)
    except GatedRepoError:
        raise InputError(f"dataset {name!r} is gated; accept its terms on the hub and run 'hf auth login'.") from None
    except DatasetNotFoundError as error:
        if "gated" in str(error):
            raise InputError(
                f"dataset {name!r} is gated; accept its terms on the hub and run 'hf auth login'."
            ) from None
        raise InputError(f"dataset {name!r} is not on the hub, or is private; check the spelling.") from None
    except ValueError as error:  # unknown config or split; the message names those there are
        raise InputError(f"dataset {name!r}: {str(error).splitlines()[0][:200]}") from None
    except (HfHubHTTPError, httpx2.HTTPError, ConnectionError, OSError, RuntimeError) as error:
        if asks_to_slow_down(error):
            raise InputError(f"dataset {name!r}: the hub asks to slow down; try again in some minutes.") from None
        raise InputError(f"dataset {name!r}: the hub does not answer ({type(error).__name__}); try again.") from None


def columns_of(rows: list[Raw]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row if isinstance(key, str)))


def guess_mapping(rows: list[Raw]) -> Mapping:
    """Which column is which, by the names public sets use, then by what the cells look like."""
    rows = rows[:LOOKED_AT]
    columns = columns_of(rows)
    lower = {column.lower().strip(): column for column in reversed(columns)}

    def named(role: str) -> str | None:
        return next((lower[name] for name in NAMES[role] if name in lower), None)

    messages = named("messages")
    if messages and not any(isinstance(row.get(messages), list) for row in rows):
        messages = None
    prompt, response = named("prompt"), named("response")
    if response == prompt:
        response = None
    text = [c for c in columns if any(isinstance(r.get(c), str) and " " in r[c].strip() for r in rows)]
    if not messages:  # unnamed columns: the first that holds text asks, the next answers
        prompt = prompt or next((c for c in text if c != response), None)
        if response is None:
            known = {"input", "category", "kind", "type", "label", "source"}
            response = next((c for c in text if c != prompt and c.lower() not in known), None)
    second = lower.get("input") if prompt and prompt.lower() == "instruction" and "input" in lower else None
    kind = named("kind")
    kinds = {row.get(kind) for row in rows} if kind else set()
    if kind and not kinds <= {*get_args(Kind), None, ""}:
        kind = None
    return Mapping(prompt, response, messages, kind, second)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _turns(value: Any) -> list[tuple[str, str]] | None:
    """A conversation as (role, content), also in the from/value form; None when it is not one."""
    if not isinstance(value, list) or not value:
        return None
    turns = []
    for turn in value:
        if not isinstance(turn, dict):
            return None
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            return None
        turns.append((ROLES.get(role, role), content))
    return turns


def to_example(row: Raw, mapping: Mapping, kind: Kind, source: str, skipped: Skipped) -> Example | None:
    """One row; None, and a count in `skipped`, when it holds no request. An empty answer is kept: it can be written."""
    if mapping.kind and row.get(mapping.kind) in get_args(Kind):
        kind = row[mapping.kind]
    turns = _turns(row.get(mapping.messages)) if mapping.messages else None
    if turns is not None:
        # Up to the last answer; a conversation that ends with the user has its answer still to come.
        last = max((i for i, (role, _) in enumerate(turns) if role == "assistant"), default=len(turns))
        request, response = turns[:last], turns[last][1] if last < len(turns) else ""
    else:
        request = [("user", _text(row.get(mapping.prompt)))] if mapping.prompt else []
        if request and mapping.input and _text(row.get(mapping.input)).strip():
            request = [("user", f"{request[0][1]}\n\n{_text(row[mapping.input])}")]
        response = _text(row.get(mapping.response)) if mapping.response else ""
    if not request or request[-1][0] != "user" or not request[-1][1].strip():
        skipped.add("without a request")
        return None
    return Example(tuple(request), response.strip(), kind, source)


def to_examples(
    rows: Iterable[Raw], mapping: Mapping, kind: Kind, source: str, *, limit: int | None = None
) -> tuple[list[Example], Skipped]:
    """Examples of `rows` through `mapping`, at most `limit`. Raises InputError when there is not one."""
    if mapping.prompt is None and mapping.messages is None:
        raise InputError(f"{source}: no column holds the request; choose one as 'prompt' or 'messages'.")
    skipped = Skipped()
    examples = (to_example(row, mapping, kind, source, skipped) for row in rows)
    found = list(itertools.islice((example for example in examples if example is not None), limit))
    if not found:
        raise InputError(f"{source}: no row gave an example. {skipped.words() or 'It holds no rows.'}")
    return found, skipped


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
