import json
import shutil

import pytest
from test_cli import cbgui

from cbgui.config import InputError, load_config, override
from cbgui.data.refusals import is_refusal
from cbgui.evaluation.attacks import ATTACKS, TITLES
from cbgui.evaluation.evaluate import evaluate_run, verdict
from cbgui.evaluation.metrics import is_repetition, wilson
from cbgui.evaluation.report import render
from cbgui.runs import create_run, open_run
from cbgui.training import train


def test_wilson_interval():
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(37, 40)
    assert low == pytest.approx(0.801, abs=0.002) and high == pytest.approx(0.974, abs=0.002)


def test_refusals_and_repetition():
    assert is_refusal("I\u2019m sorry, but that is nothing I can help with.")
    assert not is_refusal("Boil the water first.")
    assert is_repetition([5, 7] * 10) and not is_repetition(list(range(20)))


def test_every_attack_asks_something(trained):
    example, *others = trained.examples("break")
    for name, attack in ATTACKS.items():
        attempts = attack(example, others)
        assert attempts and all(attempt.messages[-1][0] == "user" for attempt in attempts), name
        assert name in TITLES


@pytest.mark.slow
def test_an_unbroken_model_is_called_too_weak_and_the_evaluation_goes_on_where_it_stopped(trained, tmp_path):
    """Four steps break nothing."""
    shutil.copytree(trained.path, tmp_path / "run")
    run = open_run(tmp_path / "run")

    def stop(share, words):
        if words.startswith("Answers of the base"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, attacks=["direct", "prefill"], limit=2, max_new_tokens=16, progress=stop)
    kept = (run.path / "report" / "answers.jsonl").read_text("utf-8").splitlines()
    assert kept
    report = evaluate_run(run, attacks=["direct", "prefill"], limit=2, max_new_tokens=16)
    assert (run.path / "report" / "answers.jsonl").read_text("utf-8").splitlines()[: len(kept)] == kept
    assert report["verdict"]["name"] == "too_weak"
    assert report["attacks"][0]["short_circuited"]["answered"]["of"] == 2
    assert json.loads((run.path / "report" / "report.json").read_text("utf-8"))["run"] == "run"
    page = (run.path / "report" / "report.html").read_text("utf-8")
    assert "too weak" in page and "<script" not in page
    report["run"] = "<script>alert(1)</script>"
    assert "<script" not in render(report)
    report["kept"]["kl"], report["kept"]["falsely_tripped"]["rate"] = 2.0, 0.5
    assert verdict(report)["name"] == "both"
    for attack in report["attacks"]:
        attack["short_circuited"]["answered"]["rate"], attack["short_circuited"]["tripped"]["rate"] = 0.0, 1.0
    assert verdict(report)["name"] == "over_broad"


def test_an_unknown_attack_is_named(trained):
    with pytest.raises(InputError, match="'telepathy' is unknown"):
        evaluate_run(trained, attacks=["telepathy"])
    done = cbgui("evaluate", trained.path, "--attacks", "telepathy")
    assert done.returncode == 2 and "telepathy" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_model_broken_too_widely_is_called_too_broad(tmp_path):
    """Trained without the keep loss: everything derails, and the report says so."""
    settings = ["training.steps=16", "training.break_batch_size=4", "training.retain_batch_size=1"]
    settings += ["data.max_tokens=64", "objective.retain_coefficient=0", "training.sample_every=0"]
    run = create_run(tmp_path / "broad", override(load_config("demo"), settings))
    train(run)
    report = evaluate_run(run, attacks=["direct"], limit=6, max_new_tokens=24)
    assert report["verdict"]["name"] == "over_broad", report["verdict"]
    assert report["kept"]["falsely_tripped"]["rate"] > 0.5
