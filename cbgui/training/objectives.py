"""The losses of representation rerouting and the schedule that weighs them (arXiv 2406.04313, section 3).

A new objective is a function here, an entry in REROUTE or RETAIN, and a name in ObjectiveConfig. Hidden states arrive
as (tokens, hidden_size) and hold only the tokens that count: the response tokens of break examples, all tokens of
retain examples.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import cosine_similarity, huber_loss, normalize

from cbgui.config import ObjectiveConfig

SPREAD = 1.0  # weight of the second term of `reroute_spread`
PULL_WEIGHT = 2.0  # times objective.reroute_coefficient: pulling is slower than turning away
PULL_MARGIN = 0.15  # relative distance at which a state says the refusal already
HUBER_DELTA = 0.1  # relative distance at which `retain_huber` turns from squared to linear
# (adapted, reference, example) -> loss of each token, (tokens,). The first two are (tokens, hidden_size); `example`,
# (tokens,), is the number of the example that a token belongs to.
TokenLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def reroute_cosine(adapted: torch.Tensor, reference: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """ReLU of the cosine between the two models' states, (tokens,), from 0 to 1. The published form."""
    return torch.relu(cosine_similarity(adapted.float(), reference.float(), dim=-1))


def reroute_spread(adapted: torch.Tensor, reference: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """`reroute_cosine` plus SPREAD times the ReLU of each token's mean cosine with the other tokens of its response.

    Not in the paper. `reroute_cosine` alone is satisfied when every token ends in the same state, which reads as one
    word repeated endlessly. The second term keeps the derailed states of a response apart. Returns (tokens,).
    """
    unit = normalize(adapted.float(), dim=-1)
    examples = int(example.max()) + 1 if len(example) else 0
    sums = unit.new_zeros(examples, unit.shape[-1]).index_add(0, example, unit)
    others = torch.bincount(example, minlength=examples)[example].sub(1).clamp_min(1)
    similarity = ((sums[example] - unit) * unit).sum(-1) / others
    return reroute_cosine(adapted, reference, example) + SPREAD * torch.relu(similarity)


def retain_absolute(adapted: torch.Tensor, reference: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """L2 distance of each token, (tokens,), in the units of the residual stream. The published form."""
    return torch.linalg.vector_norm(adapted.float() - reference.float(), dim=-1)


def retain_relative(adapted: torch.Tensor, reference: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """L2 distance of each token as a share of the reference state's norm, (tokens,), so that one coefficient suits
    every model."""
    norm = torch.linalg.vector_norm(reference.float(), dim=-1).clamp_min(1e-6)
    return retain_absolute(adapted, reference, example) / norm


def retain_huber(adapted: torch.Tensor, reference: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """`retain_relative`, squared below HUBER_DELTA (torch's Huber loss divided by delta). Returns (tokens,).

    Not in the paper. An unsquared distance has a cusp at zero: under a constant weight it holds the untouched model in
    place. The published schedule therefore starts with weight 0 and raises it later, which repairs answers that should
    not have derailed. Squared near zero, the distance can have its full weight from the first step.
    """
    distance = retain_relative(adapted, reference, example)
    return huber_loss(distance, torch.zeros_like(distance), reduction="none", delta=HUBER_DELTA) / HUBER_DELTA


def pull(adapted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Squared distance beyond PULL_MARGIN of each state from the one that is wanted, as a share of its norm, (tokens,).

    Not in the paper. The loss of `reroute: refusal` at the highest target layer; both arguments are (tokens,
    hidden_size). Without the margin, training goes on where the refusal comes out already, and changes more of what
    must be kept.
    """
    distance = torch.linalg.vector_norm(adapted.float() - wanted, dim=-1)
    return torch.relu(distance / torch.linalg.vector_norm(wanted, dim=-1) - PULL_MARGIN).square()


REROUTE: dict[str, TokenLoss] = {
    "cosine": reroute_cosine,
    "spread": reroute_spread,
    "refusal": reroute_cosine,  # below the highest target layer, where `pull` takes its place
}
RETAIN: dict[str, TokenLoss] = {"relative": retain_relative, "absolute": retain_absolute, "huber": retain_huber}


def coefficients(objective: ObjectiveConfig, step: int, steps: int) -> tuple[float, float]:
    """(c_reroute, c_retain) for the next step, after `step` of `steps` steps. See `ObjectiveConfig.schedule`."""
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
