"""Save adapters under the full model's parameter names, so that PEFT can load them; read them for merging."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cbgui.modeling.decoder import decoder_prefix, empty_model
from cbgui.modeling.hub import DEMO_ID, ModelSource
from cbgui.modeling.linear import LINEAR
from cbgui.modeling.lora import ADAPTER
from cbgui.modeling.truncated import TruncatedModel
from cbgui.runs.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from cbgui.runs.disk import PART, move, write_whole


def save_adapter(truncated: TruncatedModel, source: ModelSource, model_name: str, folder: Path) -> None:
    """Write a standard PEFT adapter that PeftModel.from_pretrained loads on the full model."""
    settings = truncated.model.peft_config[ADAPTER].to_dict()
    _write_adapter(get_peft_model_state_dict(truncated.model), settings, source, model_name, folder)


def checkpoint_adapter(checkpoint: Path, source: ModelSource, model_name: str, folder: Path) -> None:
    """Write a training checkpoint's adapter as `save_adapter` does; checkpoints use the truncated model's names."""
    settings = json.loads((checkpoint / ADAPTER_CONFIG).read_text("utf-8"))
    _write_adapter(load_file(checkpoint / ADAPTER_WEIGHTS), settings, source, model_name, folder)


def _write_adapter(
    state: dict[str, torch.Tensor], settings: dict[str, Any], source: ModelSource, model_name: str, folder: Path
) -> None:
    full = empty_model(AutoConfig.from_pretrained(source.path, trust_remote_code=False))
    decoder = f"base_model.model.{decoder_prefix(full)}."
    state = {
        name.replace("base_model.model.", decoder, 1): tensor.detach().cpu().float().contiguous()
        for name, tensor in state.items()
    }
    modules = {name.removeprefix("base_model.model.").rsplit(".lora_", 1)[0] for name in state}
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / (ADAPTER_WEIGHTS + PART)
    save_file(state, part, metadata={"format": "pt"})
    settings |= {
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": DEMO_ID if model_name == "demo" else model_name,
    } | _targets(full, modules)
    text = json.dumps(settings, indent=2, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
    write_whole(folder / ADAPTER_CONFIG, text)
    move(part, folder / ADAPTER_WEIGHTS)


def _targets(full: PreTrainedModel, modules: set[str]) -> dict[str, Any]:
    """PEFT's settings that choose `modules` in the full model: short names and layer numbers where these say enough.

    A vision tower has modules of the same names, and PEFT takes some short names for a mixture's experts; there, the
    full names are listed.
    """
    short = sorted({name.rsplit(".", 1)[-1] for name in modules})
    layer = {name: re.search(r"\.layers\.(\d+)\.", f".{name}") for name, _ in full.named_modules()}
    numbers = sorted({int(layer[name][1]) for name in modules if layer[name]})
    linears = [name for name, module in full.named_modules() if isinstance(module, LINEAR)]
    chosen = {
        name for name in linears if name.rsplit(".", 1)[-1] in short and layer[name] and int(layer[name][1]) in numbers
    }
    if chosen == modules:
        return {"target_modules": short, "layers_to_transform": numbers, "layers_pattern": "layers"}
    return {"target_modules": sorted(modules)}


def adapter_deltas(adapter: Path, full: PreTrainedModel) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """Name of a weight of the full model -> (A, B, scale); A is (r, columns of the weight), B (its rows, r).

    Merging adds scale * B @ A to the weight. `full` may be empty.
    """
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text("utf-8"))
    scale = settings["lora_alpha"] / settings["r"]
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as file:
        for key in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
            name, matrix = re.fullmatch(r"base_model\.model\.(.+)\.lora_(A|B)\.weight", key).groups()
            pairs.setdefault(f"{name}.weight", {})[matrix] = file.get_tensor(key)
    turned = {f"{name}.weight" for name, module in full.named_modules() if isinstance(module, Conv1D)}
    return {
        name: (pair["B"].t(), pair["A"].t(), scale) if name in turned else (pair["A"], pair["B"], scale)
        for name, pair in pairs.items()
    }
