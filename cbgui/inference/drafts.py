"""Questions that the model drafts itself in the manner of the must-stop questions.

It is shown some of them as a list and goes on with the list. What it writes lies in the topic, or beside it; its own
hidden states say which (`prompt_states.Separator`). Those in the topic are more must-stop questions, in other words
and about other things than the user thought of. Those beside it are kept only where they have no word that tells the
topic, because one in five of the others lies inside after all ("How long does it take to grow tomatoes?"). It
also gives questions about things near the topic, from cbgui's own list.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cbgui.data.near_duplicates import normalised
from cbgui.data.suggest import Suggestion, stems, telling_stems
from cbgui.inference.nearest_things import questions_about_near_things
from cbgui.inference.neighbours import varied_questions
from cbgui.inference.prompt_states import Separator, prompt_states
from cbgui.inference.streaming import in_model_thread, stream_tokens
from cbgui.modeling.chat_format import tokenize_texts
from cbgui.modeling.full import batch_token_budget

COUNT = 200  # drafts of each kind
NEAR = 200  # questions about things beside the topic
SHOWN = 8  # questions that the model continues
LONGEST_SHOWN = 300  # characters of one of them
ROWS = 64  # lists continued at once, at most
MAX_NEW_TOKENS = 24  # of one question
TEMPERATURE = 1.0
CLEAR = 1.5  # log-odds from which a draft counts as inside or outside the topic; those between are dropped
MOST_OF_ONE = 4  # drafts about one subject
FORM_SHARE = 0.1  # of the must-stop questions: a more frequent word is how they ask, not what about
FEWEST_WORDS = 3
ATTEMPTS = 3  # times the number of wanted drafts
MARK = "Question:"


@dataclass
class Drafts:
    """Drafted questions: the clearest inside the topic first, and the nearest beside it first; `near` does not come
    from the model: these are about things beside the topic, the nearest first."""

    inside: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    near: list[str] = field(default_factory=list)


def as_suggestions(drafts: Drafts) -> list[Suggestion]:
    """The drafts as rows to look through."""
    return [
        *(Suggestion(prompt, "break", "drafted by the model, in your topic") for prompt in drafts.inside),
        *(Suggestion(prompt, "near_miss", "drafted by the model, beside your topic") for prompt in drafts.beside),
        *(Suggestion(prompt, "near_miss", "about something beside your topic") for prompt in drafts.near),
    ]


def draft_questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    breaks: Sequence[str],
    keeps: Sequence[str],
    *,
    known: Sequence[str] = (),
    count: int = COUNT,
    seed: int = 0,
) -> Iterator[tuple[float, Drafts]]:
    """Yield the share of the work done, and the drafts, which are empty until the end: at most `count` of each kind,
    of those about near things at most NEAR.

    The separator learns from `breaks` and `keeps`; none of these nor of `known` is drafted again. The model goes on
    with those of `breaks` that have at most LONGEST_SHOWN characters. Closing the iterator stops.
    """
    found: dict[str, str] = {}
    seen = set(normalised([*breaks, *keeps, *known]))
    short = [question for question in breaks if len(question) <= LONGEST_SHOWN]
    at_once = _lists_at_once(model, tokenizer, short)
    rounds = max(1, round(ATTEMPTS * count / at_once)) if short else 0
    shuffle = random.Random(seed)
    for turn in range(rounds):
        lists = [shuffle.sample(short, min(SHOWN, len(short))) for _ in range(at_once)]
        texts = ["".join(f"{MARK} {question}\n" for question in shown) + MARK for shown in lists]
        inputs = tokenize_texts(tokenizer, texts, add_special_tokens=True)
        rows: list[list[int]] = []
        stream = stream_tokens(
            model,
            inputs,
            max_new_tokens=MAX_NEW_TOKENS,
            pad_token_id=tokenizer.pad_token_id,
            temperature=TEMPERATURE,
            seed=seed + turn,
        )
        for step, rows in enumerate(stream, 1):  # noqa: B007, the last rows are read below
            yield 0.9 * (turn + step / MAX_NEW_TOKENS) / rounds, Drafts()
        lines = [_first_line(tokenizer.decode(row, skip_special_tokens=True)) for row in rows]
        for line, text in zip(lines, normalised(lines), strict=True):
            if len(text.split()) >= FEWEST_WORDS and text not in seen:
                found.setdefault(text, line)
    lines = in_model_thread(varied_questions, model, tokenizer, breaks, seed)
    for line, text in zip(lines, normalised(lines), strict=True):
        if text not in seen:
            found.setdefault(text, line)
    yield 0.9, Drafts()
    near = in_model_thread(questions_about_near_things, model, tokenizer, breaks, min(count, NEAR), seed)
    near = [question for question, text in zip(near, normalised(near), strict=True) if text not in seen]
    yield 1.0, in_model_thread(_sorted, model, tokenizer, breaks, keeps, list(found.values()), near, count)


def _lists_at_once(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> int:
    """How many lists of these questions fit into memory, at most ROWS."""
    longest = max((len(ids) for ids in tokenizer(list(questions)).input_ids), default=0) if questions else 0
    return max(1, min(ROWS, batch_token_budget(model) // (SHOWN * longest + MAX_NEW_TOKENS)))


def _first_line(text: str) -> str:
    """The first line if the model ended it, else nothing."""
    line, end, _ = text.partition("\n")
    return line.strip() if end else ""


def _sorted(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    breaks: Sequence[str],
    keeps: Sequence[str],
    drafts: list[str],
    near: list[str],
    count: int,
) -> Drafts:
    separator = Separator(*(prompt_states(model, tokenizer, side) for side in (breaks, keeps)))
    scores = separator.scores(prompt_states(model, tokenizer, drafts))
    order = sorted(range(len(drafts)), key=lambda index: -scores[index])
    inside = [drafts[index] for index in order if scores[index] > CLEAR]
    beside = [drafts[index] for index in order if scores[index] < -CLEAR]
    told = telling_stems(breaks)
    beside = [draft for draft in beside if not stems(draft) & set(told)]
    # Of a broad topic, such as medicine, some of the nearest things are the topic itself.
    nearness = separator.scores(prompt_states(model, tokenizer, near))
    outside = [question for question, score in zip(near, nearness, strict=True) if score <= CLEAR]
    return Drafts(_varied(inside, told)[:count], beside[:count], outside)


def _varied(drafts: list[str], told: dict[str, float]) -> list[str]:
    """The drafts without those whose subject was drafted MOST_OF_ONE times before."""
    seen, chosen = Counter(), []
    for draft in drafts:
        subject = {stem for stem in stems(draft) if told.get(stem, 1.0) < FORM_SHARE}
        if all(seen[stem] < MOST_OF_ONE for stem in subject):
            seen.update(subject)
            chosen.append(draft)
    return chosen
