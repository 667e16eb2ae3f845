"""Pruning: the largest directions of the adapter's change to each layer are dropped, by singular value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer

from cbgui.data.examples import Example
from cbgui.evaluation.metrics import ModelPair
from cbgui.evaluation.undoing.questions import Material, Part, Say, evenly
from cbgui.evaluation.undoing.registry import PRUNING
from cbgui.modeling.lora import ADAPTER

DROPPED = (1, 2, 4, 8, 16)
KEEPS = 8  # held-out must-keep rows that tell whether ordinary answers still stand


def has_adapter(pair: ModelPair) -> bool:
    """Whether the short-circuited model is the base with an adapter; a pair of whole models has none to prune."""
    return isinstance(pair.model, PeftModel)


def parts(material: Material) -> list[Part]:
    """One curve over the number of directions dropped."""
    pair, questions, keeps = material.pair, material.questions, evenly(material.held_out_keeps, KEEPS)
    if not has_adapter(pair):
        return []
    rank = max(layer.lora_A[ADAPTER].weight.shape[0] for layer in _layers(pair.model))
    counts = [count for count in DROPPED if count < rank] + [rank]

    def measure(say: Say) -> list[dict[str, Any]]:
        points = [material.start | {"at": 0, "kl": mean_kl(pair, keeps)}]
        for count in counts:
            with pruned(pair.model, count):
                answers = questions.ask(pair, lambda count=count: say(f"{count} of {rank} directions dropped"))
                points.append(questions.point(count, answers, kl=mean_kl(pair, keeps)))
        return points

    settings = (counts, [example.to_row() for example in keeps])
    return [
        Part(PRUNING, "the largest directions of each layer's change", "dropped", measure, settings, (("rank", rank),))
    ]


def mean_kl(pair: ModelPair, keeps: list[Example]) -> float | None:
    """KL(base || short-circuited) on given must-keep answers, in nats a token; None if there are none."""
    measures = pair.retain_metrics(keeps)
    tokens = sum(one["tokens"] for one in measures)
    return round(sum(one["kl"] * one["tokens"] for one in measures) / tokens, 4) if tokens else None


def _layers(model: PeftModel) -> list[LoraLayer]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


@contextmanager
def pruned(model: PeftModel, count: int) -> Iterator[None]:
    """Inside this context the adapter's change to each layer lacks its `count` largest singular directions.

    With as many as the rank, the model is the base model exactly. The adapter is restored bit for bit.
    """
    factors = [part[ADAPTER].weight for layer in _layers(model) for part in (layer.lora_A, layer.lora_B)]
    originals = [factor.detach().clone() for factor in factors]
    try:
        for number in range(0, len(factors), 2):
            small = without_largest(*originals[number : number + 2], count)
            for factor, values in zip(factors[number : number + 2], small, strict=True):
                factor.data.copy_(values)
        yield
    finally:
        for factor, original in zip(factors, originals, strict=True):
            factor.data.copy_(original)


@torch.no_grad()
def without_largest(a: torch.Tensor, b: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """New factors, (r, in_features) and (out_features, r) in float32, of b @ a less its `count` largest directions.

    The singular values of the product come from those of an (r, r) matrix, by QR of both factors.
    """
    new_a, new_b = torch.zeros_like(a, dtype=torch.float32), torch.zeros_like(b, dtype=torch.float32)
    left, left_rest = torch.linalg.qr(b.float())
    right, right_rest = torch.linalg.qr(a.float().t())
    u, values, v = torch.linalg.svd(left_rest @ right_rest.t(), full_matrices=False)
    kept = slice(count, len(values))
    width = len(values[kept])
    new_b[:, :width] = left @ (u[:, kept] * values[kept])
    new_a[:width] = v[kept] @ right.t()
    return new_a, new_b
