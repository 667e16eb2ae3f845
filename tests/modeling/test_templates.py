"""Chat templates come with a model: what one may do, and that a hostile one costs ten seconds at most."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from jinja2 import TemplateError

from cbgui.data.reading import read_examples
from cbgui.errors import InputError
from cbgui.modeling import templates
from cbgui.modeling.chat_format import load_tokenizer, prompt_text, refuse_unfit
from cbgui.runs.folder import create_run
from cbgui.training import session

SYSTEM_TURNS = Path(__file__).resolve().parent.parent / "cases" / "sys.jsonl"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}ok"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Où? \U0001f600 {{ x }} \ud83d"}]


def test_a_conversation_is_rendered_as_transformers_does(demo):
    tokenizer = load_tokenizer(demo)
    expected = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert prompt_text(tokenizer, MESSAGES) == expected
    assert templates.render("{{ bos_token }}{{ messages[0].content }}", MESSAGES, {"bos_token": "<s>"}, "m") == (
        "<s>Be brief."
    )


BOMBS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubling": "{% set n = namespace(x='aaaa') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "long": "{{ 'a' * 30000000 }}",
    "longer": "{{ 'a' * 9000000000 }}",
    "endless": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_takes_too_much_is_told_in_a_sentence(name, monkeypatch):
    monkeypatch.setattr(templates, "SECONDS", 2.0)
    before = psutil.Process().memory_info().rss
    with pytest.raises(InputError, match="model 'm': its chat template takes over"):
        templates.render(BOMBS[name], MESSAGES, {}, "m")
    assert psutil.Process().memory_info().rss - before < 2**28
    assert templates.render("{{ messages[1].role }}", MESSAGES, {}, "m") == "user"  # the next one is rendered


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no system role') }}", "{% bad", "{{ messages[9].content.x }}"]
)
def test_a_template_that_refuses_says_why(template):
    with pytest.raises(TemplateError, match="no system role|bad|element"):
        templates.render(template, MESSAGES, {}, "m")


def test_examples_that_the_template_refuses_are_named(demo):
    tokenizer = load_tokenizer(demo)
    examples = read_examples(SYSTEM_TURNS, "retain")
    refuse_unfit(tokenizer, examples)
    tokenizer.chat_template = NO_SYSTEM
    with pytest.raises(InputError, match="sys.jsonl.*refuses 1 examples.*system, user.*System role.*'How do I bake"):
        refuse_unfit(tokenizer, examples)


def test_training_names_them_before_it_loads_the_weights(short_config, tmp_path, monkeypatch):
    def without_system(*arguments):
        tokenizer = load_tokenizer(*arguments)
        tokenizer.chat_template = NO_SYSTEM
        return tokenizer

    monkeypatch.setattr(session, "load_tokenizer", without_system)
    monkeypatch.setattr(session, "load_truncated_model", lambda *arguments: pytest.fail("the weights were loaded"))
    short_config.data.break_file = str(SYSTEM_TURNS)
    run = create_run(tmp_path / "run", short_config)
    assert session.run_training(run) == 1
    status = run.newest("status")["status"]
    assert "System role not supported" in status["text"] and status["resume"] is False
