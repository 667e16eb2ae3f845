"""Both losses of a micro-batch, and the validation on held-out examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from cbgui.config import RunConfig
from cbgui.modeling.batch import Encoded
from cbgui.modeling.truncated import TruncatedModel
from cbgui.training.objectives import PULL_WEIGHT, REROUTE, RETAIN, pull, retain_relative
from cbgui.training.reference_states import ReferenceStates

USUAL_REFUSAL = 10  # tokens


@dataclass
class Losses:
    """Sums over one micro-batch, already divided by the step's token counts. The tensors keep their graph."""

    reroute: torch.Tensor
    retain: torch.Tensor
    drift: float = 0.0  # `retain_relative`, whichever retain loss is trained
    cosine: dict[int, float] = field(default_factory=dict)  # target layer -> mean cosine, without the ReLU


@dataclass(frozen=True)
class Totals:
    """Token counts of a whole step. Its micro-batches divide by them, so their sums are the step's means however it is
    cut."""

    answer: int  # response tokens of the break examples that are compared with the frozen model
    retain: int
    # (3,): positions before answers, answer tokens and refusal tokens that are pulled to a refusal's states
    pulled: torch.Tensor | None = None
    refusals: int = 0  # break examples with a refusal in them
    compared: Encoded | None = None  # the only break example that is compared; None where all are

    @classmethod
    def of(cls, examples: Iterable[Encoded], *, compare_one: bool = False) -> Totals:
        """`compare_one`: the break examples are pulled to a refusal alone, and the cosine is only shown. One of them is
        enough for that, and saves the frozen model's pass over the others."""
        examples = list(examples)
        compared = next((e for e in examples if e.is_break), None) if compare_one else None
        answer = sum(e.plain.loss_tokens for e in examples if e.is_break and compared in (None, e))
        retain = sum(e.loss_tokens for e in examples if not e.is_break)
        roles = _pulled(examples)[1]
        refusals = sum(any(number > 0 for number in e.pull.numbers) for e in examples if e.pull)
        return cls(answer, retain, torch.bincount(roles, minlength=3), refusals, compared)

    def compares(self, example: Encoded) -> bool:
        """Whether the loss or the curves need the frozen model's states of this example."""
        return not example.is_break or self.compared in (None, example)

    def pull_weights(self) -> torch.Tensor:
        """(3,): the weight of one token of each role. A role weighs as much as another, but a refusal of more than
        USUAL_REFUSAL tokens weighs more, because each of them must come out right."""
        weights = PULL_WEIGHT / self.pulled.clamp_min(1)
        weights[2] *= max(1.0, self.pulled[2].item() / max(self.refusals, 1) / USUAL_REFUSAL)
        return weights


def _pulled(examples: list[Encoded]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(index, role, number) of all pulled tokens: where each is among the break examples' loss tokens, whether it is
    before the answer (0), in the answer (1) or in the refusal (2), and the number of its refusal state."""
    found, offset = [], 0
    for example in examples:
        if example.pull:
            for place, number in enumerate(example.pull.numbers):
                if number >= 0:
                    found.append((offset + place, 2 if number else 1 if place else 0, number))
        offset += example.loss_tokens * example.is_break
    return tuple(torch.tensor(found, dtype=torch.long).reshape(-1, 3).T)


def _answer_positions(examples: list[Encoded], totals: Totals) -> torch.Tensor | None:
    """Which of the break examples' loss tokens are response tokens that are compared; None where all are."""
    if not any(example.pull for example in examples):
        return None
    found, offset = [], 0
    for example in examples:
        if example.is_break:
            own = example.pull.answer if example.pull else range(example.loss_tokens)
            found += [offset + place for place in own] if totals.compares(example) else []
            offset += example.loss_tokens
    return torch.tensor(found, dtype=torch.long)


def _example_of_token(examples: list[Encoded], is_break: bool) -> torch.Tensor:
    """(tokens,): for every response token of the break, or token of the retain examples, the number of its example."""
    lengths = [example.plain.loss_tokens for example in examples if example.is_break is is_break]
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.long))


