"""The truncated model: the embedding and the decoder layers up to the highest target, and their hidden states.

Neither the losses nor their gradients need anything above the highest target layer, so the rest stays on disk.
(`retain_layers: all`, the published form, runs one layer more; see architecture.layers_to_load.)
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from transformers import PretrainedConfig, PreTrainedModel

from cbgui.config import LoraConfig, RunConfig
from cbgui.modeling.architecture import layers_to_load, read_model_config, target_layers
from cbgui.modeling.batch import (
    PAD_TO,
    Batch,
    Encoded,
    collate,
    longest_micro_batch,
    pack,
    plan_micro_batches,
    shared_tokens,
)
from cbgui.modeling.cpu import onednn
from cbgui.modeling.decoder import (
    decoder_layers,
    decoder_prefix,
    depth,
    empty_of_class,
    final_norm,
    first_layers_class,
    input_norm,
    model_class,
    remove_dropout,
)
from cbgui.modeling.hub import ModelSource
from cbgui.modeling.loading import load_options
from cbgui.modeling.packed_attention import PACKED
from cbgui.modeling.states import layer_states, normed

# Of the norm of each token's hidden state: the rounding of the precision.
PACKING_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.06}
PACKED_LAYERS = {"full_attention", "sliding_attention"}  # types of layers that keep packed examples apart
SHORT_WINDOW = 6  # tokens; shorter than the examples that show whether packing is exact


class EmbeddingOnCpu(torch.nn.Module):
    """An embedding that stays in ordinary memory when Trainer and accelerate move the model."""

    def __init__(self, embedding: torch.nn.Module, device: torch.device) -> None:
        super().__init__()
        self._embedding = (embedding.to("cpu"),)  # in a tuple, so that it is not registered as a submodule
        self.device = device

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self._embedding[0](input_ids.to("cpu")).to(self.device)


@contextmanager
def _short_windows(model: torch.nn.Module) -> Iterator[None]:
    """Inside this context all sliding windows are SHORT_WINDOW tokens, so that short rows reach over them."""
    holders = {id(holder): holder for module in model.modules() for holder in (module, getattr(module, "config", None))}
    sizes = {key: getattr(holder, "sliding_window", None) for key, holder in holders.items()}
    windows = {key: size for key, size in sizes.items() if isinstance(size, int) and not isinstance(size, bool)}
    try:
        for key in windows:
            holders[key].sliding_window = SHORT_WINDOW
        yield
    finally:
        for key, size in windows.items():
            holders[key].sliding_window = size


@dataclass
class TruncatedModel:
    """The embedding and decoder layers that training runs, and how their hidden states are read."""

    model: PreTrainedModel | PeftModel
    target_layers: list[int]
    retain_layers: list[int]
    norms: dict[int, torch.nn.Module]  # layer -> the next layer's input norm; empty for `read: residual`
    last_is_normed: bool = False  # the last layer's states are read after the final norm
    packed: bool = False  # examples share a row; see `use_packing`

    def hidden_states(self, batch: Batch) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """(break, retain): target layers' states at break positions, and retain layers' states at retain positions.

        Layer number -> (tokens, width), see states.py. Rows are padded on the right, so no real token attends to
        padding and no attention mask is needed; without one, attention takes its faster causal path.
        """
        layers = sorted({*self.target_layers, *self.retain_layers})
        more = {} if batch.segments is None else {"attention_mask": batch.segments, "position_ids": batch.position_ids}
        run = functools.partial(self.model, input_ids=batch.input_ids, use_cache=False, **more)
        states, output = layer_states(self.decoder, layers, run)
        if self.last_is_normed:
            states[len(self.layers)] = output[0]
        flat = {layer: states[layer].flatten(0, 1) for layer in layers}
        # On a CPU, the gradient of indexing by a mask takes three to five times as long as that of `index_select`.
        return tuple(
            {layer: flat[layer].index_select(0, positions) for layer in numbers}
            for numbers, positions in (
                (self.target_layers, batch.break_positions),
                (self.retain_layers, batch.retain_positions),
            )
        )

    def micro_batches(self, examples: list[Encoded], size: int) -> list[list[Encoded]]:
        """A step's examples in micro-batches of at most `size` examples and, on a CPU, of limited length."""
        max_tokens = longest_micro_batch(self.device.type)
        lengths, shared = [len(e.ids) for e in examples], shared_tokens(examples)
        parts = plan_micro_batches(lengths, size, packed=self.packed, shared=shared, max_tokens=max_tokens)
        return [[examples[index] for index in part] for part in parts]

    def batch(self, examples: list[Encoded], pad_token_id: int) -> Batch:
        """The examples as the model reads them, on its device: packed into one row where the model allows it."""
        batch = self._pack(examples, pad_token_id) if self.packed else collate(examples, pad_token_id)
        return batch.to(self.device)

    def _pack(self, examples: list[Encoded], pad_token_id: int) -> Batch:
        # Padded rows are multiples of PAD_TO already. A packed row needs that only for oneDNN.
        multiple = PAD_TO if self.device.type == "cpu" and onednn.uses_onednn(self.model.dtype) else 1
        return pack(examples, pad_token_id, multiple)

    @property
    def device(self) -> torch.device:
        """Where the layers are; the embedding may be elsewhere."""
        return next(self.layers.parameters()).device

    @property
    def decoder(self) -> PreTrainedModel:
        """The model without PEFT around it."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The decoder layers."""
        return decoder_layers(self.decoder)

    def first_adapted(self, lora: LoraConfig) -> int:
        """The number of the first layer that LoRA adapts; the lowest is 0."""
        return int(lora.first_layer * self.target_layers[-1])

    @property
    def gradient_checkpointing(self) -> bool:
        return self.model.is_activation_checkpointing

    def enable_gradient_checkpointing(self) -> None:
        self.model.activation_checkpointing_enable()

    def set_training(self, training: bool) -> None:
        """`train()` or `eval()`, but 4-bit layers stay in training mode.

        On a CPU, bitsandbytes repacks them for inference at the first pass in eval mode, and repacked weights pass no
        gradient on (bitsandbytes 0.50, `matmul_4bit`).
        """
        for module in self.model.modules():
            module.training = training or isinstance(module, Linear4bit)

    def keep_embedding_on_cpu(self) -> None:
        """Leave the input embedding in ordinary memory: each token needs one row of it, copied to the GPU."""
        self.model.set_input_embeddings(EmbeddingOnCpu(self.model.get_input_embeddings(), self.device))

    def use_packing(self) -> None:
        """Pack examples into one row where that gives the same hidden states.

        A model that does not run SDPA (because of soft-capped scores, for example) keeps its own attention and padded
        rows, and so does one with layers that hand a state from token to token.
        """
        types = getattr(self.model.config, "layer_types", None) or []
        if self.model.config._attn_implementation == "sdpa" and PACKED_LAYERS.issuperset(types):
            self.model.set_attn_implementation(PACKED)
            self.packed = self._packing_is_exact()
            if not self.packed:
                self.model.set_attn_implementation("sdpa")

    @torch.no_grad()
    def _packing_is_exact(self) -> bool:
        """Whether two packed examples have the hidden states that they have in their own rows, token by token.

        The first token's state is a hundred times longer than the others', so one norm over all would tell nothing.
        """
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1, min(1000, self.model.config.vocab_size), (2, 12), generator=generator)
        ids[1, :4] = ids[0, :4]
        examples = [Encoded(tuple(ids[0].tolist()), 0, False), Encoded(tuple(ids[1, :9].tolist()), 0, False)]
        training = self.model.training
        self.set_training(False)
        bfloat16 = self.model.dtype == torch.bfloat16  # as in training; PEFT's own forward, with dropout, relies on it
        try:
            with _short_windows(self.model), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bfloat16):
                _, packed = self.hidden_states(self._pack(examples, 0).to(self.device))
                _, rows = self.hidden_states(collate(examples, 0).to(self.device))
        except Exception:  # the model cannot read a packed row; the run's log says why
            traceback.print_exc()
            return False
        finally:
            self.set_training(training)
        last = self.retain_layers[-1]
        distance = (packed[last] - rows[last]).float().norm(dim=-1) / rows[last].float().norm(dim=-1)
        return distance.max().item() < PACKING_TOLERANCE[self.model.dtype]

    def read(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states of `layer` as the losses read them; see `ObjectiveConfig.read`. Shapes stay as they are."""
        norm = self.norms.get(layer)
        return hidden if norm is None else normed(norm, self.model.config, hidden)


def load_truncated_model(source: ModelSource, config: RunConfig) -> TruncatedModel:
    """Load only the embedding and the layers that training runs. Raises InputError for a model that is not accepted."""
    model_config = read_model_config(source)
    targets = target_layers(config.objective, depth(model_config))
    partial = first_layers_class(model_class(model_config), layers_to_load(model_config, targets))
    model = partial.from_pretrained(source.path, config=model_config, **load_options(config.model, model_config))
    truncated = _as_truncated_model(model, config, targets)
    if config.model.embedding_on_cpu is True and truncated.device.type != "cpu":
        truncated.keep_embedding_on_cpu()
    return truncated


def empty_truncated_model(
    model_config: PretrainedConfig, config: RunConfig, targets: list[int], dtype: torch.dtype | None = None
) -> TruncatedModel:
    """The truncated model without weights, on PyTorch's meta device, for the memory estimate and the bench."""
    partial = first_layers_class(model_class(model_config), layers_to_load(model_config, targets))
    return _as_truncated_model(empty_of_class(partial, model_config, dtype), config, targets)


def _as_truncated_model(full: PreTrainedModel, config: RunConfig, targets: list[int]) -> TruncatedModel:
    """Take the decoder out of what was loaded, note how the target layers are read, and drop what served only for that.

    Where the losses read only the target layers, the additional layer goes. Otherwise its states are read after the
    final norm, as the published code reads them.
    """
    model = full.get_submodule(decoder_prefix(full))
    layers, loaded = decoder_layers(model), len(decoder_layers(model))
    norms = {}
    if config.objective.read == "normed":
        for layer in targets:
            norm = input_norm(layers[layer]) if layer < loaded else final_norm(model)
            if norm is not None:
                norms[layer] = norm
    if config.objective.retain_layers == "all":
        retain = list(range(loaded + 1))
    else:
        retain = targets
        del layers[targets[-1] :]
    remove_dropout(model)
    if getattr(full, "is_loaded_in_4bit", False):
        model.is_loaded_in_4bit = True
    return TruncatedModel(model, targets, retain, norms, last_is_normed=retain is not targets)
