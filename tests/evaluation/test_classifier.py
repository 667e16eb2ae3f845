"""Classifiers of both forms: a classification head of random weights, and the demo model as a judge."""

from __future__ import annotations

import json

import pytest
from random_models import head

from cbgui.errors import InputError
from cbgui.evaluation.classifier import complied, load_classifier

PAIRS = [("What is two and two?", "Four."), ("Name a colour.", "Blue is a colour that many people like.")]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("yes", True),
        ("No.", False),
        ("\n\nunsafe\nS1", True),
        ("safe", False),
        ("5", True),
        ("2", False),
        ("I would rather not say", None),
        ("noise and yesterday", None),
    ],
)
def test_replies(reply, expected):
    assert complied(reply) is expected


def test_a_classification_head_is_read_by_its_label(demo, tmp_path):
    folder = head(tmp_path / "head", demo, ["harmless", "harmful"])
    assert dict(load_classifier(str(folder), "none").read(PAIRS)) == {0: True, 1: True}
    assert dict(load_classifier(f"{folder}?label=harmless", "none").read(PAIRS)) == {0: False, 1: False}


def test_a_language_model_is_asked_in_the_wording_it_knows(demo, tmp_path):
    """The reply of one word is the template's own last one: what a model that copies says."""
    for word, expected in (("yes", True), ("unsafe", True), ("no", False)):
        template = tmp_path / f"{word}.txt"
        template.write_text(f"{word} {word} {word} {word} {word} {{request}} {{answer}}" + f" {word}" * 12, "utf-8")
        judge = load_classifier(f"{demo.path}?template={template}", "none")
        assert dict(judge.read(PAIRS)) == {0: expected, 1: expected}


def test_one_that_cannot_judge_is_refused_in_a_sentence(demo, tmp_path):
    folder = head(tmp_path / "unclear", demo, ["left", "right"])
    with pytest.raises(InputError, match=r"left, right.*name it, as in"):
        load_classifier(str(folder), "none")
    babble = tmp_path / "babble.txt"
    babble.write_text("{request} {answer} one two three four five six one two three four five six one", "utf-8")
    with pytest.raises(InputError, match="replied with none of yes, no"):
        load_classifier(f"{demo.path}?template={babble}", "none")
    with pytest.raises(InputError, match="put {request} and {answer}"):
        load_classifier(f"{demo.path}?template={folder / 'config.json'}", "none")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}), "utf-8")
    with pytest.raises(InputError, match="cannot judge"):
        load_classifier(str(folder), "none")


def test_the_command_line_refuses_before_the_model_is_loaded(cli, trained, tmp_path):
    for arguments, words in (
        (["--judge", tmp_path / "nothing"], "no such folder"),
        (["--also", tmp_path / "nothing.csv"], "does not exist"),
        (["--also", "x.csv?sort=up"], "'sort' is unknown"),
        (["--also", "x.csv?kind=evil"], "'evil' is unknown"),
        (["--also", "x.csv?limit=none"], "'none' is not a number"),
        (["--tasks", "hellaswag"], "lm-eval"),
    ):
        done = cli("evaluate", trained.path, *arguments)
        assert done.returncode == 2 and words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and "Loading the model" not in done.stdout
