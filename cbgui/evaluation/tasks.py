"""Tasks of lm-eval, if it is installed (requirements-eval.txt), to see whether the model got worse at other things.

https://github.com/EleutherAI/lm-evaluation-harness
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from cbgui.errors import InputError
from cbgui.evaluation.metrics import ModelPair
from cbgui.evaluation.rates import MODELS
from cbgui.space import refuse_folder

ITEMS = 200  # of each task, unless a limit is given
METRICS = ("acc_norm", "acc", "exact_match", "f1", "bleu", "word_perplexity")  # the first that a task has is shown


def check_tasks(names: list[str]) -> None:
    """Raises InputError if lm-eval is not installed or does not know a task."""
    if not names:
        return
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise InputError(
            f"--tasks {','.join(names)}: lm-eval is not installed; run pip install -r requirements-eval.txt."
        ) from None
    known = TaskManager()
    for name in names:
        if _is_file(name):
            refuse_folder("--tasks", name)
        if not (Path(name).is_file() if _is_file(name) else known.match_tasks([name])):
            raise InputError(
                f"--tasks {name!r} is neither a task of lm-eval nor the YAML file of one; see 'lm-eval ls tasks'."
            )


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def task_scores(
    pair: ModelPair, names: list[str], limit: int | None, progress: Callable[[float, str], None]
) -> list[dict[str, Any]]:
    """For each task: its name, metric and number of items, and the scores of the two models."""
    if not names:
        return []
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    tasks = [yaml.safe_load(Path(name).read_text("utf-8")) if _is_file(name) else name for name in names]
    scores: dict[str, dict[str, Any]] = {}
    for adapted, model in MODELS.items():
        progress(0.9, f"lm-eval: {', '.join(names)}, {'short-circuited' if adapted else 'original'} model")
        with pair.using(adapted):
            wrapped = HFLM(pretrained=pair.model.get_base_model(), tokenizer=pair.tokenizer, batch_size=8)
            results = simple_evaluate(wrapped, tasks=tasks, limit=limit or ITEMS, bootstrap_iters=0, log_samples=False)
        for task, values in results["results"].items():
            plain = {key.partition(",")[0]: value for key, value in values.items()}  # lm-eval's keys are metric,filter
            metric = next((name for name in METRICS if name in plain), None)
            if metric is None:
                continue
            score = scores.setdefault(task, {"task": task, "metric": metric})
            score[model] = plain[metric]
            score["items"] = results.get("n-samples", {}).get(task, {}).get("effective")
    return list(scores.values())
