"""Check that the merged model computes what base + adapter compute, in float32.

A model that does not fit into memory in float32 runs with accelerate's offloading hooks, which read the weights of one
module at a time from the safetensors on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils import PrefixedDataset
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from cbgui import hardware
from cbgui.errors import InputError
from cbgui.hardware import CONTEXT
from cbgui.modeling.chat_format import conversation_ids, load_tokenizer, prompt_ids
from cbgui.modeling.cpu import allocator
from cbgui.modeling.hub import ModelSource, weight_files
from cbgui.runs.run import ADAPTER_WEIGHTS, Run

MAX_TOKENS = 256  # of each example that is compared
MAX_NEW_TOKENS = 8  # of the answers that the merged model gives
EXAMPLES = 2  # this many from the start and this many from the end of the retain examples are compared
# Mean total variation between the next-token probabilities of the two models. Rounding in the stored dtype stays far
# below it; a wrong or missing tensor goes far above it.
MAX_VARIATION = 0.05


class _OnDisk(Mapping):
    """Parameter name -> tensor, read on access. `tied` maps tied parameters to the names that they are stored under."""

    def __init__(self, files: list[Path], tied: dict[str, str]) -> None:
        self._tied = tied
        self._file = {}
        for path in files:
            with safe_open(path, "pt") as file:
                self._file |= dict.fromkeys(file.keys(), path)

    def stored_name(self, name: str) -> str:
        """The name under which a file stores a parameter; `name` itself if none does."""
        adapter = name.replace(".default.", ".")  # PEFT's files omit the adapter's name
        if adapter in self._file:
            return adapter
        name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        return name if name in self._file else self._tied.get(name, name)

    def __getitem__(self, name: str) -> torch.Tensor:
        stored = self.stored_name(name)
        with safe_open(self._file[stored], "pt") as file:
            return file.get_tensor(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)


def _fits(weights: int) -> bool:
    """Whether so many weights fit into free memory in float32, with as much again for loading and computing."""
    return psutil.virtual_memory().available > 2 * 4 * weights


def _device(largest: int) -> torch.device:
    """Where offloaded modules run, each of at most `largest` bytes: on the GPU unless another run fills it."""
    gpu_is_full = hardware.memory_kind() == "cuda" and hardware.free_memory() < CONTEXT["cuda"] + 2 * largest
    return torch.device("cpu") if gpu_is_full else hardware.device()


def _in_memory(source: ModelSource, adapter: Path | None) -> PreTrainedModel | PeftModel:
    model = AutoModelForCausalLM.from_pretrained(
        source.path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    return (model if adapter is None else PeftModel.from_pretrained(model, adapter, torch_device="cpu")).eval()


def float32_model(source: ModelSource, adapter: Path | None = None) -> PreTrainedModel | PeftModel:
    """The full model in float32, with the adapter if one is given.

    If it does not fit into memory, the weights stay on disk and each module reads its own when it runs.
    """
    allocator.return_freed_memory()
    config = AutoConfig.from_pretrained(source.path, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if _fits(sum(parameter.numel() for parameter in model.parameters())):
        return _in_memory(source, adapter)
    files, tied = weight_files(source.path), dict(model.all_tied_weights_keys)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, low_cpu_mem_usage=True, torch_device="cpu")
        files.append(adapter / ADAPTER_WEIGHTS)
    weights = _OnDisk(files, tied)
    on_meta = {
        name: [part for part, parameter in module.named_parameters(recurse=False) if parameter.is_meta]
        for name, module in model.named_modules()
    }
    names = [f"{name}.{part}" for name, parts in on_meta.items() for part in parts]
    if not all(weights.stored_name(name) in weights for name in names):
        # transformers renames some weights while loading (GPT-NeoX's head), so these models must fit into memory.
        return _in_memory(source, adapter)
    device = _device(4 * max(parameter.numel() for parameter in model.parameters()))
    for name, parts in on_meta.items():
        if parts:
            hook = AlignDevicesHook(device, offload=True, weights_map=PrefixedDataset(weights, f"{name}."))
            add_hook_to_module(model.get_submodule(name), hook)
    return model.eval()


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
    tokenizer = load_tokenizer(source)
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
