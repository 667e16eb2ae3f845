"""The Train page's plain choices and meters."""

from __future__ import annotations

from cbgui.config import load_config
from cbgui.runs.history import History
from cbgui.ui.panels.effort import EFFORTS, values
from cbgui.ui.panels.meters import meters


def test_the_choices_change_steps_and_the_weight_of_the_keep_loss():
    preset = load_config("cpu")
    steps, weight = preset.training.steps, preset.objective.retain_coefficient
    assert values(preset, "normal", 0) == [steps, weight]
    assert [values(preset, effort, 0)[0] for effort in EFFORTS] == [steps // 2, steps, 2 * steps]
    assert values(preset, "normal", -2)[1] == weight / 4 and values(preset, "normal", 2)[1] == 4 * weight


def test_the_meters_say_how_far_and_count_validation_where_there_is_one():
    past = History()
    assert meters(past, refuses=False) == ""
    past.newest["step"] = {"cosine": {"10": 0.9, "20": 0.4}}
    assert meters(past, refuses=False).count('class="meter"') == 1 and "10 percent" in meters(past, refuses=False)
    past.newest["validation"] = {"cosine": {"10": 0.15}, "drift": 0.05}
    shown = meters(past, refuses=False)
    assert "85 percent" in shown and shown.count('class="good"') == 2
    past.newest["validation"] = {"cosine": {"10": 0.5}, "drift": 0.3}
    assert meters(past, refuses=False).count('class="far"') == 2
    assert meters(past, refuses=True).count('class="good"') == 1  # what counts is the state before the answer
