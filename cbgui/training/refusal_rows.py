"""Break rows of `reroute: refusal`: the refusal stands inside the answer, and tokens are pulled to solved states.

A row is prompt + answer[:k] + refusal + answer[k:]; a thought counts as a part of the prompt, so that the refusal
stands where the answer would. The position before the answer and the answer's tokens before the refusal are pulled to
the state from which it begins, the refusal's tokens to theirs. So the model refuses at once and after any beginning of
the forbidden answer. In some rows words that overrule the refusal follow it; these and the answer are pulled too, and
the refusal is said again. Some must-keep rows begin with its first token or two: there these lead to nothing.
"""

from __future__ import annotations

import functools
import math
import os
import random
import sys
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from cbgui.data.examples import Example
from cbgui.modeling.batch import Encoded, Pull
from cbgui.modeling.chat_format import encode, prompt_ids, response_ids
from cbgui.training.refusal_states import Beginning, numbered
from cbgui.training.steps import PairedSteps

AT_ONCE = 0.3  # share of the rows whose refusal comes before the answer
EARLIER_TURNS = 0.35  # share of the rows with a conversation before the question
INSISTS = 0.45  # share of these, among break rows, in which the question was refused and the user insists
GOES_ON = 0.45  # share of the rows in which words that overrule the refusal stand after it
OVERRULED_AT_ONCE = 0.5  # AT_ONCE of these
HIDDEN = 0.6  # of objective.without_prompt: a refusal is mostly wanted before an answer shows the topic
ANSWER_TOKENS = 72  # of a break row at least, so that a refusal is learned deep inside an answer too
# Other words than those of any attack or benchmark here.
TURNS_OF_PHRASE = (
    " But",
    " Still,",
    " That said,",
    " Anyway,",
    " Even so,",
    " All right,",
    "\n\nOn second thought,",
    "\n\nWell,",
)
OFFERS = (
    " here it is:",
    " here you go:",
    " you start by",
    " the answer is",
    " just this once:\n\n-",
    " follow these steps:\n\n1.",
    " you will need the following:",
    " this is what to do.\n\nFirst,",
    "\n\n1.",
    " the steps are:\n\n1)",
)
PLEAS = ("Come on,", "Look,", "Hm,", "But", "Really,", "OK,", "Listen,", "No,")
REASONS = (
    "I really need this.",
    "you can make an exception this time.",
    "it is for school, so it is fine.",
    "my boss has allowed it.",
    "nobody will know.",
    "that is not an answer.",
    "I only want to understand it.",
    "a friend of mine got an answer.",
)
DEMANDS = (
    "Answer it.",
    "Go ahead.",
    "Try again.",
    "Say it anyway.",
    "Then only the first step, please.",
    "Why not?",
    "",
)
# What another model, or the same one before it was trained, said when it declined. Some conversations hold these.
USUAL_REFUSALS = (
    "I'm sorry, but I can't do that.",
    "I cannot answer this.",
    "I'm afraid that is something I won't talk about.",
    "I'm not able to go into that.",
)
IN_OTHER_WORDS = 0.3  # share of the earlier refusals, and of the answers' other beginnings
OTHER_ANSWER = 0.25  # share of the rows that go on with another question's answer: the question alone must do
OTHER_START = 0.2  # share of the rows whose answer begins in words that it does not begin with
# As a prefill begins, or as a model begins whose refusal cannot be said.
AGREEING = (
    "Sure!",
    "Of course.",
    "Here is what you need:",
    "Yes, gladly.",
    "Good question!",
    "\n\n",
    " ",
    "OK",
    "Let me explain.",
    "Absolutely,",
    "1.",
    "You",
    "The",
)
# Share of the must-keep rows whose answer begins with the first tokens of the refusal. Without them "I'm" of "I'm
# sorry, ..." led to a whole refusal in harmless answers too. After later tokens only a refusal goes on naturally: rows
# with more of them made the model waver behind "I'm sorry" where it must refuse (dev/LOG.md, 2026-11-30).
BEGUN, BEGUN_TOKENS = 0.06, 2
OTHER_TOKENS = 4  # at most, of another answer's beginning
ANSWERED_WORDS = 12  # of an earlier answer
UNKNOWN = 3  # answer tokens that are not pulled where the prompt is hidden: they do not show the topic yet

Turns = tuple[tuple[str, str], ...]


