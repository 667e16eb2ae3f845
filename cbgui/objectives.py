"""The losses of representation rerouting and the schedule that weighs them (arXiv 2406.04313, section 3).

Hidden states come as (tokens, hidden_size), already gathered to the tokens that count: response tokens of break
examples, all real tokens of retain examples. A new objective is a function here and a line in REROUTE or RETAIN.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import cosine_similarity, huber_loss, normalize

from cbgui.config import ObjectiveConfig

SPREAD = 1.0  # weight of the second term of `reroute_spread`
HUBER_DELTA = 0.1  # relative distance at which `retain_huber` turns from squared to linear
# (adapted, frozen, example) -> loss per token (tokens,). The first two are (tokens, hidden_size); `example` (tokens,)
# says which example a token belongs to.
TokenLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def reroute_cosine(adapted: torch.Tensor, frozen: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """ReLU of the cosine between the two models, per token: (tokens,), in 0..1."""
    return torch.relu(cosine_similarity(adapted.float(), frozen.float(), dim=-1))


def reroute_spread(adapted: torch.Tensor, frozen: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """`reroute_cosine` plus SPREAD x ReLU of each token's mean cosine with the other tokens of its answer: (tokens,).

    Not in the paper. Turning away alone is content when every token ends in one and the same state, which reads as a
    single word repeated for ever; the second term keeps the derailed states of an answer apart.
    """
    unit = normalize(adapted.float(), dim=-1)
    examples = int(example.max()) + 1 if len(example) else 0
    sums = unit.new_zeros(examples, unit.shape[-1]).index_add(0, example, unit)
    others = torch.bincount(example, minlength=examples)[example].sub(1).clamp_min(1)
    similarity = ((sums[example] - unit) * unit).sum(-1) / others
    return reroute_cosine(adapted, frozen, example) + SPREAD * torch.relu(similarity)


def retain_absolute(adapted: torch.Tensor, frozen: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """L2 distance per token, in the units of the residual stream (the published form)."""
    return torch.linalg.vector_norm(adapted.float() - frozen.float(), dim=-1)


def retain_relative(adapted: torch.Tensor, frozen: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """L2 distance per token as a share of that token's own norm, so that one coefficient serves every model."""
    norm = torch.linalg.vector_norm(frozen.float(), dim=-1).clamp_min(1e-6)
    return retain_absolute(adapted, frozen, example) / norm


def retain_huber(adapted: torch.Tensor, frozen: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """`retain_relative`, squared below HUBER_DELTA (torch's Huber loss, divided by delta).

    Not in the paper. An unsquared distance has a cusp at zero: under a constant weight it holds the untouched model
    where it is, so the published schedule starts without it and repairs afterwards what broke too widely. Squared near
    zero, it can stand at full weight from the first step.
    """
    distance = retain_relative(adapted, frozen, example)
    return huber_loss(distance, torch.zeros_like(distance), reduction="none", delta=HUBER_DELTA) / HUBER_DELTA


REROUTE: dict[str, TokenLoss] = {"cosine": reroute_cosine, "spread": reroute_spread}
RETAIN: dict[str, TokenLoss] = {"relative": retain_relative, "absolute": retain_absolute, "huber": retain_huber}


def coefficients(objective: ObjectiveConfig, step: int, steps: int) -> tuple[float, float]:
    """(c_reroute, c_retain) for the step that begins after `step` finished ones. See `ObjectiveConfig.schedule`."""
    done = step / max(steps - 1, 1)
    shares = {
        "linear": (1 - (step + 1) / (2 * steps), (step + 1) / (2 * steps)),
        "full": (1 - done, done),
        "constant": (1.0, 1.0),
        "rise": (1.0, min(1.0, 0.25 + 1.5 * done)),
        "late": (1.0, min(1.0, 0.04 + 4.4 * done**3)),
    }
    reroute, retain = shares[objective.schedule]
    return objective.reroute_coefficient * reroute, objective.retain_coefficient * retain
