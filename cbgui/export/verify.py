"""Is the merged model what was trained: computed in float32, and where that does not fit into memory, with one module's
weights there at a time (accelerate's offloading hooks over the safetensors on disk)."""

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
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from cbgui import hardware
from cbgui.data.examples import Example
from cbgui.errors import InputError
from cbgui.hardware import CONTEXT
from cbgui.modeling.chat_format import load_tokenizer, prompt_text
from cbgui.modeling.cpu import allocator
from cbgui.modeling.hub import ModelSource, weight_files
from cbgui.runs.run import ADAPTER_WEIGHTS, Run

LONGEST = 256  # tokens of an example that are compared
ANSWER = 8  # tokens of the two answers
# Mean total variation between the two models' next-token probabilities: far above the stored dtype's rounding, far
# below what a wrong or missing tensor does.
ALLOWED = 0.05


class _OnDisk(Mapping):
    """Parameter name -> its tensor, read when asked for. `tied` maps names that no file has to those that serve."""

    def __init__(self, files: list[Path], tied: dict[str, str]) -> None:
        self._tied = tied
        self._file = {}
        for path in files:
            with safe_open(path, "pt") as file:
                self._file |= dict.fromkeys(file.keys(), path)

    def stored_name(self, name: str) -> str:
        adapter = name.replace(".default.", ".")  # PEFT's files leave the adapter's name out
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
    """Whether so many numbers find room in ordinary memory in float32, and as much again to load and compute."""
    return psutil.virtual_memory().available > 2 * 4 * weights


def _device(largest: int) -> torch.device:
    """Where modules run whose weights, of `largest` bytes at most, are read one by one: the GPU may be training."""
    beside = hardware.kind() == "cuda" and hardware.free_memory() < CONTEXT["cuda"] + 2 * largest
    return torch.device("cpu") if beside else hardware.device()


def _whole(source: ModelSource, adapter: Path | None) -> PreTrainedModel | PeftModel:
    model = AutoModelForCausalLM.from_pretrained(
        source.path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    return (model if adapter is None else PeftModel.from_pretrained(model, adapter, torch_device="cpu")).eval()


def float32_model(source: ModelSource, adapter: Path | None = None) -> PreTrainedModel | PeftModel:
    """The full model in float32, with the adapter where one is given. Where it does not fit into memory, its weights
    stay in their files and each module's are read when it runs."""
    allocator.return_freed_memory()
    config = AutoConfig.from_pretrained(source.path, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if _fits(sum(parameter.numel() for parameter in model.parameters())):
        return _whole(source, adapter)
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
        # transformers renames some families' weights as it loads them (GPT-NeoX's head): load these whole.
        return _whole(source, adapter)
    device = _device(4 * max(parameter.numel() for parameter in model.parameters()))
    for name, parts in on_meta.items():
        if parts:
            hook = AlignDevicesHook(device, offload=True, weights_map=PrefixedDataset(weights, f"{name}."))
            add_hook_to_module(model.get_submodule(name), hook)
    return model.eval()


def _answer(model: torch.nn.Module, ids: torch.Tensor, stop: int | None) -> list[int]:
    """ANSWER tokens, the likeliest ones; a pass over the weights for each."""
    answer: list[int] = []
    while len(answer) < ANSWER:
        token = int(
            model(input_ids=torch.cat([ids, torch.tensor([answer], dtype=ids.dtype)], 1)).logits[0, -1].argmax()
        )
        if token == stop:
            break
        answer.append(token)
    return answer


def _rows(tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> list[torch.Tensor]:
    texts = [prompt_text(tokenizer, example.chat()) + example.response for example in examples]
    return [tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[:, :LONGEST] for text in texts]


@torch.no_grad()
def verify(run: Run, source: ModelSource, merged: Path, say: Callable[[str], None]) -> float:
    """Largest difference of next-token probabilities between merged and base + adapter, over a few keep examples, both
    computed in float32. Break examples do not serve: a derailed model answers rounding with quite another word. Then
    the merged model answers a break and a keep prompt, which are told through `say`.

    Raises InputError when the difference is more than the stored dtype's rounding explains.
    """
    tokenizer = load_tokenizer(source)
    examples = run.examples("held_out") + run.examples("retain")
    kept = [example for example in examples if example.kind != "break"]
    rows = _rows(tokenizer, kept[:2] + kept[-2:])

    def probabilities(model: torch.nn.Module) -> list[torch.Tensor]:
        return [F.softmax(model(input_ids=ids).logits[0].float(), -1).cpu() for ids in rows]

    say("Comparing: base + adapter")
    adapted = probabilities(float32_model(source, run.adapter_folder))
    say("Comparing: the merged model")
    model = float32_model(ModelSource(merged, merged.name))
    stored = probabilities(model)
    difference = max((a - b).abs().max().item() for a, b in zip(adapted, stored, strict=True))
    mean = max((a - b).abs().sum(-1).mean().item() / 2 for a, b in zip(adapted, stored, strict=True))
    if not mean < ALLOWED:  # not (<) so that NaN fails too
        raise InputError(
            f"run {run.name!r}: the merged model differs from base + adapter (mean total variation {mean:.3f}); "
            "the export was not kept. Export again; if it stays, train with a smaller learning rate."
        )
    breaks = run.examples("break")
    for side, example in (("break", breaks[0]), ("keep", kept[0])):
        ids = tokenizer(prompt_text(tokenizer, example.chat()), add_special_tokens=False, return_tensors="pt").input_ids
        text = tokenizer.decode(_answer(model, ids[:, -LONGEST:], tokenizer.eos_token_id))
        say(f"The merged model answers a {side} request with {text!r}")
    return difference
