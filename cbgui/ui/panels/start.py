"""Starting a run from a page: what is checked before anything is written, its folder, its place in the queue."""

from __future__ import annotations

import re

from cbgui import hardware, space
from cbgui.config import RunConfig, load_config, preset_names
from cbgui.runs import folder, queue
from cbgui.runs.run import Run
from cbgui.ui.common import in_memory
from cbgui.ui.panels import memory_bar
from cbgui.ui.server.storage import refuse_full

CARD_SHARE = 0.15  # of a card's memory that its driver and other programs may hold


def config_for(model: str) -> RunConfig:
    """Settings for a topic of the user's own, from the preset for this machine. Raises InputError.

    `model` is "demo", a hub id or a folder.
    """
    model = (model or "").strip() or "demo"
    config = load_config(_preset_for(model))
    config.model.name = model
    return config


def _preset_for(model: str) -> str:
    if model == "demo" or hardware.memory_kind() == "cpu":
        return "cpu"
    sizes = {name: int(match[1]) for name in preset_names() if (match := re.fullmatch(r"gpu-(\d+)gb", name))}
    memory = hardware.memory_for_training() / hardware.GIB
    fit = [name for name in sizes if sizes[name] <= memory + CARD_SHARE * sizes[name]]
    return max(fit, key=sizes.__getitem__) if fit else min(sizes, key=sizes.__getitem__)


def check(config: RunConfig) -> None:
    """Raises InputError when a run of `config` may not or cannot be started; frees memory for it first."""
    in_memory.drop()
    space.refuse_over("runs", len(folder.list_runs()) + 1, space.MAX_RUNS)
    refuse_full()
    space.refuse_over("training.steps", config.training.steps, space.MAX_STEPS)
    space.refuse_over("examples in a step", config.training.batch_size, space.MAX_BATCH)
    space.refuse_over("data.max_tokens", config.data.max_tokens, space.MAX_TOKENS)
    memory_bar.estimate_for(config)


def start(config: RunConfig, name: str, topic: str) -> Run:
    """Make the run under a free name and start it, or let it wait for its turn. Raises InputError."""
    run = folder.create_run(folder.runs_folder() / folder.free_name(name), config)
    run.dataset_name_file.write_text(topic, "utf-8")
    queue.join(run, folder.root_folder())
    return run
