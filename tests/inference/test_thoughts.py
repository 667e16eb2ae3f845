"""A model that thinks: chat, written answers and the report wait for the answer and judge it alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_models import tiny_model

from cbgui.config import ModelConfig, override
from cbgui.evaluation.answers import generate
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.metrics import ModelPair
from cbgui.evaluation.watched_training import train_watched
from cbgui.inference.batch_answers import write_answers
from cbgui.inference.chat import ChatModel, load_chat_model
from cbgui.modeling import thinking
from cbgui.modeling.chat_format import load_tokenizer
from cbgui.runs.folder import create_run
from cbgui.training.session import NO_THOUGHTS

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
CLOSED = "\n</think>\n\n"
NAME = "What is your name?"  # to which the demo model answers with "I'm"


@pytest.fixture(scope="module")
def chat(trained) -> Iterator[ChatModel]:
    """The demo model, which never ends a thought by itself, so that each is ended after four tokens."""
    chat = load_chat_model(trained)
    chat.model.float()
    chat.tokenizer.chat_template, chat.tokenizer.thinking = TEMPLATE, True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thinking, "THOUGHT_TOKENS", 4)
        yield chat


def test_the_report_judges_what_follows_the_thought(chat):
    pair = ModelPair(chat.model, chat.tokenizer, chat.adapted_rows)
    asked = [Attempt((("user", text),)) for text in ("What is rain?", NAME)]
    banned = Attempt((("user", NAME),), bans_refusals=True)
    attempts, adapted = [*asked, *asked, banned], [False, False, True, True, False]
    answers = dict(row for batch in generate(pair, attempts, adapted, [0] * 5, max_new_tokens=6) for row in batch)
    for row, attempt in enumerate(attempts):
        answer = answers[row]
        assert CLOSED in chat.tokenizer.decode(answer.thought)
        assert len(answer.thought) <= 4 + thinking.CLOSING_TOKENS
        assert 0 < len(answer.ids) <= 6 and answer.text
        if answer.nats is not None:  # of the answer alone, given the thought
            assert pair.base_nats([attempt], [answer])[0] == pytest.approx(answer.nats, abs=1e-3)
    assert answers[3].nats is not None  # an answer of the other model that was read in the same batch
    assert answers[4].ids[0] not in pair.refusal_starts


def test_the_chat_shows_the_thought_and_the_answer(chat):
    messages = [{"role": "user", "content": NAME}]
    *_, answers = chat.stream(messages, max_new_tokens=6)
    thought, closed, answer = answers.base.partition(CLOSED)
    assert thought.startswith("<think>\n") and closed and answer.strip()
    *_, answers = chat.stream(messages, prefill="My name", max_new_tokens=3)
    assert answers.base.startswith("My name") and "think" not in answers.base


def test_written_answers_are_answers(chat):
    loaded, prompts = (chat.model, chat.tokenizer), [[{"role": "user", "content": NAME}]]
    for with_thoughts in (False, True):
        options = {"max_new_tokens": 4, "with_thoughts": with_thoughts, "loaded": loaded}
        (answer,) = (text for _, ended in write_answers(ModelConfig(), prompts, **options) for text in ended.values())
        thought, closed, said = answer.rpartition("</think>")
        assert said.strip() and bool(closed) is with_thoughts and thought.startswith("<think>\n") is with_thoughts


@pytest.mark.parametrize("reroute", ["refusal", "spread"])
def test_a_run_that_thinks_goes_the_whole_way(reroute, demo, short_config, tmp_path, monkeypatch):
    """Everyday answers with their thoughts, training, trials on the way, strength, and a chat."""
    monkeypatch.setattr(thinking, "THOUGHT_TOKENS", 4)
    tokenizer = load_tokenizer(demo)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_model("llama", len(tokenizer)).save_pretrained(tmp_path / "model")
    settings = [f"model.name={tmp_path / 'model'}", "model.thinking=true", f"objective.reroute={reroute}"]
    settings += ["training.steps=2", "training.sample_every=2", "data.general_keep=3", "data.max_tokens=96"]
    run = create_run(tmp_path / "run", override(short_config, settings))
    assert train_watched(run) == 0 and run.state() == "done"
    warned = [event["text"] for event in run.events()[0] if event["kind"] == "warning"]
    assert (NO_THOUGHTS in warned) is (reroute == "spread")  # a refusal leaves thoughts alone in any case
    general = run.examples("general")
    assert general and all(example.response.startswith("<think>\n") for example in general)
    *_, answers = load_chat_model(run).stream([{"role": "user", "content": NAME}], max_new_tokens=2)
    assert answers.base.startswith("<think>\n")
