"""A run that reroutes to a refusal: the states are solved once, cached, and what the run does is told."""

from __future__ import annotations

import pytest
import torch

from cbgui.config import PRESETS, override
from cbgui.data.reading import read_examples
from cbgui.errors import InputError
from cbgui.modeling.chat_format import end_of_turn, load_tokenizer
from cbgui.modeling.upper import load_upper_model
from cbgui.runs.folder import create_run
from cbgui.training import refusal_states, session
from cbgui.training.refusal_states import numbered, sentences_of

BREAKS = read_examples(PRESETS / "demo" / "break.jsonl", "break")


@pytest.fixture
def config(short_config, monkeypatch, tmp_path):
    """A short sentence, few contexts and steps, a cache of its own."""
    monkeypatch.setattr(refusal_states, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(refusal_states, "MOST_ROUNDS", 1)
    monkeypatch.setattr(refusal_states, "CONTEXTS", 4)
    monkeypatch.setattr(refusal_states, "UNSEEN", 2)
    monkeypatch.setattr(refusal_states, "CONTEXT_ANSWER", 8)
    return override(short_config, ["objective.reroute=refusal", "objective.refusal=['I will not say.']"])


def solve(demo, config, tell=lambda words: None):
    return refusal_states.refusal_states(demo, config, load_tokenizer(demo), BREAKS, 20, tell)


def test_the_upper_layers_say_the_sentence_from_the_solved_states(demo, config, monkeypatch):
    monkeypatch.setattr(refusal_states, "STEPS", 25)
    monkeypatch.setattr(refusal_states, "ROWS", 4)
    told = []
    states = solve(demo, config, told.append)
    assert states.whole >= 0.75 and "(0%)" in told[1]
    assert states.vectors.shape == (len(numbered(states.sentences)), 576)
    lengths = states.vectors.norm(dim=-1)
    assert lengths.min() > 0.2 * lengths.max()  # natural lengths, none of them collapsed
    again = solve(demo, config, lambda words: pytest.fail(words))  # from the cache
    assert again.whole == states.whole and again.vectors.equal(states.vectors)


def test_a_run_trains_to_the_refusal_and_says_when_it_will_not_come_out_whole(demo, config, monkeypatch, tmp_path):
    monkeypatch.setattr(refusal_states, "STEPS", 1)
    run = create_run(tmp_path / "run", config)
    session.train(run)
    events = run.events()[0]
    assert run.state() == "done" and run.adapter_file.is_file()
    (warning,) = [e["text"] for e in events if e["kind"] == "warning" and "comes out whole" in e["text"]]
    assert "choose a shorter sentence in objective.refusal" in warning
    losses = [event["reroute_loss"] for event in events if event["kind"] == "step"]
    assert len(losses) == 4 and min(losses[1:]) < losses[0]


def test_states_that_cannot_be_kept_are_used_all_the_same(demo, config, monkeypatch, tmp_path):
    """A full disk, or a cache whose place is taken."""
    monkeypatch.setattr(refusal_states, "STEPS", 1)
    (tmp_path / "cache").write_text("no folder", "utf-8")
    assert solve(demo, config).vectors.isfinite().all()


def test_a_stop_while_the_states_are_solved_leaves_a_run_that_can_go_on(demo, config, tmp_path):
    run = create_run(tmp_path / "run", config)
    run.ask("stop")
    session.train(run)
    assert run.state() == "paused"
    assert "before the first step" in run.events()[0][-1]["text"]


def test_the_last_layer_cannot_be_the_target_of_a_refusal(demo, config, tmp_path):
    run = create_run(tmp_path / "run", override(config, ["objective.target_layers=[30]"]))
    with pytest.raises(InputError, match="the layers above the highest target say the refusal; choose layers below 30"):
        session.train(run)


def test_less_memory_gives_the_same_states(demo, config, monkeypatch):
    """Passes of one row, as after running out of memory, add up to the gradient of one pass."""
    monkeypatch.setattr(refusal_states, "ROWS", 2)
    config = override(config, ["model.dtype=float32"])
    tokenizer = load_tokenizer(demo)
    sentences = sentences_of(tokenizer, config)
    given = refusal_states._read_contexts(demo, config, tokenizer, BREAKS, sentences, 20, lambda words: None)
    upper, found = load_upper_model(demo, config.model, 20), []
    for at_once in (2, 1):
        torch.manual_seed(0)
        solver = refusal_states.Solver(upper, given, sentences, end_of_turn(tokenizer))
        solver.at_once = at_once
        solver.step(1.0)
        found.append(solver.weight.grad)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-6)
