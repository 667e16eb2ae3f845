"""Find texts that are nearly the same, with MinHash over their words, and group them.

Broder 1997, "On the resemblance and containment of documents": the smallest hashes of two sets agree as often as the
sets overlap. Texts that agree in a whole band of hashes are candidates; their Jaccard overlap is then counted exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

PUNCTUATION = r"""[.,;:!?"'()\[\]`*]"""
NEAR = 0.8  # overlap from which two prompts count as the same prompt in other words
BAND = 5  # hashes of a band; at an overlap of 0.8 a third of the bands agree
BANDS = 8  # with that many, at least one band agrees in 96 of 100 cases
MAX_WORDS = 24  # of each text; prompts that differ only after so many words count as the same
MAX_BUCKET = 200  # in a larger bucket (empty or one-word prompts) each text is paired with the first one only


def normalised(texts: Iterable[str]) -> list[str]:
    """Lower-case the texts, remove punctuation and collapse spaces, so that only their words are compared."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lower = pc.utf8_lower(pa.array(list(texts), pa.string()))
    words = pc.utf8_trim_whitespace(pc.replace_substring_regex(lower, PUNCTUATION, ""))
    return pc.binary_join(pc.utf8_split_whitespace(words), " ").to_pylist()


def near_pairs(texts: Sequence[str], least: float = NEAR, *, bands: int = BANDS, band: int = BAND) -> np.ndarray:
    """Return (pairs, 2) indices i < j of texts whose words overlap by at least `least`.

    A few pairs are missed; none is wrong. Words are compared as they are, so pass `normalised` texts.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    # Arrow splits and numbers the words of hundreds of thousands of texts in a moment; Python would take seconds.
    words = pc.list_slice(pc.utf8_split_whitespace(pa.array(list(texts), pa.string())), 0, MAX_WORDS)
    offsets = words.offsets.to_numpy()
    counts = np.diff(offsets)
    if not counts.sum():
        return np.empty((0, 2), dtype=np.int64)
    coded = words.flatten().dictionary_encode()
    flat = coded.indices.to_numpy()
    numbers = np.arange(1, len(coded.dictionary) + 1, dtype=np.uint64)
    filled = np.flatnonzero(counts)
    starts = offsets[:-1][filled] - offsets[0]
    generator = np.random.default_rng(0)
    sets: dict[int, frozenset[int]] = {}

    def words_of(row: int) -> frozenset[int]:
        if row not in sets:
            start = offsets[row] - offsets[0]
            sets[row] = frozenset(flat[start : start + counts[row]].tolist())
        return sets[row]

    candidates: set[tuple[int, int]] = set()
    for _ in range(bands):
        key = np.zeros(len(filled), dtype=np.uint64)
        for _ in range(band):
            a, b = generator.integers(1, 2**63, size=2, dtype=np.uint64)
            hashes = numbers * (a | np.uint64(1)) + b  # multiply-shift, modulo 2**64
            hashes ^= hashes >> np.uint64(32)
            key = key * np.uint64(0x9E3779B97F4A7C15) + np.minimum.reduceat(hashes[flat], starts)
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
        sizes = np.diff(edges)
        for start, size in zip(edges[:-1][sizes > 1], sizes[sizes > 1], strict=True):
            bucket = filled[order[start : start + size]].tolist()
            bucket.sort()
            if size > MAX_BUCKET:
                candidates.update((bucket[0], other) for other in bucket[1:])
            else:
                candidates.update((one, other) for i, one in enumerate(bucket) for other in bucket[i + 1 :])
    near = [
        (one, other)
        for one, other in candidates
        if len(words_of(one) & words_of(other)) >= least * len(words_of(one) | words_of(other))
    ]
    return np.array(sorted(near), dtype=np.int64).reshape(-1, 2)


def groups(count: int, pairs: np.ndarray) -> np.ndarray:
    """Join indices that are paired, directly or through others.

    Returns (count,): the smallest index of each index's group.
    """
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for one, other in pairs.tolist():
        a, b = root(one), root(other)
        parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(count)], dtype=np.int64)
