"""Everyday questions among what must be kept in every run, with the model's own answers.

A user who brings eighty keep examples has more than eighty of them then. The questions come from cbgui's own pool;
their answers are written once for each model and cached.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable
from pathlib import Path

from cbgui import hardware
from cbgui.config import CACHE, ModelConfig
from cbgui.data.examples import Example, write_examples
from cbgui.data.near_duplicates import normalised
from cbgui.data.suggest import language_of, pool, subjects
from cbgui.inference.batch_answers import write_answers
from cbgui.modeling.hub import resolve_model
from cbgui.runs.disk import version, write_whole
from cbgui.runs.run import Run

MAX_NEW_TOKENS = 60  # of an answer
SOURCE = "cbgui's everyday questions"
SHARE_OF_OWN_LANGUAGE = 0.8


def general_questions(breaks: Iterable[Example], known: Iterable[Example], count: int, seed: int = 0) -> list[str]:
    """`count` questions of the pool, most of them in the language of the break examples.

    Those that name a subject of the break examples are left out, and those that are among `known`. The order does not
    depend on the examples, so that the answers of another run of the same model serve again.
    """
    prompts = [example.prompt for example in breaks]
    words = {word for subject in subjects(prompts) for word in subject.split()}
    taken = set(normalised(example.prompt for example in known))
    own = pool(language_of(prompts))
    other = [line for line in pool() if line not in set(own)]
    shuffle = random.Random(seed)

    def fit(lines: Iterable[str]) -> list[str]:
        lines = shuffle.sample(list(lines), len(list(lines)))
        return [
            line
            for line, text in zip(lines, normalised(lines), strict=True)
            if text not in taken and not words & set(text.split())
        ]

    wanted = round(SHARE_OF_OWN_LANGUAGE * count)
    first = fit(own)[:wanted]
    return first + fit(other)[: count - len(first)]


def add_general_keep(run: Run) -> None:
    """Write the run's `general` examples, once. Says in the events what it does; stops when the run is asked to.

    Where the full model does not fit or fails, the run goes on without them and says so.
    """
    config = run.config()
    if not config.data.general_keep or run.data_file("general").is_file():
        return
    breaks, keeps = run.examples("break"), run.examples("retain")
    questions = general_questions(breaks, [*keeps, *run.examples("held_out")], config.data.general_keep)
    try:
        answers = _answers(run, config.model, questions)
    except Exception as error:  # these examples only help
        words = f"Training without the everyday questions: their answers could not be written ({error})"
        run.append_event("status", state="loading", text=words)
        hardware.free_cached_memory()
        return
    examples = [Example((("user", text),), answers[text], "retain", SOURCE) for text in questions if answers.get(text)]
    write_examples(run.data_file("general"), examples)


def _answers(run: Run, config: ModelConfig, questions: list[str]) -> dict[str, str]:
    """Question -> the base model's answer; those that are cached are not asked again."""
    cache = _cache_file(config)
    try:
        known: dict[str, str] = json.loads(cache.read_text("utf-8"))
    except (OSError, ValueError):
        known = {}
    missing = [question for question in questions if question not in known]
    if not missing:
        return known
    prompts = [[{"role": "user", "content": question}] for question in missing]
    told = -1
    for share, ended in write_answers(config, prompts, max_new_tokens=MAX_NEW_TOKENS, with_thoughts=True):
        known |= {missing[index]: answer for index, answer in ended.items() if answer}
        if int(10 * share) > told:
            told = int(10 * share)
            words = f"The model answers {len(missing)} everyday questions, once for each model ({10 * told}%)"
            run.append_event("status", state="loading", text=words)
        if run.request() in ("pause", "stop"):
            break
    hardware.free_cached_memory()
    write_whole(cache, json.dumps(known, ensure_ascii=False))
    return known


def _cache_file(config: ModelConfig) -> Path:
    """One file for each model, as its files are now, and each form of its weights."""
    source = resolve_model(config.name)
    files = sorted(source.path.glob("*.safetensors"))
    what = [str(source.path), *(f"{path.name} {version(path)}" for path in files), config.quantization, config.dtype]
    what += ["with thoughts" if config.thinking else "False", config.system_turn]
    return CACHE / "answers" / f"{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}.json"
