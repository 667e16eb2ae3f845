"""Check that the merged model computes what base + adapter compute, in float32.

A model that does not fit into memory in float32 runs with accelerate's offloading hooks, which read the weights of one
module at a time from the safetensors on disk.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils import PrefixedDataset, set_module_tensor_to_device
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedModel

from cbgui import hardware
from cbgui.errors import InputError
from cbgui.hardware import CONTEXT
from cbgui.modeling.chat_format import conversation_ids, load_tokenizer, prompt_ids
from cbgui.modeling.cpu import allocator
from cbgui.modeling.decoder import empty_model, model_class
from cbgui.modeling.hub import ModelSource, weight_files
from cbgui.modeling.quantized import expanding
from cbgui.modeling.stored import StoredWeights
from cbgui.runs.run import ADAPTER_WEIGHTS, Run

MAX_TOKENS = 256  # of each example that is compared
MAX_NEW_TOKENS = 8  # of the answers that the merged model gives
EXAMPLES = 2  # this many from the start and this many from the end of the retain examples are compared
# Mean total variation between the next-token probabilities of the two models. Rounding in the stored dtype stays far
# below it; a wrong or missing tensor goes far above it.
MAX_VARIATION = 0.05


class _OnDisk(Mapping):
    """Parameter name -> tensor, read on access; of a full model, or of one with an adapter."""

    def __init__(self, weights: StoredWeights, adapter: Path | None) -> None:
        self._weights, self._adapter, self._adapted = weights, adapter, []
        if adapter is not None:
            with safe_open(adapter, "pt") as file:
                self._adapted = list(file.keys())

    @staticmethod
    def _in_adapter(name: str) -> str:
        return name.replace(".default.", ".")  # PEFT's files omit the adapter's name

    @staticmethod
    def _in_model(name: str) -> str:
        return name.removeprefix("base_model.model.").replace(".base_layer.", ".")

    def __contains__(self, name: object) -> bool:
        return self._in_adapter(str(name)) in self._adapted or self._in_model(str(name)) in self._weights

    def __getitem__(self, name: str) -> torch.Tensor:
        if (stored := self._in_adapter(name)) in self._adapted:
            with safe_open(self._adapter, "pt") as file:
                return file.get_tensor(stored)
        return self._weights[self._in_model(name)]

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(self._adapted, self._weights)

    def __len__(self) -> int:
        return len(self._adapted) + len(self._weights)


def _fits(weights: int) -> bool:
    """Whether so many weights fit into free memory in float32, with as much again for loading and computing."""
    return psutil.virtual_memory().available > 2 * 4 * weights


def _device(largest: int) -> torch.device:
    """Where offloaded modules run, each of at most `largest` bytes: on the GPU unless another run fills it."""
    gpu_is_full = hardware.memory_kind() == "cuda" and hardware.free_memory() < CONTEXT["cuda"] + 2 * largest
    return torch.device("cpu") if gpu_is_full else hardware.device()


def _in_memory(source: ModelSource, adapter: Path | None) -> PreTrainedModel | PeftModel:
    config = AutoConfig.from_pretrained(source.path, trust_remote_code=False)
    model = model_class(config).from_pretrained(
        source.path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **expanding(config)
    )
    return (model if adapter is None else PeftModel.from_pretrained(model, adapter, torch_device="cpu")).eval()


def float32_model(source: ModelSource, adapter: Path | None = None) -> PreTrainedModel | PeftModel:
    """The full model in float32, with the adapter if one is given.

    If it does not fit into memory, the weights stay on disk and each module reads its own when it runs.
    """
    allocator.return_freed_memory()
    form = empty_model(AutoConfig.from_pretrained(source.path, trust_remote_code=False))
    if _fits(sum(parameter.numel() for parameter in form.parameters())):
        return _in_memory(source, adapter)
    device = _device(4 * max(parameter.numel() for parameter in form.parameters()))
    model = offloaded_model(source, adapter, device)
    return _in_memory(source, adapter) if model is None else model


def offloaded_model(
    source: ModelSource, adapter: Path | None, device: torch.device
) -> PreTrainedModel | PeftModel | None:
    """The full model whose modules read their float32 weights from disk when they run, on `device`.

    None for the few families that cannot run so: weights that transformers makes while loading, or code that computes
    with the weights of another module. Where the code only looks at the embedding, that stays in memory.
    """
    for in_memory in (False, True):
        model = _offload(source, adapter, device, in_memory)
        if model is None:
            return None
        try:
            with torch.no_grad():
                model(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=False)
        except RuntimeError as error:  # PyTorch has no class of its own for this
            if "meta" not in str(error):
                raise
            continue
        return model
    return None


def _offload(
    source: ModelSource, adapter: Path | None, device: torch.device, in_memory: bool
) -> PreTrainedModel | PeftModel | None:
    """`in_memory`: load the embedding, and what transformers takes a model's device from, at once."""
    config = AutoConfig.from_pretrained(source.path, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):
        model = model_class(config)._from_config(config, dtype=torch.float32).eval()
    weights = _OnDisk(StoredWeights(model, weight_files(source.path)), adapter and adapter / ADAPTER_WEIGHTS)
    looked_at = {model.get_input_embeddings()} if in_memory else set()
    for submodel in model.modules() if in_memory else ():
        if isinstance(submodel, PreTrainedModel):
            first = next(submodel.parameters())
            looked_at |= {m for m in submodel.modules() if any(p is first for p in m.parameters(recurse=False))}
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, low_cpu_mem_usage=True, torch_device="cpu").eval()
    on_meta = {
        name: [part for part, parameter in module.named_parameters(recurse=False) if parameter.is_meta]
        for name, module in model.named_modules()
    }
    names = {name: [f"{name}.{part}" if name else part for part in parts] for name, parts in on_meta.items() if parts}
    if not all(full in weights for parts in names.values() for full in parts):
        return None
    for name, parts in names.items():
        module = model.get_submodule(name)
        if module in looked_at:
            for full in parts:
                set_module_tensor_to_device(model, full, device, weights[full].float())
        else:
            hook = AlignDevicesHook(device, offload=True, weights_map=PrefixedDataset(weights, f"{name}."))
            add_hook_to_module(module, hook)
    return model


