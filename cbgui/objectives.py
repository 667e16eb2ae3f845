"""The losses of representation rerouting and the schedule that weighs them (arXiv 2406.04313, section 3).

Hidden states come as (tokens, hidden_size), already gathered to the tokens that count: response tokens of break
examples, all real tokens of retain examples. A new objective is a function here and a line in REROUTE or RETAIN.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import cosine_similarity

from cbgui.config import ObjectiveConfig

TokenLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def reroute_cosine(adapted: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
    """ReLU of the cosine between the two models, per token: (tokens,), in 0..1."""
    return torch.relu(cosine_similarity(adapted.float(), frozen.float(), dim=-1))


def reroute_spread(adapted: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
    """`reroute_cosine` plus ReLU of each token's cosine with the mean direction of the other tokens: (tokens,).

    Not in the paper. The cosine alone is content when every token ends in one and the same state, which reads as a
    single word repeated for ever; the second term keeps derailed states apart from each other as well.
    """
    unit = torch.nn.functional.normalize(adapted.float(), dim=-1)
    others = (unit.sum(0, keepdim=True) - unit) / max(len(unit) - 1, 1)
    return reroute_cosine(adapted, frozen) + torch.relu((unit * others).sum(-1))


def retain_absolute(adapted: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
    """L2 distance per token, in the units of the residual stream (the published form)."""
    return torch.linalg.vector_norm(adapted.float() - frozen.float(), dim=-1)


def retain_relative(adapted: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
    """L2 distance per token as a share of that token's own norm, so that one coefficient serves every model."""
    norm = torch.linalg.vector_norm(frozen.float(), dim=-1).clamp_min(1e-6)
    return retain_absolute(adapted, frozen) / norm


REROUTE: dict[str, TokenLoss] = {"cosine": reroute_cosine, "spread": reroute_spread}
RETAIN: dict[str, TokenLoss] = {"relative": retain_relative, "absolute": retain_absolute}


def coefficients(objective: ObjectiveConfig, step: int, steps: int) -> tuple[float, float]:
    """(c_reroute, c_retain) for the step that begins after `step` finished ones.

    "linear" is the published exchange, which would be complete at twice the run's length.
    """
    progress = {"linear": (step + 1) / (2 * steps), "full": step / max(steps - 1, 1), "constant": None}
    share = progress[objective.schedule]
    if share is None:
        return objective.reroute_coefficient, objective.retain_coefficient
    share = min(1.0, share)
    return objective.reroute_coefficient * (1 - share), objective.retain_coefficient * share
