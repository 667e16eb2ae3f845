"""How long training will take, from the steps of earlier runs on this machine."""

from __future__ import annotations

import statistics

from cbgui.config import RunConfig
from cbgui.errors import InputError
from cbgui.runs.folder import list_runs
from cbgui.runs.history import history
from cbgui.ui.fragments import plain
from cbgui.ui.panels.charts import duration
from cbgui.ui.words import say

LOOKED_AT = 20  # the newest runs


def in_words(config: RunConfig) -> str:
    """A sentence as Markdown; "" where no earlier run tells."""
    for run in list_runs()[:LOOKED_AT]:
        try:
            tells = _pace(run.config()) == _pace(config)
        except InputError:
            continue
        if tells and (seconds := history(run).seconds):
            step = statistics.median(seconds)
            return say("effort.takes", time=duration(step * config.training.steps), name=plain(run.name))
    return ""


def _pace(config: RunConfig) -> tuple:
    """What the time of a step depends on."""
    training = config.training
    return (
        config.model.name,
        training.break_batch_size,
        training.retain_batch_size,
        config.data.max_tokens,
        config.objective.reroute == "refusal",
        tuple(config.objective.target_layers),
    )
