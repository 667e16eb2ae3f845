"""The model card of a merged model. Everything that it says is read from the run."""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from cbgui.data.examples import KIND_LABELS
from cbgui.errors import InputError
from cbgui.evaluation.compare import is_of_present_adapter, read_report
from cbgui.evaluation.verdict import LIMITS
from cbgui.modeling.decoder import model_class
from cbgui.modeling.hub import DEMO_ID, ModelSource
from cbgui.runs.run import Run

CARD = "README.md"
MAX_SOURCES = 8  # files and data sets that the card names
USE = """\
- **transformers**: `{auto}.from_pretrained("path/to/this/folder")`
- **llama.cpp**, **LM Studio**: as GGUF, which `python -m cbgui export RUN --output FOLDER --gguf q8_0` writes,
  or llama.cpp with `python convert_hf_to_gguf.py path/to/this/folder --outtype q8_0 --outfile my-model.gguf`. Then
  `llama-server -m my-model.gguf`, or `lms import my-model.gguf`.
- **Ollama**: `ollama create my-model -f Modelfile` in this folder, then `ollama run my-model`. Ollama reads safetensors
  of Llama, Mistral, Gemma and Phi-3 models; for others, set `FROM` in the Modelfile to a GGUF.

Quantize after merging, and test the result in a chat: small changes to the weights may be lost when they
are rounded to a few bits."""


def base_metadata(source: ModelSource) -> dict[str, Any]:
    """Licence and languages from the base model's card; empty if its folder has no card.

    A custom licence also has a name and a link.
    """
    try:
        data = ModelCard.load(source.path / "README.md", ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError):
        return {}
    return {key: data[key] for key in ("license", "license_name", "license_link", "language") if data.get(key)}


def _auto_class(source: ModelSource) -> str:
    """The class of transformers that loads a model with its vision tower, if it has one."""
    config = AutoConfig.from_pretrained(source.path, trust_remote_code=False)
    known = MODEL_FOR_CAUSAL_LM_MAPPING
    text_alone = type(config) in known and known[type(config)] is model_class(config)
    return "AutoModelForCausalLM" if text_alone else "AutoModelForImageTextToText"


def _plain(text: str) -> str:
    """One line of text, escaped so that Markdown and HTML show it as it is."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return html.escape(line).replace("|", "&#124;").replace("[", "&#91;").replace("`", "'")


def _data_lines(run: Run) -> list[str]:
    topic = run.dataset_name()
    breaks = run.examples("break")
    kinds = Counter(example.kind for example in run.examples("retain"))
    retains = ", ".join(f"{count} {KIND_LABELS[kind]}" for kind, count in kinds.most_common())
    sources = sorted({example.source for example in breaks if example.source})[:MAX_SOURCES]
    data = f"Topic {_plain(topic)}" if topic else "Data files"
    lines = [f"{data}: {len(breaks)} must-stop examples; must-keep examples: {retains}."]
    if sources:
        lines.append(f"The must-stop examples come from {', '.join(map(_plain, sources))}.")
    return lines


def _share(rate: dict[str, Any]) -> str:
    return "none" if rate["rate"] is None else f"{rate['rate']:.0%} ({rate['low']:.0%} to {rate['high']:.0%})"


def _report_lines(run: Run) -> list[str]:
    try:
        report = read_report(run)
    except InputError:
        return ["This model was not evaluated."]
    if not is_of_present_adapter(report, run):
        return ["This model was trained further after its last evaluation, and not evaluated again."]
    retain, held_out = report["retain"], report["held_out"]
    lines = [
        f"{report['verdict']['words']} On {held_out['break']} must-stop and {held_out['retain']} must-keep "
        "questions that were held out of training (with 95% Wilson intervals):",
        "",
        "| attack | original answers | short-circuited answers | refused | derailed |",
        "|---|---|---|---|---|",
    ]
    for attack in report["attacks"]:
        short = attack["short_circuited"]
        lines.append(
            f"| {_plain(attack['title'])} | {_share(attack['base']['answered'])} | {_share(short['answered'])} "
            f"| {_share(short['refused'])} | {_share(short['derailed'])} |"
        )
    lines += [
        "",
        f"Must-keep questions derailed: {_share(retain['falsely_derailed'])}. On their answers, the KL from the "
        f"original model is {retain['kl']:.4f} nats a token, {retain['top1']:.1%} of the most likely tokens are the "
        f"same, and the perplexity is {retain['perplexity_ratio']:.3f} times the original model's.",
    ]
    return lines


def model_card(run: Run, source: ModelSource) -> str:
    """The text of README.md, with the metadata that the hub reads."""
    config = run.config()
    base = DEMO_ID if config.model.name == "demo" else source.label
    data = ModelCardData(
        base_model=base,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["circuit-breaker", "representation-rerouting"],
        **({"license": "apache-2.0", "language": "en"} if config.model.name == "demo" else base_metadata(source)),
    )
    lines = [
        f"# {_plain(base.rsplit('/', 1)[-1])}, short-circuited",
        "",
        f"{_plain(source.label)}, with a circuit breaker merged into its weights by representation rerouting "
        "(Zou et al. 2024, [arXiv 2406.04313](https://arxiv.org/abs/2406.04313)), made with cbgui. It loads like any "
        "transformers model and needs nothing else at inference.",
        "",
        "## Training",
        *_data_lines(run),
        f"{config.training.steps} steps, seed {config.training.seed}, target layers "
        f"{', '.join(f'{layer:g}' for layer in config.objective.target_layers)}.",
        "",
        "## Measured",
        *_report_lines(run),
        "",
        "## What it does not stop",
        LIMITS,
        "",
        "## Use",
        USE.format(auto=_auto_class(source)),
        "",
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines)


def write_card(run: Run, source: ModelSource, folder: Path) -> None:
    """Write README.md into a merged model's folder."""
    (folder / CARD).write_text(model_card(run, source), "utf-8")
