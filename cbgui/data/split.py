"""The held-out split. Similar prompts go together, so that no held-out prompt has a near copy in training."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cbgui.data.examples import Example
from cbgui.data.near_duplicates import groups, near_pairs, normalised

if TYPE_CHECKING:  # it loads pandas, which takes memory in training
    from cbgui.data.dataset_store import DatasetStore

SHARE = 0.1
MAX_PER_SIDE = 100  # at 90 of 100 the 95% interval is 83% to 94%; an evaluation takes minutes
SIMILAR = 0.5  # prompts that share half of their subject's words stay together
ALIKE = 0.8  # the same where otherwise too few could be held out
COMMON_WORD = 0.05  # a word in more than this share of the prompts ("how do I make") says nothing about the subject
MANY_ROWS = 20_000


def _subjects(prompts: Iterable[str]) -> list[str]:
    """Each prompt without the words that many prompts share, or the whole prompt if nothing else is left."""
    words = [text.split() for text in normalised(prompts)]
    sample = words[:: max(1, len(words) // MANY_ROWS)]
    counts = Counter(word for row in sample for word in set(row))
    common = {word for word, count in counts.items() if count > max(2, COMMON_WORD * len(sample))}
    return [" ".join(word for word in row if word not in common) or " ".join(row) for row in words]


def choose_held_out(
    prompts: Sequence[str],
    breaks: np.ndarray,
    training: np.ndarray,
    *,
    share: float = SHARE,
    most: int = MAX_PER_SIDE,
    least: tuple[int, int] = (0, 0),
    seed: int = 0,
) -> list[int]:
    """Indices of about `share` of the break prompts and of the others, at most `most` of each.

    `least` (break, other) is how many should be held out in the end, as long as half of each side stays in training.
    `breaks` and `training` are (prompts,) masks; what is not in training is held out already.
    """
    if not len(prompts):
        return []
    wanted = []
    for side, fewest in zip((breaks, ~breaks), least, strict=True):
        rows = np.count_nonzero(side & training)
        lacking = min(fewest - np.count_nonzero(side & ~training), (rows + 1) // 2)
        wanted.append(min(most, max(round(share * rows), lacking)))
    chosen: set[int] = set()
    for similar in (SIMILAR, ALIKE) if any(least) else (SIMILAR,):
        left = training.copy()
        left[list(chosen)] = False
        held = [np.count_nonzero(side[list(chosen)]) for side in (breaks, ~breaks)]
        missing = [number - there for number, there in zip(wanted, held, strict=True)]
        chosen.update(_choose(prompts, breaks, left, missing, similar, seed))
    return sorted(chosen)


def _choose(
    prompts: Sequence[str], breaks: np.ndarray, training: np.ndarray, missing: list[int], similar: float, seed: int
) -> list[int]:
    """At most `missing` rows of each side, with all that are `similar` to one of them."""
    # Loose matching of many rows would take minutes; larger bands still find the near copies.
    band = 3 if len(prompts) <= MANY_ROWS else 5
    pairs = near_pairs(_subjects(prompts), similar, bands=16, band=band)
    group = groups(len(prompts), pairs)
    taken = set(group[~training].tolist())  # a group that is partly held out already is held out as a whole
    chosen: list[int] = []
    order = list(dict.fromkeys(group.tolist()))
    random.Random(seed).shuffle(order)
    members: dict[int, list[int]] = {}
    for row, name in enumerate(group.tolist()):
        members.setdefault(name, []).append(row)
    for side, wanted in zip((breaks, ~breaks), missing, strict=True):
        held = 0
        for name in sorted(order, key=lambda name: name not in taken):
            part = [row for row in members[name] if side[row] and training[row]]
            # A group larger than what is still wanted stays in training.
            if held < wanted and part and (name in taken or (held + len(part) <= wanted)):
                chosen += [row for row in members[name] if training[row]]
                taken.add(name)
                held += len(part)
    return chosen


def hold_out(
    data: DatasetStore,
    share: float = SHARE,
    most: int = MAX_PER_SIDE,
    seed: int = 0,
    *,
    least: tuple[int, int] = (0, 0),
    but: Collection[int] = (),
) -> int:
    """Hold out about `share` of the break and of the retain rows, at most `most` of each, as one step.

    `least` as in `choose_held_out`; the rows whose ids are in `but` are not looked at. Returns the number of rows that
    are newly held out.
    """
    table = data.table()
    table = table[~table.id.isin(but)]
    breaks, training = (table.kind == "break").to_numpy(), (table.held_out == 0).to_numpy()
    chosen = choose_held_out(table.prompt, breaks, training, share=share, most=most, least=least, seed=seed)
    ids = table.id.to_numpy()[chosen].tolist()
    return data.update(ids, lambda row: replace(row, held_out=True), "hold out") if ids else 0


def split_off(
    examples: list[Example], suggested: Sequence[Example] = (), seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """(training, held out) examples of a run that has nothing held out.

    `suggested` are made from the examples: none is held out, and those that differ from a held-out prompt in one word
    are left out of training too.
    """
    breaks = np.array([example.kind == "break" for example in examples], dtype=bool)
    prompts = [example.prompt for example in examples]
    chosen = set(choose_held_out(prompts, breaks, np.ones(len(examples), dtype=bool), seed=seed))
    held_out = [example for index, example in enumerate(examples) if index in chosen]
    training = [example for index, example in enumerate(examples) if index not in chosen]
    near = differ_in_one_word([one.prompt for one in suggested], [example.prompt for example in held_out])
    return training + [one for one, is_near in zip(suggested, near, strict=True) if not is_near], held_out


def differ_in_one_word(prompts: Sequence[str], others: Sequence[str]) -> list[bool]:
    """Whether each prompt is one of the others, or differs from one of them in a single word."""
    masked = {key for other in others for key in _with_one_word_masked(other)}
    return [not masked.isdisjoint(_with_one_word_masked(prompt)) for prompt in prompts]


def _with_one_word_masked(prompt: str) -> list[tuple[str, ...]]:
    words = normalised([prompt])[0].split()
    return [(*words[:place], "", *words[place + 1 :]) for place in range(len(words))]
