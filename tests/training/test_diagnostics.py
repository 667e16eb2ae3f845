import pytest

from cbgui.config import RunConfig, override
from cbgui.settings import StopWhen
from cbgui.training.controller import goal_met, retain_share
from cbgui.training.diagnostics import is_stuck, warnings


def validation(step, cosines, drift=0.01):
    return {"step": step, "cosine": {str(layer): value for layer, value in cosines.items()}, "drift": drift}


@pytest.mark.parametrize(
    ("newest", "kind", "words"),
    [
        (validation(20, {10: 0.02, 20: 0.99}), "not moving", "Layer 20"),  # a mean over layers would hide it
        (validation(20, {10: 0.99, 20: 0.99}), "not moving", "lora.init_std 0.08 (0.04 now)"),
        (validation(10, {10: 0.99, 20: 0.99}), None, ""),  # nothing moves in the first steps
        (validation(40, {10: 0.0, 20: 0.1}, drift=0.8), "retain runs away", "80%"),
        (validation(60, {10: 0.7, 20: 0.1}), "not derailed", "0.70"),
        (validation(60, {10: 0.01, 20: 0.1}), None, ""),
    ],
)
def test_each_warning_names_a_remedy(newest, kind, words):
    found = warnings([newest], 60, override(RunConfig(), ["lora.init_std=0.04"]))
    assert list(found) == ([kind] if kind else [])
    if kind:
        assert words in found[kind]
        assert "training.learning_rate" in found[kind]


def test_a_run_that_refuses_need_not_turn_answers_far_away():
    config = override(RunConfig(), ["objective.reroute=refusal", "lora.init_std=0"])
    assert warnings([validation(60, {20: 0.5})], 60, config) == {}
    assert "not derailed" in warnings([validation(60, {20: 0.95})], 60, config)


def test_a_layer_is_stuck_only_where_several_validations_agree():
    """While the learning rate is high, one validation may say 0.91 between two that say 0.4."""
    at = [validation(step, {20: cosine}) for step, cosine in ((50, 0.95), (60, 0.4), (70, 0.95), (80, 0.91))]
    assert not is_stuck(at, 230) and warnings(at, 230, RunConfig()) == {}
    at[1]["cosine"]["20"] = 0.95
    assert is_stuck(at, 230) and "not moving" in warnings(at, 230, override(RunConfig(), ["lora.init_std=0.04"]))


def test_a_goal_is_met_only_by_validations_in_a_row():
    goal = StopWhen(cosine=0.1, drift=0.05, validations=2)
    good, bad = validation(10, {10: 0.0}), validation(20, {10: 0.0}, drift=0.3)
    assert not goal_met([good], goal)
    assert not goal_met([good, bad, good], goal)
    assert goal_met([bad, good, good], goal)
    assert not goal_met([good, good], None)


def test_the_retain_weight_falls_while_it_holds_the_model_in_place():
    def held(step):
        return validation(step, {10: 0.2, 20: 0.98})

    first, breaking = validation(10, {10: 1.0, 20: 1.0}), validation(40, {10: 0.2, 20: 0.5})
    assert retain_share([first]) == 1  # nothing moves in the first steps
    assert retain_share([first, held(20)]) == 1 / 4
    assert retain_share([first, held(20), held(30), breaking]) == 1 / 16
    assert retain_share([first, validation(20, {10: 0.99}, drift=0.4)]) == 1  # the retain examples have moved already
    assert retain_share([first] + [held(step) for step in range(20, 120, 10)]) == 1 / 64
    often = [held(step) for step in range(5, 40, 5)]
    assert retain_share(often) == retain_share([first, held(20), held(30)])  # how often a run validates does not matter


def test_the_retain_weight_rises_again_once_retain_examples_have_moved():
    relieved = [validation(step, {10: 0.99, 20: 1.0}, drift=0.01) for step in (20, 30)]

    def broken(step: int, cosine: float = 0.0, drift: float = 0.3):
        return validation(step, {10: -0.1, 20: cosine}, drift=drift)

    assert retain_share([*relieved, broken(40)]) == 1 / 8
    assert retain_share([*relieved, broken(40), broken(45)]) == 1 / 8  # one stretch
    assert retain_share([*relieved, broken(40, cosine=0.2)]) == 1 / 16  # one layer has not turned yet
    assert retain_share([*relieved, broken(40, drift=0.05)]) == 1 / 16  # the retain examples have not moved
    assert retain_share(relieved + [broken(step) for step in range(40, 150, 10)]) == 1
