"""What changes a run while it trains: the weight of the retain loss, and finishing early.

Both depend on the validations alone, so a resumed run behaves like one that was never interrupted.
"""

from __future__ import annotations

from cbgui.config import StopWhen
from cbgui.training.diagnostics import BARELY_MOVED, UNTOUCHED, Validation, slowest_layer

BROKEN = 0.05  # below this break cosine on every layer there is room to spare
RELIEF, LEAST_SHARE, RETURN = 1 / 4, 1 / 64, 2
STRETCH = 10  # steps between two changes


def retain_share(validations: list[Validation]) -> float:
    """The share of the scheduled retain coefficient that training goes on with; 1 as long as nothing is wrong.

    No single coefficient suits every model. Each stretch of STRETCH steps, from the second on, may change the share. A
    validation that finds a layer untouched while the retain examples have barely moved divides it by four: the retain
    loss holds the model in place. One that finds every layer broken and the retain examples moved doubles it, up to 1.
    How often a run validates does not matter.
    """
    held, moved = set(), set()
    for validation in validations:
        stretch, (_, cosine) = validation["step"] // STRETCH, slowest_layer(validation)
        if stretch < 2:
            continue
        if cosine > UNTOUCHED and validation["drift"] < BARELY_MOVED:
            held.add(stretch)
        elif cosine < BROKEN and validation["drift"] > BARELY_MOVED:
            moved.add(stretch)
    share = 1.0
    for stretch in sorted(held | moved):
        share = max(share * RELIEF, LEAST_SHARE) if stretch in held else min(share * RETURN, 1.0)
    return share


def goal_met(validations: list[Validation], goal: StopWhen | None) -> bool:
    """Whether the newest `goal.validations` validations in a row all meet the goal."""
    if goal is None or len(validations) < goal.validations:
        return False
    return all(
        slowest_layer(validation)[1] <= goal.cosine and validation["drift"] <= goal.drift
        for validation in validations[-goal.validations :]
    )