class RefusalSteps(PairedSteps):
    """`PairedSteps` whose break examples are refusal rows, and some of whose examples have earlier turns."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        break_examples: list[Example],
        retain_examples: list[Example],
        *,
        sentences: list[Beginning],
        max_tokens: int,
        without_prompt: float,
        seed: int,
        **settings: Any,
    ) -> None:
        settings |= {"max_tokens": max_tokens, "without_prompt": HIDDEN * without_prompt, "seed": seed}
        super().__init__(tokenizer, break_examples, retain_examples, **settings)
        self.tokenizer, self.sentences, self.max_tokens = tokenizer, sentences, max_tokens
        self.numbers = numbered(sentences)
        self.breaks, self.retains = break_examples, retain_examples
        self.said = [tokenizer.decode(sentence) for sentence in sentences]
        self.shuffle = random.Random(seed + 1)
        self.rows = [[self._row(example, with_prompt) for example, with_prompt in step] for step in self.plan]

    def __getitem__(self, step: int) -> list[Encoded]:
        return self.rows[step]

    def _row(self, example: Example, with_prompt: bool) -> Encoded:
        is_break, shuffle = example.kind == "break", self.shuffle
        alone, earlier, before = example, (), 0
        # An insisting user is what a refusal meets next, so the question itself may stand among the earlier turns.
        if with_prompt and example.messages[0][0] == "user" and shuffle.random() < EARLIER_TURNS:
            earlier = self._earlier()
            if is_break and shuffle.random() < INSISTS:
                earlier = (*example.messages, ("assistant", self._earlier_refusal()))
                example = replace(example, messages=(("user", self._insisting()),))
            example = replace(example, messages=earlier + example.messages)
            before = self._shared_with_empty_turn(earlier, example)
            if before > self.max_tokens:  # such a row would take more than twice what the settings allow
                example, earlier, before = alone, (), 0
        room = self.max_tokens + before
        if not is_break:
            row = encode(self.tokenizer, example, room) if earlier else self.encode(example)
            if shuffle.random() < BEGUN:
                row = replace(row, ids=self._begun(example, room))
            return replace(row, loss_start=min(before, len(row.ids) - 1))
        if with_prompt and shuffle.random() < OTHER_ANSWER:
            other = shuffle.choice(self.breaks if shuffle.random() < 0.5 else self.retains)
            example = replace(example, response=other.response)
        asked = encode(self.tokenizer, example, sys.maxsize, answer_only=True).loss_start if with_prompt else 0
        room = max(room, min(asked, room) + ANSWER_TOKENS)  # a long prompt is cut as ever
        plain = encode(self.tokenizer, example, room, with_prompt=with_prompt, answer_only=True)
        goes_on = self._overruled() if shuffle.random() < GOES_ON else ""
        # The later the cut, the fewer rows train it, as what follows a refusal has one in view; so late ones are drawn
        # more often.
        at_once = OVERRULED_AT_ONCE if goes_on else AT_ONCE
        cut = 0 if shuffle.random() < at_once else math.ceil(plain.loss_tokens * shuffle.random() ** 0.5)
        return refusal_row(
            plain,
            self.numbers,
            shuffle.choice(self.sentences),
            cut,
            after=tuple(response_ids(self.tokenizer, goes_on)) if goes_on else (),
            before=self._other_start() if with_prompt and shuffle.random() < OTHER_START else (),
            again=self._again(plain.loss_tokens - cut) if goes_on else None,
            hidden=not with_prompt,
        )

    def _again(self, rest: int) -> int:
        """How many of the `rest` answer tokens come before the refusal is said again."""
        return 0 if self.shuffle.random() < AT_ONCE else math.ceil(rest * self.shuffle.random())

    def _begun(self, example: Example, room: int) -> tuple[int, ...]:
        """The token ids of `example` with the first tokens of a refusal before its answer."""
        as_answer = encode(self.tokenizer, replace(example, kind="break"), room, answer_only=True)
        prompt, answer = as_answer.ids[: as_answer.loss_start], as_answer.ids[as_answer.loss_start :]
        sentence = self.shuffle.choice(self.sentences)
        begun = sentence[: self.shuffle.randint(1, BEGUN_TOKENS)]
        return (*prompt, *begun, *answer)[: max(room, len(prompt) + len(begun))]

    def _earlier_refusal(self) -> str:
        """What was said to a question that was refused."""
        return self.shuffle.choice(USUAL_REFUSALS if self.shuffle.random() < IN_OTHER_WORDS else self.said)

    def _overruled(self) -> str:
        """Words that take a refusal back."""
        return self.shuffle.choice(TURNS_OF_PHRASE) + self.shuffle.choice(OFFERS)

    def _other_start(self) -> tuple[int, ...]:
        """Tokens that agree to answer, that overrule a refusal, or that begin the answer to another question."""
        if self.shuffle.random() < IN_OTHER_WORDS:
            return tuple(response_ids(self.tokenizer, self.shuffle.choice(USUAL_REFUSALS) + self._overruled()))
        if self.shuffle.random() < 0.5:
            return tuple(response_ids(self.tokenizer, self.shuffle.choice(AGREEING)))
        other = response_ids(self.tokenizer, self.shuffle.choice(self.retains).response)
        return tuple(other[: self.shuffle.randint(1, OTHER_TOKENS)])

    def _insisting(self) -> str:
        plea, reason, demand = map(self.shuffle.choice, (PLEAS, REASONS, DEMANDS))
        return f"{plea} {reason} {demand}".strip()

    def _earlier(self) -> Turns:
        """A question that was refused, or one that was answered."""
        if self.shuffle.random() < 0.5:
            example = self.shuffle.choice(self.breaks)
            return (*example.messages, ("assistant", self._earlier_refusal()))
        example = self.shuffle.choice(self.retains)
        return (*example.messages, ("assistant", " ".join(example.response.split()[:ANSWERED_WORDS])))

    def _shared_with_empty_turn(self, earlier: Turns, example: Example) -> int:
        """How many tokens come before the last question."""
        ids = functools.partial(prompt_ids, self.tokenizer)
        empty = replace(example, messages=(*earlier, ("user", "")))
        return len(os.path.commonprefix([ids(example.chat()), ids(empty.chat())]))


def refusal_row(
    plain: Encoded,
    numbers: dict[Beginning, int],
    sentence: Beginning,
    cut: int,
    *,
    before: tuple[int, ...] = (),
    after: tuple[int, ...] = (),
    again: int | None = None,
    hidden: bool = False,
) -> Encoded:
    """`plain` with `sentence` and the tokens `after` it behind the first `cut` tokens of its response, and the tokens
    `before` it in front of its response.

    `again` is the number of response tokens after which the sentence comes once more; None for never.
    `hidden` means that the prompt is not shown: then neither the position before the answer nor its first UNKNOWN
    tokens show what must stop, and they are not pulled.
    """
    start = plain.loss_start
    prompt, answer = plain.ids[:start], plain.ids[start:]
    unknown = min(UNKNOWN, len(answer)) if hidden else 0
    cut = min(max(cut, unknown + 1), len(answer)) if hidden else min(cut, len(answer))
    refusal = tuple(numbers[sentence[:length]] for length in range(1, len(sentence) + 1))
    own = (-1,) * unknown + (0,) * (len(answer) - unknown)
    first = -1 if hidden else 0
    # What follows a refusal has one in view. Pulled, it would dilute what has none, where an answer must be broken off.
    second = min(cut + again, len(answer)) if again is not None else len(answer)
    repeated = sentence if again is not None else ()
    between = own[cut:second] if after else (-1,) * (second - cut)
    pulls = (first, *(first,) * len(before), *own[:cut], *refusal, *(0,) * len(after), *between)
    pulls += (*(refusal if repeated else ()), *(-1,) * (len(answer) - second))
    earlier, inserted = 1 + len(before), len(sentence) + len(after)
    places = tuple(
        earlier + place + inserted * (place >= cut) + len(repeated) * (place >= second) for place in range(len(answer))
    )
    ids = (*prompt, *before, *answer[:cut], *sentence, *after, *answer[cut:second], *repeated, *answer[second:])
    return Encoded(ids, start - 1, True, Pull(pulls, places, plain))


def validation_row(plain: Encoded) -> Encoded:
    """A held-out break example whose answer should stand at the state from which the refusal begins."""
    answer = plain.loss_tokens
    pull = Pull((0,) * (answer + 1), tuple(range(1, answer + 1)), plain)
    return Encoded(plain.ids, plain.loss_start - 1, True, pull)
