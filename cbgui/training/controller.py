"""What changes a run while it trains: the weight of the retain loss, and finishing early.

Both depend on the validations alone, so a resumed run behaves like one that was never interrupted.
"""

from __future__ import annotations

from cbgui.settings import StopWhen
from cbgui.training.diagnostics import BARELY_MOVED, UNTOUCHED, Validation, slowest_layer

WELL_DERAILED = 0.05  # below this break cosine on every layer there is room to spare
LOWER_BY, LOWEST_SHARE, RAISE_BY = 1 / 4, 1 / 64, 2
STEPS_BETWEEN_CHANGES = 10


def retain_share(validations: list[Validation]) -> float:
    """The factor that is applied to the scheduled retain coefficient; 1 unless something is wrong.

    No single coefficient suits every model. The factor changes at most once in STEPS_BETWEEN_CHANGES steps, from the
    third such stretch on. If some layer has not moved and the retain examples have barely moved either, it is divided
    by four, because the retain loss holds the model in place. If every layer has derailed and the retain examples have
    moved, it is doubled, up to 1. How often a run validates does not matter.
    """
    held, moved = set(), set()
    for validation in validations:
        stretch, (_, cosine) = validation["step"] // STEPS_BETWEEN_CHANGES, slowest_layer(validation)
        if stretch < 2:
            continue
        if cosine > UNTOUCHED and validation["drift"] < BARELY_MOVED:
            held.add(stretch)
        elif cosine < WELL_DERAILED and validation["drift"] > BARELY_MOVED:
            moved.add(stretch)
    share = 1.0
    for stretch in sorted(held | moved):
        share = max(share * LOWER_BY, LOWEST_SHARE) if stretch in held else min(share * RAISE_BY, 1.0)
    return share


def goal_met(validations: list[Validation], goal: StopWhen | None) -> bool:
    """Whether the newest `goal.validations` validations in a row all meet the goal."""
    if goal is None or len(validations) < goal.validations:
        return False
    return all(
        slowest_layer(validation)[1] <= goal.cosine and validation["drift"] <= goal.drift
        for validation in validations[-goal.validations :]
    )