def micro_batch_losses(
    truncated: TruncatedModel,
    examples: list[Encoded],
    config: RunConfig,
    reference_states: ReferenceStates,
    totals: Totals,
    refusal: torch.Tensor | None = None,
) -> Losses:
    """Both losses of `examples`, from the reference states and one pass with the adapter.

    `refusal`, (beginnings, hidden_size), are the states that rows with a refusal are pulled to. `totals` count the
    whole step.
    """
    device, objective = truncated.device, config.objective
    reference_break, reference_retain = reference_states([e for e in examples if totals.compares(e)])
    adapted_break, adapted_retain = truncated.hidden_states(truncated.batch(examples, reference_states.pad_token_id))
    example_of_break, example_of_retain = (_example_of_token(examples, side).to(device) for side in (True, False))
    answer = _answer_positions(examples, totals)
    zero = torch.zeros((), device=device)
    losses = Losses(zero, zero, cosine=dict.fromkeys(truncated.target_layers, 0.0))
    layers = len(truncated.target_layers)
    with torch.autocast(device.type, enabled=False):
        for layer in truncated.target_layers if len(example_of_break) else ():
            adapted = adapted_break[layer]
            is_pulled = refusal is not None and layer == truncated.target_layers[-1]
            if is_pulled:
                losses.reroute = losses.reroute + _pull_loss(adapted, examples, refusal, totals) / layers
            if layer not in reference_break:
                continue
            own = adapted if answer is None else adapted.index_select(0, answer.to(device))
            own, reference = (truncated.read(layer, s.float()) for s in (own, reference_break[layer]))
            if not is_pulled:
                of_tokens = REROUTE[objective.reroute](own, reference, example_of_break)
                losses.reroute = losses.reroute + of_tokens.sum() / (max(totals.answer, 1) * layers)
            with torch.no_grad():
                cosine = torch.cosine_similarity(own.detach().float(), reference.float(), dim=-1)
            losses.cosine[layer] = (cosine.sum() / max(totals.answer, 1)).item()
        for layer, states in reference_retain.items():
            adapted, reference = (truncated.read(layer, s.float()) for s in (adapted_retain[layer], states))
            terms = max(totals.retain, 1) * len(truncated.retain_layers)
            losses.retain = (
                losses.retain + RETAIN[objective.retain](adapted, reference, example_of_retain).sum() / terms
            )
            losses.drift += retain_relative(adapted.detach(), reference, example_of_retain).sum().item() / terms
    return losses


def _pull_loss(adapted: torch.Tensor, examples: list[Encoded], refusal: torch.Tensor, totals: Totals) -> torch.Tensor:
    """The mean of `pull` over the positions before answers, that over answers, and that over refusals, weighted."""
    index, role, number = _pulled(examples)
    weights = totals.pull_weights()[role].to(adapted.device)
    chosen = adapted.index_select(0, index.to(adapted.device))
    return (weights * pull(chosen, refusal[number].to(adapted.device))).sum()


@torch.no_grad()
def validate(
    truncated: TruncatedModel,
    examples: list[Encoded],
    config: RunConfig,
    reference_states: ReferenceStates,
    micro_batch_size: int,
    refusal: torch.Tensor | None = None,
) -> dict[str, Any]:
    """The step's losses on held-out examples: reroute_loss, retain_loss, drift, and the cosine of each target layer.

    Leaves the model in evaluation mode.
    """
    truncated.set_training(False)
    totals = Totals.of(examples)
    reroute = retain = drift = 0.0
    cosine = dict.fromkeys(truncated.target_layers, 0.0)
    bfloat16 = truncated.model.dtype == torch.bfloat16
    for part in truncated.micro_batches(examples, micro_batch_size):
        with torch.autocast(truncated.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            losses = micro_batch_losses(truncated, part, config, reference_states, totals, refusal)
        reroute, retain = reroute + losses.reroute.item(), retain + losses.retain.item()
        drift += losses.drift
        for layer, value in losses.cosine.items():
            cosine[layer] += value
    return {
        "reroute_loss": reroute,
        "retain_loss": retain,
        "drift": drift,
        "cosine": {str(layer): value for layer, value in cosine.items()},
    }
