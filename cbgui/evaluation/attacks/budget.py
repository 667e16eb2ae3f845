"""How much work the attacks that compute from the weights may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Each attack takes the first `questions` must-stop questions, and stops at the first that gets an answer."""

    questions: int
    embedding_steps: int  # gradient steps of optimised input embeddings
    suffix_steps: int  # exchanges of a token in a computed suffix
    candidates: int  # suffixes that are tried in each of these steps


# quick is for a CPU; published is what papers report, for a GPU.
BUDGETS = {"quick": Budget(4, 100, 20, 16), "published": Budget(8, 500, 250, 256)}
