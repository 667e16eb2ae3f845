"""Classifiers of both forms: a classification head with random weights, and the demo model as a judge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from random_models import head
from tokenizers.processors import TemplateProcessing

from cbgui.errors import InputError
from cbgui.evaluation import classifier
from cbgui.evaluation.classifier import Classifier, JudgeChoice, complied, load_classifier
from cbgui.evaluation.evaluate import evaluate_run
from cbgui.modeling.chat_format import load_tokenizer
from cbgui.runs.run import Run

PAIRS = [("What is two and two?", "Four."), ("Name a colour.", "Blue is a colour that many people like.")]


def load(name: Path | str, label: str | None = None, template: Path | None = None) -> Classifier:
    return load_classifier(JudgeChoice(str(name), label, template), "none")


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
    assert dict(load(folder).judge(PAIRS)) == {0: True, 1: True}
    assert dict(load(folder, label="harmless").judge(PAIRS)) == {0: False, 1: False}


def test_a_language_model_is_asked_with_the_users_template(demo, tmp_path):
    """The template ends in one word many times over, so that a small model repeats it as its reply.

    {request} is the older name of {prompt}.
    """
    cases = [("yes", True, "{prompt}"), ("unsafe", True, "{request}"), ("no", False, "{prompt}")]
    for word, expected, placeholder in cases:
        template = tmp_path / f"{word}.txt"
        template.write_text(f"{word} {word} {word} {word} {word} {placeholder} {{answer}}" + f" {word}" * 12, "utf-8")
        assert dict(load(demo.path, template=template).judge(PAIRS)) == {0: expected, 1: expected}


class NotesInputs:
    """Stands in for a model: keeps what it was asked, and replies nothing."""

    device = "cpu"

    def generate(self, *, input_ids: torch.Tensor, **options: object) -> torch.Tensor:
        self.asked = input_ids
        return input_ids


def test_special_tokens_are_added_to_the_users_template_alone(demo):
    """What went through a chat template has them already."""
    tokenizer = load_tokenizer(demo)
    bos = tokenizer.convert_tokens_to_ids("<|endoftext|>")  # the demo's own tokenizer adds no token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
    )
    assert tokenizer.chat_template
    for template, expected in (("Complied? {prompt} {answer}", [0]), ("", [])):
        model = NotesInputs()
        assert dict(Classifier("judge", model, tokenizer, None, template).judge(PAIRS[:1])) == {0: None}
        assert [place for place, token in enumerate(model.asked[0].tolist()) if token == bos] == expected


def test_a_prompt_that_contains_a_placeholder_is_read_as_it_is(demo):
    tokenizer, model = load_tokenizer(demo), NotesInputs()
    pairs = [("What does {answer} mean?", "A {prompt}.")]
    assert dict(Classifier("judge", model, tokenizer, None, "Q {prompt} A {answer}").judge(pairs)) == {0: None}
    assert tokenizer.decode(model.asked[0]) == "Q What does {answer} mean? A A {prompt}."


def test_a_classifier_that_cannot_judge_a_batch_is_refused_before_any_answer(trained, demo, tmp_path, monkeypatch):
    """A tokenizer without a padding token judges one answer at a time alone."""
    folder = head(tmp_path / "head", demo, ["harmless", "harmful"])

    def without_padding(source):
        tokenizer = load_tokenizer(source)
        tokenizer.pad_token = None
        return tokenizer

    monkeypatch.setattr(classifier, "load_tokenizer", without_padding)
    run = Run(tmp_path / "run")
    shutil.copytree(trained.path, run.path, ignore=shutil.ignore_patterns("report"))
    said = []
    with pytest.raises(InputError, match="could not judge two harmless answers .*padding.*choose another classifier"):
        evaluate_run(run, judge=JudgeChoice(str(folder)), progress=lambda share, words: said.append(words))
    assert "Loading the model" not in said and not run.answers_file.exists()


def test_a_model_that_cannot_judge_is_refused(demo, tmp_path):
    folder = head(tmp_path / "unclear", demo, ["left", "right"])
    with pytest.raises(InputError, match=r"left, right.*name it, as in --judge-label left"):
        load(folder)
    babble = tmp_path / "babble.txt"
    babble.write_text("{prompt} {answer} one two three four five six one two three four five six one", "utf-8")
    with pytest.raises(InputError, match="replied with none of yes, no"):
        load(demo.path, template=babble)
    with pytest.raises(InputError, match="put {prompt} and {answer}"):
        load(demo.path, template=folder / "config.json")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}), "utf-8")
    with pytest.raises(InputError, match="cannot judge"):
        load(folder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--judge", "@nothing"], "no such folder"),
        (["--judge", "demo", "--judge-template", "@nothing.txt"], "cannot be read"),
        (["--also", "@nothing.csv"], "does not exist"),
        (["--also", "x.csv", "--also-sort", "up"], "--also-sort"),
        (["--also", "x.csv", "--also-kind", "evil"], "'evil' is unknown"),
        (["--also", "x.csv", "--also-limit", "none"], "--also-limit"),
        (["--tasks", "hellaswag"], "lm-eval"),
    ],
)
def test_bad_options_are_refused_before_the_model_is_loaded(arguments, words, cli, trained, tmp_path):
    done = cli("evaluate", trained.path, *(a.replace("@", f"{tmp_path}/") for a in arguments))
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "Loading the model" not in done.stdout
