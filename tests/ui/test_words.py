"""The texts of the pages: the same in every language, used, and nowhere else."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_process import ROOT
from gradio.context import LocalContext

from cbgui.data.examples import KIND_LABELS, KIND_PLURALS
from cbgui.runs.run import STATE_LABELS
from cbgui.training.trials import Trial
from cbgui.ui.panels import run_status
from cbgui.ui.words import ENGLISH, LANGUAGES, TEXTS, kind_of, on_page, say, say_count

UI = ROOT / "cbgui" / "ui"
SAY = {"on_page", "say", "say_count"}
SHOWN = {"label", "info", "placeholder", "title", "x_title", "y_title"}  # arguments of components
COMPONENTS = {"Accordion", "Button", "Checkbox", "Markdown", "Step", "Tab"}  # whose first argument is shown
SAID = {"Error", "Info", "InputError", "tell"}
# Names and examples that are the same in every language.
SAME = {"# cbgui", "cbgui", "owner/name", "settings.yaml", "your-name/model-name", " "}


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_every_text_with_the_same_values(language):
    assert list(TEXTS[language]) == list(TEXTS[ENGLISH])
    for key, text in TEXTS[language].items():
        english = TEXTS[ENGLISH][key]
        assert isinstance(text, str) and text.strip(), key
        assert fields(text) == fields(english), key
        assert text.count("**") == english.count("**") and text.count("`") == english.count("`"), key
        assert text[-1].isspace() == english[-1].isspace() and text[0].isspace() >= english[0].isspace(), key


def test_kinds_and_states_are_called_as_elsewhere():
    for kind in KIND_LABELS:
        assert (say(f"kind.{kind}"), say(f"kind.many_{kind}")) == (KIND_LABELS[kind], KIND_PLURALS[kind])
        assert all(kind_of(texts[f"kind.{kind}"]) == kind for texts in TEXTS.values())
    assert {state: say(f"state.{state}") for state in STATE_LABELS} == STATE_LABELS
    assert kind_of("nonsense") is None


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(UI.rglob("*.py")):
        yield path, ast.parse(path.read_text("utf-8"))


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def patterns() -> Iterator[str]:
    """A regular expression for each string of the pages that may be a key, with any value in place of its fields."""
    for path, tree in trees():
        for node in () if path.parent.name == "words" else ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [re.escape(part.value) if isinstance(part, ast.Constant) else r"\w+" for part in node.values]
                yield "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.escape(node.value)
    for path in UI.glob("templates/*"):
        for name, rest in re.findall(r'say\("([\w.]+)"( ~)?', path.read_text("utf-8")):
            yield re.escape(name) + (r"\w+" if rest else "")


def test_every_text_is_used():
    used = re.compile("|".join({f"(?:{pattern})(?:_one|_many|_early)?" for pattern in patterns() if "." in pattern}))
    assert [key for key in TEXTS[ENGLISH] if not used.fullmatch(key)] == []


def test_every_key_in_the_code_has_a_text():
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and called(node) in SAY and isinstance(node.args[0], ast.Constant):
                key = node.args[0].value + ("_many" if called(node) == "say_count" else "")
                assert key in TEXTS[ENGLISH], (path.name, node.lineno)
                values = {word.arg for word in node.keywords} | ({"count"} if called(node) == "say_count" else set())
                assert not values or fields(TEXTS[ENGLISH][key]) == values, (path.name, node.lineno)


def literals(node: ast.Call) -> Iterator[ast.expr]:
    """The arguments of a call that a user reads."""
    name = called(node)
    if name in COMPONENTS | SAID:
        yield from node.args[:1]
    if isinstance(node.func, ast.Attribute):
        yield from (word.value for word in node.keywords if word.arg in SHOWN)


def test_no_page_holds_a_text_of_its_own():
    found = []
    for path, tree in trees():
        for node in ast.walk(tree):
            for value in literals(node) if isinstance(node, ast.Call) else ():
                text = value.value if isinstance(value, ast.Constant) else ""
                if isinstance(value, ast.JoinedStr):
                    text = "".join(part.value for part in value.values if isinstance(part, ast.Constant))
                if isinstance(text, str) and re.search("[A-Za-z]", text) and text not in SAME:
                    found.append((path.name, node.lineno, text))
    assert found == []


def browser(wanted: str | None) -> SimpleNamespace:
    headers = [] if wanted is None else [(b"accept-language", wanted.encode())]
    return SimpleNamespace(request=SimpleNamespace(scope={"headers": headers}))


@pytest.mark.parametrize(
    ("wanted", "stop"),
    [
        (None, "Stop"),
        ("en-US,en;q=0.9", "Stop"),
        ("de-DE,de;q=0.9,en;q=0.8", "Stopp"),
        ("fr", "Arrêter"),
        ("DE;q=0.8", "Stopp"),
        ("nl,de;q=0.5", "Stop"),  # as the browser does: Gradio looks at the first language only
    ],
)
def test_python_speaks_the_language_of_the_browser(wanted, stop):
    token = LocalContext.request.set(browser(wanted))
    try:
        assert say("common.stop") == stop
    finally:
        LocalContext.request.reset(token)
    assert say("common.stop") == "Stop"


def test_numbers_and_plurals():
    assert say_count("topic.shown", 1, page=1, pages=1) == "1 row, page 1 of 1"
    assert say_count("topic.shown", 200_000, page=1, pages=8000) == "200,000 rows, page 1 of 8,000"
    token = LocalContext.request.set(browser("de"))
    try:
        assert say_count("topic.shown", 200_000, page=1, pages=8000) == "200.000 Zeilen, Seite 1 von 8.000"
    finally:
        LocalContext.request.reset(token)


def test_a_text_without_a_key_is_refused():
    with pytest.raises(KeyError):
        on_page("common.nothing")


def test_a_trial_is_told_in_english_as_the_command_line_tells_it():
    trial = Trial(39, 40, {"retain": (0, 32), "near_miss": (1, 32)}, [], 37)
    assert run_status._trial(trial) == trial.sentence()
    assert run_status._trial(Trial(hurt={"refusal": (0, 2)})) == Trial(hurt={"refusal": (0, 2)}).sentence()