def _answer(model: torch.nn.Module, ids: torch.Tensor, stop: int | None) -> list[int]:
    """At most MAX_NEW_TOKENS tokens, decoded greedily; each takes one pass over the weights."""
    answer: list[int] = []
    while len(answer) < MAX_NEW_TOKENS:
        token = int(
            model(input_ids=torch.cat([ids, torch.tensor([answer], dtype=ids.dtype)], 1)).logits[0, -1].argmax()
        )
        if token == stop:
            break
        answer.append(token)
    return answer


@torch.no_grad()
def verify(run: Run, source: ModelSource, merged: Path, say: Callable[[str], None]) -> float:
    """Compare the merged model with base + adapter on a few retain examples, and let it answer two prompts; in float32.

    Returns the largest difference of any next-token probability. Break examples are left out, because rounding changes
    the words of a derailed model. The merged model's answers to a break and a retain prompt are passed to `say`.

    Raises InputError if the difference is larger than rounding in the stored dtype explains.
    """
    tokenizer = load_tokenizer(source, run.config().model)
    examples = run.examples("held_out") + run.examples("retain")
    retains = [example for example in examples if example.kind != "break"]
    compared = retains[:EXAMPLES] + retains[-EXAMPLES:]
    rows = [conversation_ids(tokenizer, example, MAX_TOKENS) for example in compared]

    def probabilities(model: torch.nn.Module) -> list[torch.Tensor]:
        return [F.softmax(model(input_ids=ids).logits[0].float(), -1).cpu() for ids in rows]

    say("Comparing: base + adapter")
    adapted = probabilities(float32_model(source, run.adapter_folder))
    say("Comparing: the merged model")
    model = float32_model(ModelSource(merged, merged.name))
    stored = probabilities(model)
    difference = max((a - b).abs().max().item() for a, b in zip(adapted, stored, strict=True))
    mean = max((a - b).abs().sum(-1).mean().item() / 2 for a, b in zip(adapted, stored, strict=True))
    if not mean < MAX_VARIATION:  # also true for NaN
        raise InputError(
            f"run {run.name!r}: the merged model differs from base + adapter (mean total variation {mean:.3f}); "
            "the export was discarded. Export again; if this persists, train with a smaller learning rate."
        )
    for side, example in (("must-stop", run.examples("break")[0]), ("must-keep", retains[0])):
        ids = torch.tensor([prompt_ids(tokenizer, example.chat())[-MAX_TOKENS:]])
        text = tokenizer.decode(_answer(model, ids, tokenizer.eos_token_id))
        say(f"The merged model answers a {side} question with {text!r}")
    return difference
