"""What the probes of a run mean, in words: the warnings that keep a run from failing silently.

Probes are the `probe` events of events.jsonl: step, cosine per target layer, reroute_loss, retain_loss, drift.
"""

from __future__ import annotations

from typing import Any

from cbgui.config import RunConfig, StopWhen

UNTOUCHED = 0.9  # a break cosine above this after a third of the run has not moved
RUNAWAY = 0.5  # kept hidden states that moved by half their length read as another text
TRIPPED = 0.5  # above this at the end, the layer was turned half-way at most
HELD = 0.1  # kept hidden states that moved by less, while nothing breaks: the retain loss holds the model in place
BROKEN = 0.05  # below this in all layers the breaker has tripped, and has room to spare
RELIEF, LEAST_SHARE, RETURN = 1 / 4, 1 / 64, 2
STRETCH = 10  # steps; the first such stretch is always like that
Probe = dict[str, Any]


def retain_share(probes: list[Probe]) -> float:
    """The share of the scheduled retain coefficient that training goes on with: 1 while things break and stay.

    No one weight serves every model, so each stretch of STRETCH steps, from the second on, may change it. A probe that
    finds a layer unbroken and the kept examples nearly where they were divides it by four; one that finds all layers
    broken and the kept examples moved doubles it, up to 1 again. It depends on the probes alone, so a resumed run goes
    on with it, and not on how often one probes.
    """
    held, moved = set(), set()
    for probe in probes:
        stretch, cosine = probe["step"] // STRETCH, max(probe["cosine"].values())
        if stretch >= 2 and cosine > UNTOUCHED and probe["drift"] < HELD:
            held.add(stretch)
        elif stretch >= 2 and cosine < BROKEN and probe["drift"] > HELD:
            moved.add(stretch)
    share = 1.0
    for stretch in sorted(held | moved):
        share = max(share * RELIEF, LEAST_SHARE) if stretch in held else min(share * RETURN, 1.0)
    return share


def warnings(probes: list[Probe], steps: int, config: RunConfig) -> dict[str, str]:
    """Kind of trouble -> one sentence with what to do, for the newest of `probes`; empty when all is well."""
    if not probes:
        return {}
    last, found = probes[-1], {}
    rate, coefficient = config.training.learning_rate, config.objective.retain_coefficient
    init_std = config.lora.init_std
    layer, cosine = max(last["cosine"].items(), key=lambda item: item[1])
    if last["step"] >= steps:
        if cosine > TRIPPED:
            found["not tripped"] = (
                f"The breaker has not tripped: at layer {layer} the break cosine ended at {cosine:.2f} (0 is "
                f"tripped). Train again with more training.steps ({steps} now), a higher training.learning_rate "
                f"({rate:g} now) or a lower objective.retain_coefficient ({coefficient:g} now)."
            )
    elif cosine > UNTOUCHED and last["step"] >= steps / 3:
        found["not moving"] = (
            f"Nothing is breaking at layer {layer}: its break cosine is still {cosine:.2f} after "
            f"{last['step']} of {steps} steps. Stop and try training.learning_rate {3 * rate:g} ({rate:g} now), "
            f"lora.init_std {max(0.04, 2 * init_std):g} ({init_std:g} now) or half the objective.retain_coefficient "
            f"({coefficient:g} now)."
        )
    if last["step"] >= 2 * steps / 3 and last["drift"] > RUNAWAY:
        found["keep runs away"] = (
            f"What must stay is breaking too: its hidden states have moved by {last['drift']:.0%} of their length "
            f"after {last['step']} of {steps} steps. Raise objective.retain_coefficient to {3 * coefficient:g} "
            f"({coefficient:g} now), add keep examples, or lower training.learning_rate ({rate:g} now)."
        )
    return found


def target_met(probes: list[Probe], goal: StopWhen | None) -> bool:
    """Whether the newest `goal.probes` probes in a row all meet the goal."""
    if goal is None or len(probes) < goal.probes:
        return False
    return all(
        max(probe["cosine"].values()) <= goal.cosine and probe["drift"] <= goal.drift
        for probe in probes[-goal.probes :]
    )
