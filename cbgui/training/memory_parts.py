"""The memory that training takes, part by part, for concrete settings.

No weights are read: the model's structure comes from its config on PyTorch's meta device. The bytes of a token are
counted from what autograd keeps of a decoder layer (`_activation_bytes`). The few constants were fitted to measured
peaks (dev/LOG.md, 2026-11-26 and 2026-11-27).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from cbgui import hardware
from cbgui.config import LoraConfig, RunConfig
from cbgui.hardware import CONTEXT, CUBLAS, CUDA_BUILD, DATASETS
from cbgui.modeling.batch import longest_micro_batch, micro_batch_tokens, padded, plan_micro_batches
from cbgui.modeling.cpu import onednn, query_blocks
from cbgui.modeling.decoder import (
    adapted_modules,
    attention_heads,
    decoder_layers,
    empty_model,
    layer_list,
    setting,
    text_config,
    text_decoder,
)
from cbgui.modeling.linear import LINEAR, sizes
from cbgui.modeling.loading import NF4_BYTES, compute_dtype
from cbgui.modeling.states import state_width
from cbgui.modeling.truncated import TruncatedModel

# oneDNN's kernels and their scratch memory, by bytes per number (2: bfloat16, 4: float32).
ONEDNN = {2: 80 * 2**20, 4: 58 * 2**20}
MKL = 48 * 2**20  # what MKL keeps where it multiplies instead (measured on a Xeon)
# What NF4 weights, unpacked to float32, leave in the heap where freed blocks are kept (measured).
UNPACKED_KEPT = 40 * 2**20
# The optimizer's size as a share of float32 moments: 8 bits a moment, and a float32 scale for each 256 of them.
ADAM_8BIT = (1 + 4 / 256) / 4
# Tokenizer, examples, events and checkpoints on a CPU; the bench has none of these.
DATA = 130 * 2**20
# One context at a time, as when memory is scarce: its tokens, and its positions that the loss reads.
SOLVED_TOKENS, SOLVED_POSITIONS = 256, 110
# Float32 copies that the losses keep of both models' states, for each layer that is read (measured).
LOSS_COPIES = {"cpu": 8, "cuda": 4}
# Copies of a token's further states that mixing them in a layer keeps (measured on tiny Gemma 3n and HY4).
MIXED_COPIES = 6
# Rounding and fragments of the GPU's allocator, by whether gradient checkpointing is on (measured).
CUDA_SLACK = {False: 1.06, True: 1.15}
# On a CPU without gradient checkpointing, freed blocks are kept and do not always fit the next micro-batch (measured);
# by bytes per number, and whether a step has more than one micro-batch.
KEPT_SLACK = {(2, False): 1.08, (2, True): 1.45, (4, False): 1.05, (4, True): 1.5}
RETURNED_SLACK = 1.3  # on a CPU with gradient checkpointing, only small freed blocks are kept (measured)


@dataclass(frozen=True)
class Part:
    """One line of the memory estimate."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Steps:
    """The examples of a training, by their lengths in tokens."""

    lengths: list[list[int]]  # of each step's examples
    shared: int = 0  # tokens that all examples begin with


@dataclass(frozen=True)
class _Layer:
    """The sizes of one decoder layer."""

    linears: list[tuple[int, int]]  # (in_features, out_features)
    adapted: list[tuple[int, int]]  # those that LoRA adapts
    attention_width: int  # heads x head size
    key_width: int  # key heads x head size
    intermediate_size: int  # of the MLP, or of the experts that work on one token
    norms: int  # norms that work on the hidden state


@dataclass(frozen=True)
class _Shape:
    """The sizes of a truncated model."""

    layers: list[_Layer]
    hidden_size: int
    state_width: int  # of all states of a token together
    other_weights: int  # norms, biases, embeddings of single layers, and experts: what no quantization packs
    embedding: int  # weights of the input embedding
    heads: int

    @property
    def trained(self) -> list[_Layer]:
        """From the first layer that LoRA adapts on. Autograd saves nothing below it."""
        return self.layers[next(number for number, layer in enumerate(self.layers) if layer.adapted) :]

    @property
    def linears(self) -> list[tuple[int, int]]:
        return [sizes for layer in self.layers for sizes in layer.linears]


