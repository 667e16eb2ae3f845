"""How long training will take, from the steps of earlier runs."""

import re

from cbgui.config import override
from cbgui.runs.folder import create_run
from cbgui.ui.panels import expected_time

STEP = {"steps": 5, "learning_rate": 0.001, "memory_bytes": 1, "trained_seconds": 1.0, "tokens_per_second": 1.0}
STEP |= {"reroute_loss": 1.0, "retain_loss": 1.0, "cosine": {"20": 0.5}, "coefficients": {"reroute": 1, "retain": 1}}


def test_the_time_goes_by_earlier_runs_of_the_same_kind(short_config, tmp_path, monkeypatch):
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    assert expected_time.in_words(short_config) == ""
    run = create_run(tmp_path / "before", short_config)
    for step, seconds in enumerate((9.0, 2.0, 2.0, 2.0, 2.0), 1):
        run.append_event("step", **STEP | {"step": step, "seconds": seconds})
    words = expected_time.in_words(override(short_config, ["training.steps=60"]))
    assert "before" in words and re.search(r"\b2\b.*\b00\b", words), words
    assert expected_time.in_words(override(short_config, ["training.break_batch_size=7"])) == ""
