""""""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
import transformers
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
)

from cbgui.modeling.hub import (
    DEMO_ID,
    ModelSource,
)
from cbgui.modeling.truncated import TruncatedModel
from cbgui.runs.run import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PART


def save_adapter(truncated: TruncatedModel, source: ModelSource, model_name: str, folder: Path) -> None:
    """Write a standard PEFT adapter whose names are the full model's, so PeftModel.from_pretrained loads it there."""
    settings = truncated.model.peft_config["default"].to_dict()
    _write_adapter(get_peft_model_state_dict(truncated.model), settings, source, model_name, folder)


def checkpoint_adapter(checkpoint: Path, source: ModelSource, model_name: str, folder: Path) -> None:
    """The adapter of a training checkpoint, which is named after the truncated model, as `save_adapter` would write it."""
    settings = json.loads((checkpoint / ADAPTER_CONFIG).read_text("utf-8"))
    _write_adapter(load_file(checkpoint / ADAPTER_WEIGHTS), settings, source, model_name, folder)


def _write_adapter(
    state: dict[str, torch.Tensor], settings: dict, source: ModelSource, model_name: str, folder: Path
) -> None:
    full_config = AutoConfig.from_pretrained(source.path, trust_remote_code=False)
    prefix = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(full_config)].base_model_prefix
    layers = {int(part) for name in state for part in name.split(".") if part.isdigit()}
    state = {
        name.replace("base_model.model.", f"base_model.model.{prefix}.", 1): tensor.detach().cpu().float().contiguous()
        for name, tensor in state.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / (ADAPTER_WEIGHTS + PART)
    save_file(state, part, metadata={"format": "pt"})
    settings |= {
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": DEMO_ID if model_name == "demo" else model_name,
        "target_modules": sorted(settings["target_modules"]),
        "layers_to_transform": sorted(layers),
        "layers_pattern": "layers",
    }
    text = json.dumps(settings, indent=2, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
    (folder / ADAPTER_CONFIG).write_text(text, "utf-8")
    part.replace(folder / ADAPTER_WEIGHTS)


def adapter_deltas(adapter: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """Weight name in the base model -> (A, B, scale); the weight's change is scale * B @ A."""
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text("utf-8"))
    scale = settings["lora_alpha"] / settings["r"]
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as file:
        for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            name, matrix = re.fullmatch(r"base_model\.model\.(.+)\.lora_(A|B)\.weight", key).groups()
            pairs.setdefault(f"{name}.weight", {})[matrix] = file.get_tensor(key)
    return {name: (pair["A"], pair["B"], scale) for name, pair in pairs.items()}
