"""Every text of the pages by its key, in each language: the YAML files of this folder, which hold the same keys.

A text that is on a page from the start is looked up by the browser (`on_page`), one that Python composes by `say`.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.context import LocalContext
from gradio.i18n import I18nData
from starlette.datastructures import Headers

from cbgui.data.examples import KIND_LABELS, Kind
from cbgui.plain_yaml import load_yaml

ENGLISH = "en"
LANGUAGES = (ENGLISH, "de", "fr")
THOUSANDS = {"en": ",", "de": ".", "fr": "\N{NARROW NO-BREAK SPACE}"}


def _load(language: str) -> dict[str, str]:
    groups = load_yaml(Path(__file__).with_name(f"{language}.yaml").read_text("utf-8"))
    return {f"{group}.{name}": text for group, texts in groups.items() for name, text in texts.items()}


TEXTS = {language: _load(language) for language in LANGUAGES}
I18N = gr.I18n(**TEXTS)  # for `launch`


def on_page(key: str) -> I18nData:
    """The text for a component that is built once for all visitors; each browser shows it in its own language."""
    if key not in TEXTS[ENGLISH]:
        raise KeyError(key)
    return I18N(key)


def say(key: str, /, **values: object) -> str:
    """The text with `values` filled in, in the language of the browser whose event is handled; English without one.

    For table headings, messages that go away, and sentences with values, which a browser cannot look up.
    """
    spoken = language()
    text = TEXTS[spoken][key]
    return text.format(**{name: _shown(value, spoken) for name, value in values.items()}) if values else text


def say_count(key: str, count: int, /, **values: object) -> str:
    """`say` with the text for one (KEY_one) or for any other number (KEY_many)."""
    return say(f"{key}_one" if count == 1 else f"{key}_many", count=count, **values)


def _shown(value: object, spoken: str) -> object:
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}".replace(",", THOUSANDS[spoken]) if is_count else value


def language() -> str:
    """What the browser whose event is handled wants first, if it is one of LANGUAGES; as Gradio chooses there."""
    request = getattr(LocalContext.request.get(None), "request", None)
    wanted = Headers(raw=request.scope.get("headers") or []).get("accept-language", "") if request is not None else ""
    first = wanted.partition(",")[0].partition(";")[0].partition("-")[0].strip().lower()
    return first if first in LANGUAGES else ENGLISH


def kind_of(label: str, otherwise: Kind | None = None) -> Kind | None:
    """The kind that a table's cell names, in any language."""
    return _KINDS.get(label.strip(), otherwise)


_KINDS = {TEXTS[language][f"kind.{kind}"]: kind for language in LANGUAGES for kind in KIND_LABELS}
