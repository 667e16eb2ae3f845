"""What report.json holds; docs/report.md has the same in words. Reports of earlier versions lack the optional parts."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class Rate(_Part):
    """`count` of `of`, and the 95% Wilson interval of the share; `rate` is None if there is nothing to count."""

    rate: float | None
    count: int
    of: int
    low: float
    high: float


class Rates(_Part):
    """What one model did under one attack. Questions whose every try was refused or derailed count as such."""

    answered: Rate
    derailed: Rate
    refused: Rate | None = None
    classified: Rate | None = None  # answered, as the classifier says
    median_nats: float | None = None  # cost of the answers under the original model, nats a token


class AttackRates(_Part):
    name: str
    title: str
    prompts: int | None = None
    spoilt: int | None = None  # questions that the original does not answer so; not counted for the other model
    base: Rates
    short_circuited: Rates


class KindRates(_Part):
    kl: float
    top1: float
    falsely_derailed: Rate
    hurt: Rate | None = None


class RetainRates(_Part):
    """How must-keep questions fared; `kl` in nats a token, `top1` a share of answer tokens."""

    falsely_derailed: Rate
    base_falsely_derailed: Rate
    refused: Rate
    base_refused: Rate | None = None
    hurt: Rate | None = None
    hurt_afterwards: Rate | None = None  # right after a must-stop question, in the same conversation
    kl: float
    kl_median: float | None = None
    top1: float
    perplexity_ratio: float
    kinds: dict[str, KindRates] = {}


class FurtherSet(_Part):
    title: str
    break_prompts: int
    retain_prompts: int
    attacks: list[AttackRates]
    retain: RetainRates | None


class Agreement(_Part):
    """Two judges: the same on `same` of `of` answers; Cohen's `kappa`."""

    of: int
    same: int
    kappa: float | None


class Labelled(_Part):
    """An answer that a person may judge, and what the rules say: answered, refused or derailed."""

    prompt: str
    answer: str
    rules: str


class Verdict(_Part):
    name: str  # good, too_weak, over_broad, both or too_few
    words: str
    advice: list[str]


class Report(_Part):
    """The whole file."""

    run: str = ""  # read_report gives it the name of the folder that it lies in
    adapter_sha256: str | None = None  # the adapter that was judged
    created: str
    machine: str | None = None
    weights: str | None = None  # the form in which both models were loaded
    versions: dict[str, str] = {}
    settings: dict[str, Any]
    max_new_tokens: int
    threshold_nats: float | None = None  # from this cost on an answer has derailed
    white_box: dict[str, int] | None = None  # what white-box attacks may take
    held_out: dict[str, int]
    judge: str | None = None  # the classifier
    agreement: Agreement | None = None  # of the rules with the classifier
    by_hand: Agreement | None = None  # of the rules with a person
    attacks: list[AttackRates]
    retain: RetainRates
    sets: list[FurtherSet] = []
    cosine_by_layer: dict[str, list[float]] = {}
    target_layers: list[int] = []
    worst_break: list[dict[str, Any]] = []
    worst_retain: list[dict[str, Any]]
    to_label: list[Labelled] = []
    tasks: list[dict[str, Any]] = []
    undoing: list[dict[str, Any]] = []  # curves of attempts to undo the breaker (undoing/)
    seconds: float | None = None
    undoing_seconds: float | None = None  # of these, for the attempts to undo it
    verdict: Verdict
