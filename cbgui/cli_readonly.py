"""Commands that only look: estimate, check, bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cbgui.config import RunConfig, load_config, override
from cbgui.errors import InputError
from cbgui.parsing import parse_size
from cbgui.printing import say_starting

MemoryOption = Annotated[str | None, typer.Option("--memory", help="such as 8GB; by default what this machine has")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="such as data.max_tokens=256; see docs/cli.md")]


def estimate(
    preset: Annotated[str, typer.Argument(metavar="PRESET_OR_YAML")],
    memory: MemoryOption = None,
    model: Annotated[
        str | None, typer.Option(help="hub id, folder, or a named architecture such as llama-3-8b")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default this machine's")] = None,
    assignments: SetOption = None,
) -> None:
    """Will it fit? The memory that training takes, part by part, before any weights are loaded."""
    if device not in (None, "cpu", "cuda"):
        raise InputError(f"--device {device!r} is unknown; use cpu or cuda.")
    config = override(load_config(preset), assignments or [])
    limit = parse_size(memory, "--memory") if memory else None
    say_starting()
    from cbgui import hardware
    from cbgui.modeling.architecture import read_model_config
    from cbgui.modeling.full import full_model_in_words
    from cbgui.modeling.hub import resolve_model
    from cbgui.training.memory import estimate_memory
    from cbgui.training.named_architectures import ARCHITECTURES, architecture

    name = model or config.model.name
    named = name in ARCHITECTURES
    model_config = architecture(name) if named else read_model_config(resolve_model(name, weights=False))
    available = limit or hardware.memory_for_training()
    device = device or hardware.memory_kind()
    result = estimate_memory(model_config, config, available, device)
    for part in result.parts:
        typer.echo(f"{part.name:<16}{part.bytes / hardware.GIB:9.2f} GiB")
    typer.echo(f"{'sum':<16}{result.total / hardware.GIB:9.2f} GiB of {available / hardware.GIB:.2f} GiB: it fits.")
    for reason in result.reasons:
        typer.echo(reason)
    typer.echo(full_model_in_words(model_config, result.config.model, available, device))


def check(
    file: Annotated[Path, typer.Argument(help="CSV, TSV, JSON, JSONL, Parquet, XLSX or TXT")],
    kind: Annotated[str, typer.Option(help="break or retain: the kind of rows that have none")] = "break",
    show: Annotated[int, typer.Option(min=0, help="print so many examples as training would see them, as JSON")] = 0,
    answer: Annotated[str | None, typer.Option(help="chosen or rejected: which answer of a pair must stop")] = None,
    max_tokens: Annotated[int, typer.Option(min=16, help="the training's data.max_tokens")] = 512,
) -> None:
    """How a data file is read, and what is wrong with it: copies, refusals, empty answers, missing look-alikes ..."""
    if kind not in ("break", "retain"):
        raise InputError(f"--kind {kind!r} is unknown; use break or retain.")
    from cbgui.data.checks import check_file

    for line in check_file(file, kind, answer=answer, show=show, max_tokens=max_tokens):
        typer.echo(line)


def bench(
    model: Annotated[str, typer.Argument(help="hub id, folder, or a named architecture with random weights")] = "demo",
    memory: MemoryOption = None,
    batch: Annotated[int, typer.Option(min=1, help="break examples in a step, and as many retain examples")] = 4,
    tokens: Annotated[int, typer.Option(min=16, help="tokens of each example")] = 256,
    steps: Annotated[int, typer.Option(min=1, help="training steps")] = 4,
    layers: Annotated[int | None, typer.Option(min=2, help="use only this many layers of a named architecture")] = None,
    output: Annotated[Path | None, typer.Option(help="write the JSON there too")] = None,
    assignments: SetOption = None,
) -> None:
    """Seconds a step, tokens a second, peak memory and share of this machine's peak matrix-product rate, as JSON."""
    sizes = [f"training.break_batch_size={batch}", f"training.retain_batch_size={batch}", f"data.max_tokens={tokens}"]
    config = override(RunConfig(), [*sizes, *(assignments or [])])
    limit = parse_size(memory, "--memory") if memory else None
    say_starting()
    from cbgui.training.bench import bench as run_bench

    text = json.dumps(run_bench(model, config, layers=layers, memory=limit, steps=steps), indent=2)
    typer.echo(text)
    if output is not None:
        output.write_text(text + "\n", "utf-8")