def solving_bytes(model_config: PretrainedConfig, config: RunConfig, layer: int) -> int:
    """Bytes at the peak of solving for a refusal's states above `layer` (refusal_states.py).

    It is over before training starts. Each token keeps about 14 hidden states and 4 rows of the MLP in a layer, and
    each position of the loss three rows of the vocabulary.
    """
    dtype = compute_dtype(config.model)
    model = empty_model(model_config)
    layers = decoder_layers(text_decoder(model))
    shares_keys = getattr(text_config(model_config), "num_kv_shared_layers", None)  # then all layers are loaded
    below = 0 if shares_keys else sum(p.numel() for lower in layers[:layer] for p in lower.parameters())
    linears = sum(m.weight.numel() for above in layers[layer:] for m in above.modules() if isinstance(m, LINEAR))
    packed = linears if config.model.quantization == "nf4" else 0
    weights = (sum(p.numel() for p in model.parameters()) - below - packed) * dtype.itemsize + packed * NF4_BYTES
    text = text_config(model_config)
    wide = 14 * text.hidden_size + 4 * (setting(text, "intermediate_size") or 4 * text.hidden_size)
    tokens = min(config.data.max_tokens, SOLVED_TOKENS)
    activations = tokens * len(layers[layer:]) * wide * dtype.itemsize
    return int(weights + activations + 3 * SOLVED_POSITIONS * text.vocab_size * 4)


def _shape(truncated: TruncatedModel, lora: LoraConfig) -> _Shape:
    model, layers = truncated.model, truncated.layers
    adapted = set(adapted_modules(model, truncated.first_adapted(lora)))
    shapes = [_layer(layer, model.config, f"{layer_list(model)}.{n}", adapted) for n, layer in enumerate(layers)]
    in_linears = sum(i * o for layer in shapes for i, o in layer.linears)
    embedding = model.get_input_embeddings().weight.numel()
    return _Shape(
        layers=shapes,
        hidden_size=model.config.hidden_size,
        other_weights=sum(p.numel() for p in model.parameters()) - embedding - in_linears,
        embedding=embedding,
        state_width=state_width(model.config),
        heads=attention_heads(model.config)[0],
    )


def _layer(layer: torch.nn.Module, config: PretrainedConfig, path: str, adapted: set[str]) -> _Layer:
    (heads, key_heads, _), hidden = attention_heads(config), config.hidden_size
    linears = {name: m for name, m in layer.named_modules() if isinstance(m, LINEAR)}
    in_attention = {name for name in linears if "attn" in name or "attention" in name}
    width = max((sizes(linears[name])[0] for name in in_attention), default=hidden)
    mlp = [sizes(m)[1] for name, m in linears.items() if name not in in_attention]
    norms = sum("norm" in name and "." not in name for name, _ in layer.named_modules())
    return _Layer(
        linears=[sizes(m) for m in linears.values()],
        adapted=[sizes(m) for name, m in linears.items() if f"{path}.{name}" in adapted],
        attention_width=width,
        key_width=width * key_heads // heads,
        intermediate_size=_expert_width(layer, config) or max(mlp, default=4 * hidden),
        norms=norms or 2,
    )


def _expert_width(layer: torch.nn.Module, config: PretrainedConfig) -> int:
    """The width of all experts together that work on one token; 0 in a dense layer."""
    if not any("experts" in name for name, _ in layer.named_parameters()):
        return 0
    size = setting(config, "moe_intermediate_size") or setting(config, "intermediate_size") or 4 * config.hidden_size
    return size * (getattr(config, "num_experts_per_tok", None) or 1)


def _activation_bytes(shape: _Shape, layer: _Layer, width: int, length: int, r: int, attention: str) -> float:
    """Bytes that autograd saves for one token in one layer.

    `width` is the bytes per number, `length` the tokens of the row. It counts the inputs of the linear layers (q, k
    and v share theirs, and so do gate and up), the float32 copies that norms work on, attention's own tensors, three
    intermediate products of the MLP, and LoRA's inner products. Within 3% of what
    torch.autograd.graph.saved_tensors_hooks sees in Llama, Qwen2 and Gemma 2 in bfloat16.
    """
    h, q, i = shape.hidden_size, layer.attention_width, layer.intermediate_size
    per_token = width * (2 * h + q + i) + 4 * h * layer.norms + width * 3 * i + width * r * len(layer.adapted)
    per_token += MIXED_COPIES * width * (shape.state_width - h)
    if attention == "eager":  # rotated q, repeated k and v; scores after the cap, softmax in float32 and rounded
        return per_token + width * 3 * q + (2 * width + 4) * shape.heads * length
    per_token += width * (2 * q + 2 * layer.key_width)  # rotated q and k, v, the output
    if attention == "blocks":  # attention weights, for the keys up to the end of each query's block
        per_token += width * shape.heads * min(length, (length + query_blocks.BLOCK) / 2)
    return per_token


