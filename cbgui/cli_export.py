"""The command export: the merged model, and a GGUF of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cbgui.export.gguf import LLAMA_CPP, check_type
from cbgui.printing import progress_lines
from cbgui.runs import folder
from cbgui.runs.jobs import alone
from cbgui.runs.run import EXPORT


def export(
    run_dir: Annotated[Path, typer.Argument(help="the run's folder")],
    output: Annotated[Path, typer.Option(help="a folder that does not exist yet; with --gguf, it may hold the merge")],
    gguf: Annotated[
        str | None,
        typer.Option(metavar="q8_0|f16|bf16", help="also write a GGUF, for llama.cpp, LM Studio and Ollama"),
    ] = None,
    llama_cpp: Annotated[
        Path | None,
        typer.Option(envvar=LLAMA_CPP, help="convert with this llama.cpp checkout, not with the copy from PyPI"),
    ] = None,
    max_shard_size: Annotated[str | None, typer.Option(help="such as 5GB; by default as the base model's")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="replace an earlier merged model at --output")] = False,
) -> None:
    """Merge the adapter into the base model: safetensors that any transformers program loads, and a GGUF of it."""
    run = folder.open_run(run_dir)
    run.need_adapter()
    if gguf is not None:
        check_type(gguf)
    progress = progress_lines()
    progress(0.0, "Starting")
    from cbgui.export.standing import standing
    from cbgui.export.take_away import take_away

    if (known := standing(run)).kind != "good":
        typer.echo(f"Before you use this model: {known.words}")
    with alone(run, EXPORT):
        taken = take_away(
            run,
            output,
            kind=gguf,
            llama_cpp=llama_cpp,
            max_shard_size=max_shard_size,
            replace=replace,
            progress=progress,
        )
    if taken.difference is not None:
        typer.echo(
            f"{output}: the merged model and base + adapter differ by at most {taken.difference:.2g} in any token's "
            "probability."
        )
    if taken.gguf is not None:
        typer.echo(f"GGUF: {taken.gguf} ({taken.gguf.stat().st_size / 1e6:,.0f} MB)")
