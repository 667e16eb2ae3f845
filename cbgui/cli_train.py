"""What the command `train` does before and instead of starting a process."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cbgui.config import load_config, override
from cbgui.errors import InputError
from cbgui.printing import event_line
from cbgui.runs import folder
from cbgui.runs.process import hold
from cbgui.runs.run import TRAIN, Run, read_data

if TYPE_CHECKING:
    from accelerate import PartialState


def new_run(
    preset: str,
    output: Path,
    break_file: str | None,
    retain_file: str | None,
    held_out: str | None,
    model: str | None,
    assignments: list[str],
) -> Run:
    """Check everything that can be checked before a model is loaded, and make the run directory."""
    if not preset:
        raise InputError("PRESET_OR_YAML is missing; name a preset such as 'demo' or a YAML file.")
    if output.resolve() == Path.cwd():
        raise InputError("--output is the current folder; give the run a folder of its own, such as runs/demo.")
    config = override(load_config(preset), assignments)
    if break_file:
        config.data.break_file = break_file
    if retain_file:
        config.data.retain_file = retain_file
    if break_file or retain_file or held_out:  # the preset's held-out examples belong to the preset's topic
        config.data.held_out_file = held_out
    if model:
        config.model.name = model
    how_read: dict[str, list[str]] = {}
    read_data(config.data, how_read)
    if break_file and not retain_file:
        raise InputError(
            f"--retain is missing: name a file of what must be kept; python -m cbgui suggest {break_file} --output "
            "keep.jsonl writes one from what must stop."
        )
    first = int(os.environ.get("RANK", 0)) == 0  # of several processes
    if first:
        folder.refuse_existing(output)
        if break_file or retain_file or held_out:
            for name, sentences in how_read.items():
                typer.echo(f"{name}: {' '.join(sentences)}")
        typer.echo("Checking whether it fits ...")
    from cbgui import hardware
    from cbgui.modeling.architecture import read_model_config
    from cbgui.modeling.hub import resolve_model
    from cbgui.training.memory import estimate_memory

    model_config = read_model_config(resolve_model(config.model.name, weights=False))
    estimate_memory(
        model_config, config, hardware.memory_for_training(), hardware.memory_kind()
    )  # raises if it cannot fit
    return folder.create_run(output, config) if first else Run(output.resolve())


def train_in_this_process(run: Run) -> int:
    """One of the processes that `accelerate launch` started. The first one writes the events and prints them."""
    import torch
    from accelerate import PartialState

    from cbgui.evaluation.watched_training import train_watched

    state = PartialState(cpu=not torch.cuda.is_available())
    state.wait_for_everyone()  # until the first process has created the run directory
    if not state.is_main_process:
        return _leave_together(state, train_watched(run))
    with hold(run.lock_file(TRAIN)) as held:
        if not held:
            raise InputError(f"run {run.name!r} is running already; stop it first.")
        run.ask("run")
        offset = run.events()[1]

        def tell() -> None:
            for event in run.follow(offset):
                if line := event_line(event):
                    typer.echo(line)

        threading.Thread(target=tell, daemon=True).start()
        code = train_watched(run)
        time.sleep(0.5)  # the last lines
    return _leave_together(state, code)


def _leave_together(state: PartialState, code: int) -> int:
    """End the connection of the processes; one that ends while another still uses it would abort that."""
    if code == 0:
        state.wait_for_everyone()
    state.destroy_process_group()
    return code
