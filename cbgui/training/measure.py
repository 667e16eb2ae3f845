"""Both losses of a micro-batch, and the validation on held-out examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from cbgui.config import RunConfig
from cbgui.modeling.batch import Encoded
from cbgui.modeling.truncated import TruncatedModel
from cbgui.training.objectives import REROUTE, RETAIN, retain_relative
from cbgui.training.reference_states import ReferenceStates


@dataclass
class Losses:
    """Sums over one micro-batch, already divided by the step's token counts. The tensors keep their graph."""

    reroute: torch.Tensor
    retain: torch.Tensor
    drift: float = 0.0  # `retain_relative`, whichever retain loss is trained
    cosine: dict[int, float] = field(default_factory=dict)  # target layer -> mean cosine, without the ReLU


def _example_of_token(examples: list[Encoded], is_break: bool) -> torch.Tensor:
    """(tokens,): for every loss token of the break or retain examples, the number of its example."""
    lengths = [example.loss_tokens for example in examples if example.is_break is is_break]
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.long))


def micro_batch_losses(
    truncated: TruncatedModel,
    examples: list[Encoded],
    config: RunConfig,
    reference_states: ReferenceStates,
    break_tokens: int,
    retain_tokens: int,
) -> Losses:
    """Both losses of `examples`, from the reference states and one pass with the adapter.

    `break_tokens` and `retain_tokens` count the whole step. The sum over its micro-batches is therefore the step's mean
    over tokens and layers, however the step is cut.
    """
    device, objective = truncated.device, config.objective
    reference_break, reference_retain = reference_states(examples)
    adapted_break, adapted_retain = truncated.hidden_states(truncated.batch(examples, reference_states.pad_token_id))
    example_of_break, example_of_retain = (_example_of_token(examples, side).to(device) for side in (True, False))
    zero = torch.zeros((), device=device)
    losses = Losses(zero, zero, cosine=dict.fromkeys(truncated.target_layers, 0.0))
    with torch.autocast(device.type, enabled=False):
        for layer, states in reference_break.items():
            adapted, reference = (truncated.read(layer, s.float()) for s in (adapted_break[layer], states))
            terms = max(break_tokens, 1) * len(truncated.target_layers)
            losses.reroute = (
                losses.reroute + REROUTE[objective.reroute](adapted, reference, example_of_break).sum() / terms
            )
            with torch.no_grad():
                cosine = torch.cosine_similarity(adapted.detach().float(), reference.float(), dim=-1)
            losses.cosine[layer] = (cosine.sum() / max(break_tokens, 1)).item()
        for layer, states in reference_retain.items():
            adapted, reference = (truncated.read(layer, s.float()) for s in (adapted_retain[layer], states))
            terms = max(retain_tokens, 1) * len(truncated.retain_layers)
            losses.retain = (
                losses.retain + RETAIN[objective.retain](adapted, reference, example_of_retain).sum() / terms
            )
            losses.drift += retain_relative(adapted.detach(), reference, example_of_retain).sum().item() / terms
    return losses


@torch.no_grad()
def validate(
    truncated: TruncatedModel,
    examples: list[Encoded],
    config: RunConfig,
    reference_states: ReferenceStates,
    micro_batch_size: int,
) -> dict[str, Any]:
    """The step's losses on held-out examples: reroute_loss, retain_loss, drift, and the cosine of each target layer.

    Leaves the model in evaluation mode.
    """
    truncated.set_training(False)
    break_tokens = sum(e.loss_tokens for e in examples if e.is_break)
    retain_tokens = sum(e.loss_tokens for e in examples if not e.is_break)
    reroute = retain = drift = 0.0
    cosine = dict.fromkeys(truncated.target_layers, 0.0)
    bfloat16 = truncated.model.dtype == torch.bfloat16
    for part in truncated.micro_batches(examples, micro_batch_size):
        with torch.autocast(truncated.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            losses = micro_batch_losses(truncated, part, config, reference_states, break_tokens, retain_tokens)
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
