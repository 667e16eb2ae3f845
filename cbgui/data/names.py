"""The names that people give to columns and kinds."""

from __future__ import annotations

import re
from typing import get_args

from cbgui.data.examples import KIND_LABELS, Kind

# Column names of public data sets and of people's own tables, most likely first, as `normal` writes them.
COLUMN_NAMES = {
    "messages": ["messages", "conversations", "conversation", "chat", "turns", "dialog", "dialogue"],
    "prompt": [
        *("prompt", "instruction", "question", "goal", "behavior", "behaviour", "forbidden_prompt", "request", "query"),
        *("user_prompt", "user_input", "user_message", "user", "human", "input", "input_text"),
        *("frage", "anfrage", "anweisung", "aufgabe", "eingabe"),
        *("pregunta", "instrucción", "domanda", "pergunta", "vraag", "pytanie", "fråga", "spørgsmål", "soru"),
        *("вопрос", "问题", "問題", "指令", "質問", "질문", "سؤال"),
    ],
    "response": [
        *("response", "answer", "output", "completion", "target", "reply", "assistant", "chosen", "rejected"),
        *("model_response", "assistant_response", "model_answer", "output_text"),
        *("antwort", "ausgabe", "réponse", "reponse", "respuesta", "risposta", "resposta", "antwoord"),
        *("odpowiedź", "svar", "cevap", "yanıt", "ответ", "回答", "答案", "输出", "답변", "응답", "إجابة"),
    ],
    "kind": ["kind", "side"],
    "input": ["input", "context", "kontext", "contexte"],  # a second part of the prompt
}
HEADINGS = {name for names in COLUMN_NAMES.values() for name in names} | {"system", "id", "category", "kategorie"}
PAIRS = [("chosen", "rejected"), ("chosen_response", "rejected_response"), ("preferred", "rejected")]
NEVER_TEXT = {"category", "kategorie", "type", "label", "source", "id", "system", "tags", "language", "topic"}


def normal(name: object) -> str:
    """A name for comparing: " User-Prompt:" and "user_prompt" are the same."""
    return re.sub(r"[\W_]+", "_", str(name).casefold()).strip("_")


KIND_WORDS: dict[str, Kind] = {
    **{kind: kind for kind in get_args(Kind)},
    **{normal(label): kind for kind, label in KIND_LABELS.items()},
    **dict.fromkeys(("stop", "must_stop", "must_not_be_answered", "block", "harmful", "forbidden", "unsafe"), "break"),
    **dict.fromkeys(("keep", "must_keep", "must_be_answered", "harmless", "safe", "benign"), "retain"),
    **dict.fromkeys(("near_misses", "nearmiss", "look_alikes", "lookalike"), "near_miss"),
    **dict.fromkeys(("refusals", "refused", "refuse"), "refusal"),
}


def kind_of(word: object) -> Kind | None:
    """The kind that a cell names; None when it names none."""
    return KIND_WORDS.get(normal(word))
