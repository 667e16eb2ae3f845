"""What is judged: a run's two models, or any two models of which one was changed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbgui.config import RunConfig
from cbgui.data.examples import Example
from cbgui.data.reading import read_examples
from cbgui.errors import InputError
from cbgui.inference.chat import ChatModel, load_chat_model
from cbgui.modeling.chat_format import load_tokenizer
from cbgui.modeling.full import load_full_model, load_with_adapter
from cbgui.modeling.hub import ModelSource, resolve_model
from cbgui.modeling.lora import adapt_rows
from cbgui.modeling.two_models import TwoModels
from cbgui.runs.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_adapter, sha256
from cbgui.runs.disk import version
from cbgui.runs.run import Run

UNQUANTIZED = "none"


@dataclass(frozen=True)
class Subject:
    """Two models in one, and what the report says of them."""

    name: str
    run: Run  # its folder takes the answers and the report
    config: RunConfig
    changed: str  # identifies the changed model's weights
    load: Callable[[], ChatModel]
    settings: dict[str, Any]  # as the report shows them
    target_layers: list[int] = field(default_factory=list)
    shown: list[Example] = field(default_factory=list)  # break examples that few-shot attacks show
    kept: list[Example] = field(default_factory=list)  # retain examples that training saw


def subject_of_run(run: Run) -> Subject:
    """The run's model and its base. Raises InputError when the run has no adapter."""
    config = run.config()
    run.need_adapter()
    steps = [event for event in run.events()[0] if event["kind"] == "step"]
    # Layer numbers come from the events, as the settings may give them as fractions of the depth.
    layers = sorted(int(layer) for layer in steps[-1]["cosine"]) if steps else []
    settings = config.model_dump(exclude={"data"})
    load = functools.partial(load_chat_model, run)
    rows = run.examples("break"), run.examples("retain")
    return Subject(run.name, run, config, run.adapter_hash(), load, settings, layers, *rows)


def subject_of_pair(base: str, broken: str, output: Path, shots: Path | None = None) -> Subject:
    """A model and a changed copy of it, each a folder or a hub id; `broken` may be a folder with a LoRA adapter.

    `output` takes the report. Raises InputError for what is no such pair.
    """
    config = RunConfig.model_validate({"model": {"name": base, "quantization": UNQUANTIZED}})
    source = resolve_model(base)
    shown = read_examples(shots, "break") if shots else []
    adapter = Path(broken)
    if (adapter / ADAPTER_CONFIG).is_file():
        _check_lora(adapter)
        load = functools.partial(_load_adapter, source, config, adapter)
        changed = sha256(adapter / ADAPTER_WEIGHTS, version(adapter / ADAPTER_WEIGHTS))
    else:
        other = resolve_model(broken)
        load, changed = functools.partial(_load_two, source, other, config, broken), other.version
    settings = {"base": base, "broken": broken, "training": {"seed": config.training.seed}}
    name = f"{Path(broken).name} against {Path(base).name}"
    return Subject(name, Run(output), config, changed, load, settings, shown=shown)


def _check_lora(adapter: Path) -> None:
    """Raises InputError for an adapter that is damaged, or more than LoRA on linear layers."""
    try:
        check_adapter(adapter)
        settings = json.loads((adapter / ADAPTER_CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--broken {str(adapter)!r}: {error}; give a whole adapter or a whole model.") from None
    more = {name for name in ("use_dora", "modules_to_save", "alora_invocation_tokens") if settings.get(name)}
    if settings.get("peft_type") != "LORA" or settings.get("bias", "none") != "none" or more:
        what = ", ".join(sorted(more)) or settings.get("peft_type")
        raise InputError(
            f"--broken {str(adapter)!r} is an adapter of another kind than plain LoRA ({what}); merge it into its "
            "base, and give the folder with the merged model."
        )


def _load_adapter(source: ModelSource, config: RunConfig, adapter: Path) -> ChatModel:
    model = load_with_adapter(source, config.model, adapter)
    return ChatModel(model, load_tokenizer(source, config.model), [], adapt_rows(model))


def _load_two(source: ModelSource, other: ModelSource, config: RunConfig, name: str) -> ChatModel:
    both = TwoModels(load_full_model(source, config.model), load_full_model(other, config.model), name).eval()
    return ChatModel(both, load_tokenizer(source, config.model), [], both.rows)
