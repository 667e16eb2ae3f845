import pytest

from cbgui.config import RunConfig, StopWhen
from cbgui.training.controller import goal_met, retain_share
from cbgui.training.diagnostics import warnings


def probe(step, cosines, drift=0.01):
    return {"step": step, "cosine": {str(layer): value for layer, value in cosines.items()}, "drift": drift}


@pytest.mark.parametrize(
    ("newest", "kind", "words"),
    [
        (probe(20, {10: 0.02, 20: 0.99}), "not moving", "layer 20"),  # the other layer broke; a mean would hide it
        (probe(20, {10: 0.99, 20: 0.99}), "not moving", "lora.init_std 0.08 (0.04 now)"),
        (probe(10, {10: 0.99, 20: 0.99}), None, ""),  # the first steps are always like this
        (probe(40, {10: 0.0, 20: 0.1}, drift=0.8), "retain runs away", "80%"),
        (probe(60, {10: 0.7, 20: 0.1}), "not derailed", "0.70"),
        (probe(60, {10: 0.01, 20: 0.1}), None, ""),
    ],
)
def test_trouble_is_named_with_what_to_do(newest, kind, words):
    found = warnings([newest], 60, RunConfig())
    assert list(found) == ([kind] if kind else [])
    if kind:
        assert words in found[kind]
        assert "training.learning_rate" in found[kind]


def test_a_target_is_met_only_by_probes_in_a_row():
    goal = StopWhen(cosine=0.1, drift=0.05, validations=2)
    good, bad = probe(10, {10: 0.0}), probe(20, {10: 0.0}, drift=0.3)
    assert not goal_met([good], goal)
    assert not goal_met([good, bad, good], goal)
    assert goal_met([bad, good, good], goal)
    assert not goal_met([good, good], None)


def test_the_keep_weight_falls_while_it_holds_the_model_in_place():
    def held(step):
        return probe(step, {10: 0.2, 20: 0.98})

    first, breaking = probe(10, {10: 1.0, 20: 1.0}), probe(40, {10: 0.2, 20: 0.5})
    assert retain_share([first]) == 1  # the first steps are always like this
    assert retain_share([first, held(20)]) == 1 / 4
    assert retain_share([first, held(20), held(30), breaking]) == 1 / 16
    assert retain_share([first, probe(20, {10: 0.99}, drift=0.4)]) == 1  # what must stay has moved already
    assert retain_share([first] + [held(step) for step in range(20, 120, 10)]) == 1 / 64
    often = [held(step) for step in range(5, 40, 5)]
    assert retain_share(often) == retain_share([first, held(20), held(30)])  # how often one probes changes nothing


def test_a_relief_is_taken_back_once_things_are_broken_and_the_kept_have_moved():
    relieved = [probe(step, {10: 0.99, 20: 1.0}, drift=0.01) for step in (20, 30)]

    def broken(step: int, cosine: float = 0.0, drift: float = 0.3):
        return probe(step, {10: -0.1, 20: cosine}, drift=drift)

    assert retain_share([*relieved, broken(40)]) == 1 / 8
    assert retain_share([*relieved, broken(40), broken(45)]) == 1 / 8  # one stretch
    assert retain_share([*relieved, broken(40, cosine=0.2)]) == 1 / 16  # one layer is not there yet
    assert retain_share([*relieved, broken(40, drift=0.05)]) == 1 / 16  # nothing to bring back
    assert retain_share(relieved + [broken(step) for step in range(40, 150, 10)]) == 1