def micro_batches_of(truncated: TruncatedModel, config: RunConfig, device: str, steps: Steps) -> list[list[int]]:
    """For each step, the tokens of its micro-batches."""
    packing = {"packed": truncated.model.config._attn_implementation == "sdpa", "shared": steps.shared}
    size, limit = config.training.micro_batch_size, longest_micro_batch(device)
    return [
        [
            micro_batch_tokens([lengths[index] for index in part], **packing)
            for part in plan_micro_batches(lengths, size, max_tokens=limit, **packing)
        ]
        for lengths in steps.lengths
    ]


def parts_of(
    truncated: TruncatedModel,
    config: RunConfig,
    device: str,
    steps: Steps,
    micro_batches: list[list[int]],
    with_data: bool,
) -> list[Part]:
    """The parts that add up to the peak of a training with these settings on "cpu" or "cuda".

    Nothing in the settings may be "auto". `micro_batches` comes from `micro_batches_of`; `with_data` is False for the
    bench.
    """
    training, shape = config.training, _shape(truncated, config.lora)
    width = torch.finfo(compute_dtype(config.model)).bits // 8
    length = padded(max(max(lengths) for lengths in steps.lengths))
    tokens = max(max(step) for step in micro_batches)
    in_linears = sum(i * o for i, o in shape.linears)
    linear_bytes = in_linears * (NF4_BYTES if config.model.quantization == "nf4" else width)
    adapter = 4 * config.lora.r * sum(i + o for layer in shape.layers for i, o in layer.adapted)
    attention = truncated.model.config._attn_implementation
    if attention == "sdpa" and device == "cpu" and length <= query_blocks.LONGEST:
        attention = "blocks"
    per_layer = [_activation_bytes(shape, layer, width, length, config.lora.r, attention) for layer in shape.trained]
    layers_read = len({*truncated.target_layers, *truncated.retain_layers})
    losses = tokens * layers_read * LOSS_COPIES[device] * 4 * shape.state_width
    products = (
        tokens * 3 * width * max(layer.intermediate_size for layer in shape.layers)
    )  # the widest products of a layer while it is computed
    if training.gradient_checkpointing:  # a layer is computed again once the losses are freed
        activations = tokens * len(shape.trained) * shape.state_width * width + max(tokens * max(per_layer), losses)
        workspace = products
        if attention == "blocks":  # scores, softmax and its gradient of one block
            workspace += 3 * width * tokens * shape.heads * min(length, query_blocks.BLOCK)
    else:
        activations = tokens * sum(per_layer)
        workspace = max(losses, products) + adapter // 2  # LoRA's weights in the model's precision
    if config.model.quantization == "nf4":  # the widest weight of a layer, unpacked
        workspace += width * max(i * o for i, o in shape.linears)
    if device == "cuda":
        slack = CUDA_SLACK[training.gradient_checkpointing]
        workspace += CUBLAS
    elif training.gradient_checkpointing:
        slack = RETURNED_SLACK
    else:
        slack = KEPT_SLACK[width, max(len(step) for step in micro_batches) > 1]
        workspace += UNPACKED_KEPT if config.model.quantization == "nf4" and width == 4 else 0
    context = CONTEXT[device]
    if device == "cpu":
        context += ONEDNN[width] if onednn.uses_onednn(compute_dtype(config.model)) else MKL
        context += CUDA_BUILD if torch.version.cuda else 0
        context += DATASETS if hardware.has_datasets() else 0
    return [
        Part("context", context),
        Part("data", DATA if with_data and device == "cpu" else 0),
        Part("truncated model", int(linear_bytes + shape.other_weights * width)),
        Part("embedding", 0 if config.model.embedding_on_cpu and device != "cpu" else shape.embedding * width),
        Part("adapter", adapter),
        Part("gradients", adapter),
        Part("optimizer", int(2 * adapter * ADAM_8BIT) if training.optim == "adamw_8bit" else 2 * adapter),
        Part("activations", int(slack * activations)),
        Part("workspace", int(slack * workspace)),
    ]
