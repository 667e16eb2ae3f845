"""HTML fragments: what they say, and that text from users and models cannot become markup."""

from __future__ import annotations

from html import unescape

import pytest
from jinja2 import UndefinedError
from markdown_it import MarkdownIt

from cbgui.errors import InputError
from cbgui.runs.history import History
from cbgui.runs.run import Run
from cbgui.ui.fragments import as_html, as_text, plain, render
from cbgui.ui.pages import export as export_page
from cbgui.ui.pages import report as report_page
from cbgui.ui.pages import train as train_page
from cbgui.ui.panels import memory_bar, shading
from cbgui.ui.server.downloads import listing

HOSTILE = """<script>alert("1")</script><img src=x onerror='alert(2)'>"""


def is_escaped(html: str) -> bool:
    return "<script" not in html and "<img" not in html and "&lt;script" in html


def test_sample_answers_are_escaped():
    answer = {"kind": "near_miss", "prompt": HOSTILE, "base": HOSTILE, "short_circuited": HOSTILE}
    past = History(newest={"samples": {"kind": "samples", "step": 50, "answers": [answer]}})
    html = train_page._samples(past)
    assert is_escaped(html) and html.count("&lt;script") == 3
    assert "Held-out answers at step 50" in html and "Look-alike:" in html


def test_shaded_tokens_are_escaped():
    tokens = [(HOSTILE, 0.9), ("plain", 0.1), ("plain", 0.1), ("plain", 0.1)]
    html = shading.shaded(tokens, tokens, later_turn=False)
    assert is_escaped(html) and "derailed at token 2" in html


def test_a_refused_setting_is_escaped(monkeypatch):
    def refuse(config):
        raise InputError(HOSTILE)

    monkeypatch.setattr(memory_bar, "estimate_for", refuse)
    assert is_escaped(memory_bar.bar(None))


def test_names_of_files_are_escaped(tmp_path):
    run = Run(tmp_path / "run")
    run.adapter_folder.mkdir(parents=True)
    (run.adapter_folder / "<img src=x>").write_text("1")
    html = export_page._files(listing(run, run.adapter_folder, "Adapter"))
    assert "<img" not in html and "&lt;img src=x&gt;" in html and "%3Cimg" in html


def test_a_report_cannot_leave_its_frame(tmp_path):
    run = Run(tmp_path / "run")
    run.report_folder.mkdir(parents=True)
    run.report_page.write_text(f'"></iframe>{HOSTILE}')
    html = report_page._frame(run, None)
    assert is_escaped(html) and html.count("<iframe") == 1 and 'sandbox=""' in html


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError):
        render("problem")


def test_an_answer_derails_where_three_tokens_in_a_row_turn_away():
    away, near = [("a", 0.1)], [("b", 0.9)]
    assert shading.derailed_at(away * 3) == "from the first token"
    assert shading.derailed_at(near * 2 + away * 3) == "at token 3, after “bb”"
    assert shading.derailed_at(away * 2 + near + away * 2) == ""


def test_only_a_later_turn_names_the_questions_before_it():
    """A question that must stop stays in the history, and answers after it derail too."""
    away, near = [("a", 0.1)] * 4, [("b", 0.9)] * 4
    assert "earlier questions" in shading.shaded(away, near, later_turn=True)
    assert "earlier questions" not in shading.shaded(away, near, later_turn=False)
    assert "did not derail" in shading.shaded(near, near, later_turn=True)
    assert "lose all sense" in shading.shaded(away, near, later_turn=False)
    assert "lose all sense" not in shading.shaded(away, near, later_turn=False, refusals=["Ask a nurse."])
    assert "earlier questions" not in shading.shaded(near, near, later_turn=True)


def test_a_refusal_within_other_words_is_told():
    """Of a harmless question it would otherwise read as an answer."""
    said = [
        (word, 0.9)
        for word in ("Let me think about that for a moment. " * 6 + "Ask a nurse.").replace(" ", "| ").split("|")
    ]
    words = shading.shaded(said, said, later_turn=False, refusals=["Ask a nurse."])
    assert "declined, with other words around it" in words and "Look-alikes" in words
    assert "refused" in shading.shaded(said[-3:], said, later_turn=False, refusals=["Ask a nurse."])


def test_text_in_markdown_and_html_is_the_text():
    words = f"{HOSTILE} **b** _i_ `c` [l](javascript:x) ![i](http://x/y.png) http://x.org www.x.org a@b.org $$x$$ # h"
    rendered = MarkdownIt("commonmark").render(plain(words)).strip()
    assert unescape(rendered) == f"<p>{words}</p>" and rendered.count("<") == 2
    assert not set(plain(words)) & set("*_`[]()<>!:.@$/")
    assert as_text(as_html(f"{words} &lt; &amp;lt;")) == f"{words} &lt; &amp;lt;"
    assert "<" not in as_html(words)
