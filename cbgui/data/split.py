"""The held-out split: whole groups of similar requests, so that no held-out one has its twin in training."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from cbgui.data.dataset_store import DatasetStore
from cbgui.data.near_duplicates import groups, near_pairs, normal

SHARE = 0.1
MOST = 100  # examples a side: enough for a rate within a few percent, few enough to evaluate in minutes
SIMILAR = 0.5  # requests with half of their subject's words in common stay together
FORM = 0.05  # words in more than this share of the requests are the form ("how do I make"), not the subject
MANY = 20_000


def _subjects(prompts: Iterable[str]) -> list[str]:
    """Each request without the words that many requests share; whole where nothing else is left."""
    words = [text.split() for text in normal(prompts)]
    sample = words[:: max(1, len(words) // MANY)]
    spread = Counter(word for row in sample for word in set(row))
    common = {word for word, count in spread.items() if count > max(2, FORM * len(sample))}
    return [" ".join(word for word in row if word not in common) or " ".join(row) for row in words]


def hold_out(data: DatasetStore, share: float = SHARE, most: int = MOST, seed: int = 0) -> int:
    """Hold out about `share` of each of Break and Keep, at most `most` of each, as one step; returns how many."""
    table = data.table()
    if not len(table):
        return 0
    band = 3 if len(table) <= MANY else 5  # among many rows loose matching takes minutes; twins are still found
    pairs = near_pairs(_subjects(table.prompt), SIMILAR, bands=16, band=band)
    group = groups(len(table), pairs)
    breaks, training = (table.kind == "break").to_numpy(), (table.held_out == 0).to_numpy()
    taken = set(group[~training].tolist())  # groups that are held out in part already go wholly
    chosen: list[int] = []
    order = list(dict.fromkeys(group.tolist()))
    random.Random(seed).shuffle(order)
    members: dict[int, list[int]] = {}
    for row, name in enumerate(group.tolist()):
        members.setdefault(name, []).append(row)
    for side in (breaks, ~breaks):
        rows = np.flatnonzero(side & training)
        wanted = min(most, round(share * len(rows)))
        held = 0
        for name in sorted(order, key=lambda name: name not in taken):
            part = [row for row in members[name] if side[row] and training[row]]
            # A group larger than what is still wanted stays in training.
            if part and (name in taken or (held + len(part) <= wanted)):
                chosen += [row for row in members[name] if training[row]]
                taken.add(name)
                held += len(part)
            if held >= wanted:
                break
    ids = table.id.to_numpy()[sorted(set(chosen))].tolist()
    return data.update(ids, lambda row: replace(row, held_out=True), "hold out")
