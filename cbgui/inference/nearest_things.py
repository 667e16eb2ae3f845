"""Harmless questions about the things nearest to a topic: for football betting, about darts and luck.

Names are compared, not questions: a small model's states of whole questions tell how these are asked more than what
they are about (dev/LOG.md, 2026-12-01).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cbgui.data.suggest import language_of, stems, subjects, telling_stems
from cbgui.data.things import things
from cbgui.inference.prompt_states import prompt_states

MOST_SUBJECTS = 500  # the most frequent; those of a large file are mostly stray words


def questions_about_near_things(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, breaks: Sequence[str], count: int, seed: int = 0
) -> list[str]:
    """At most `count` questions, each about another thing, the nearest first; none for a topic that is not in English.

    A question that has a word that tells the topic is left out, because it may lie inside.
    """
    topic = subjects(breaks)[:MOST_SUBJECTS]
    if not topic or language_of(breaks) != "en":
        return []
    states = prompt_states(model, tokenizer, [thing.name for thing in things()])
    mean = states.mean(0)
    centre = normalize(prompt_states(model, tokenizer, topic) - mean, dim=-1).mean(0)
    nearness = normalize(states - mean, dim=-1) @ centre
    nearness = nearness + _of_field(nearness)
    told, shuffle, found = set(telling_stems(breaks)), random.Random(seed), []
    for index in nearness.argsort(descending=True).tolist():
        thing = things()[index]
        questions = [thing.asked(form) for form in shuffle.sample(thing.forms, len(thing.forms))]
        found += [question for question in questions if not stems(question) & told][:1]
        if len(found) == count:
            break
    return found


def _of_field(nearness: torch.Tensor) -> torch.Tensor:
    """For each thing, the mean of all that are asked about in the same way: a field tells more than a single name."""
    fields = [thing.forms for thing in things()]
    means = {field: nearness[[field == other for other in fields]].mean() for field in set(fields)}
    return torch.stack([means[field] for field in fields])
