"""What lies beside a merged model: its card, and an Ollama Modelfile. All they say is read from the run."""

from __future__ import annotations

import html
import json
from collections import Counter
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from cbgui.evaluation.verdict import LIMITS
from cbgui.modeling.hub import DEMO_ID, ModelSource
from cbgui.runs.run import Run

USE = """\
- **transformers**: `AutoModelForCausalLM.from_pretrained("path/to/this/folder")`
- **Ollama**: `ollama create my-model -f Modelfile` in this folder, then `ollama run my-model`. Ollama reads safetensors
  of Llama, Mistral, Gemma and Phi-3 models; convert others to GGUF first.
- **llama.cpp**: `python convert_hf_to_gguf.py path/to/this/folder --outfile my-model.gguf`, then
  `llama-quantize my-model.gguf my-model-q8_0.gguf Q8_0` where it must be smaller.
- **LM Studio**: convert to GGUF as for llama.cpp, then `lms import my-model.gguf`.

Quantize after merging, and chat with the result: few bits round away small changes of the weights."""


def base_metadata(source: ModelSource) -> dict[str, Any]:
    """licence (and its name and link, where it is of its own kind) and languages of the base model's card, if it has
    one beside its weights."""
    try:
        data = ModelCard.load(source.path / "README.md", ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError):
        return {}
    return {key: data[key] for key in ("license", "license_name", "license_link", "language") if data.get(key)}


def _plain(text: str) -> str:
    """One line of text that Markdown and HTML leave as it is."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return html.escape(line).replace("|", "&#124;").replace("[", "&#91;").replace("`", "'")


def _data_words(run: Run) -> list[str]:
    name = run.dataset_name() or "files"
    breaks = run.examples("break")
    kinds = Counter(example.kind for example in run.examples("retain"))
    names = {"retain": "ordinary", "near_miss": "near misses", "refusal": "refusals"}
    kept = ", ".join(f"{count} {names.get(kind, kind)}" for kind, count in kinds.most_common())
    sources = sorted({example.source for example in breaks if example.source})[:8]
    words = [f"Data set {_plain(name)}: {len(breaks)} break examples; keep examples: {kept}."]
    if sources:
        words.append(f"The break examples come from {', '.join(map(_plain, sources))}.")
    return words


def _share(rate: dict[str, Any]) -> str:
    return "none" if rate["rate"] is None else f"{rate['rate']:.0%} ({rate['low']:.0%} to {rate['high']:.0%})"


def _report_words(run: Run) -> list[str]:
    try:
        report = json.loads(run.report_file.read_text("utf-8"))
    except (OSError, ValueError):
        return ["The model was not evaluated before it was exported."]
    kept, held_out = report["retain"], report["held_out"]
    lines = [
        f"{report['verdict']['words']} On {held_out['break']} break and {held_out['keep']} keep requests that were "
        "held out of training (Wilson 95% intervals):",
        "",
        "| attack | base model answers | short-circuited answers | derailed |",
        "|---|---|---|---|",
    ]
    for attack in report["attacks"]:
        short = attack["short_circuited"]
        lines.append(
            f"| {_plain(attack['title'])} | {_share(attack['base']['answered'])} | {_share(short['answered'])} "
            f"| {_share(short['derailed'])} |"
        )
    lines += [
        "",
        f"Keep requests derailed: {_share(kept['falsely_derailed'])}. KL from the base model on their answers "
        f"{kept['kl']:.4f} nats a token, same likeliest token {kept['top1']:.1%}, perplexity ratio "
        f"{kept['perplexity_ratio']:.3f}.",
    ]
    return lines


def model_card(run: Run, source: ModelSource) -> str:
    """README.md of the merged model, with the metadata that the hub reads."""
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
        "transformers model; nothing is added at inference.",
        "",
        "## Training",
        *_data_words(run),
        f"{config.training.steps} steps, seed {config.training.seed}, target layers "
        f"{', '.join(f'{layer:g}' for layer in config.objective.target_layers)}.",
        "",
        "## Measured",
        *_report_words(run),
        "",
        "## What it does not stop",
        LIMITS,
        "",
        "## Use",
        USE,
        "",
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines)


def write_card(run: Run, source: ModelSource, folder: Path) -> None:
    """README.md and Modelfile into a merged model's folder."""
    (folder / "README.md").write_text(model_card(run, source), "utf-8")
    (folder / "Modelfile").write_text("FROM .\n", "utf-8")
