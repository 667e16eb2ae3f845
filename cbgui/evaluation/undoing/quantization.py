"""Rounding: does the breaker survive when the merged weights are stored in 8 or 4 bits, as most people run models?

The rounded values are written into a copy in full precision, which computes what a packed model would.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from cbgui import hardware
from cbgui.evaluation.metrics import ModelPair
from cbgui.evaluation.undoing.questions import Material, Part, Say
from cbgui.evaluation.undoing.registry import QUANTIZATION
from cbgui.evaluation.undoing.standalone import refuse_larger, standalone, standalone_bytes
from cbgui.modeling.decoder import decoder_layers
from cbgui.modeling.linear import LINEAR, matrix

BITS = (8, 4)
BLOCK = 64  # weights that share a scale in NF4, as bitsandbytes packs them
LARGEST = 127  # of a signed 8-bit number


def parts(material: Material) -> list[Part]:
    """One curve with a point for each number of bits."""
    pair, questions = material.pair, material.questions

    def measure(say: Say) -> list[dict[str, Any]]:
        points = []
        for bits in BITS:
            copied = standalone(pair)
            round_weights(copied, bits)
            points.append(questions.point(bits, questions.ask(copied, lambda bits=bits: say(f"{bits} bits"))))
            del copied
            hardware.free_cached_memory()
        return points

    return [Part(QUANTIZATION, "8 bits with a scale for each row, 4 bits as NF4", "bits", measure, (BITS, BLOCK))]


def refuse_too_large(pair: ModelPair) -> None:
    """Raises InputError when the copy that is rounded does not fit into free memory."""
    refuse_larger(standalone_bytes(pair), pair, QUANTIZATION, "a copy of the model")


@torch.no_grad()
def round_weights(pair: ModelPair, bits: int) -> None:
    """Round the weights of all linear modules in the decoder's layers, in place; embedding and head stay."""
    for module in decoder_layers(pair.body).modules():
        if isinstance(module, LINEAR):
            matrix(module).copy_(rounded(matrix(module), bits))


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """The (out_features, in_features) weight as 8 bits (absolute maximum of each row) or 4 bits (NF4) can hold it."""
    if bits == 4:
        return dequantize_4bit(*quantize_4bit(weight.contiguous(), blocksize=BLOCK, quant_type="nf4")).to(weight.dtype)
    scale = weight.float().abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
    return ((weight.float() / scale).round() * scale).to(weight.dtype)
