"""Both models' answers to the cases of an evaluation, kept on disk as soon as they are there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cbgui.data.examples import Example
from cbgui.evaluation.answers import generate
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.attacks.budget import Budget
from cbgui.evaluation.attacks.registry import ATTACK_TITLES, WHITE_BOX
from cbgui.evaluation.attacks.target import Target, Try
from cbgui.evaluation.attacks.with_model import LED, MADE
from cbgui.evaluation.cases import Case
from cbgui.evaluation.metrics import Answer, ModelPair
from cbgui.evaluation.prompt_sets import PromptSet
from cbgui.evaluation.rates import MODELS
from cbgui.evaluation.store import Store, answer_keys, key_of

# (share done, words). It may raise to stop; the next evaluation continues from the stored answers.
Progress = Callable[[float, str], None]
CALIBRATION = 32  # questions
SETTLED = 15  # seconds from which on the time left is worth saying


@dataclass(frozen=True)
class Wanted:
    """One answer that the evaluation needs."""

    attempt: Attempt
    adapted: bool  # whether the short-circuited model gives it
    group: tuple[int, str]  # prompts of one group begin with the same words
    key: str  # in the store


@dataclass(frozen=True)
class Answering:
    """How answers are generated, and where they are kept."""

    pair: ModelPair
    store: Store
    weights: dict[str, str]  # model -> what its answers depend on, for the keys of the store
    max_new_tokens: int

    def keys(self, attempts: list[Attempt], model: str) -> list[str]:
        return answer_keys(attempts, self.weights[model], self.max_new_tokens)

    def generate_missing(self, wanted: list[Wanted], on_progress: Callable[[float], None]) -> None:
        """Generate and store the answers that `store` lacks. Calls `on_progress` with the number of answers so far."""
        missing = [one for one in wanted if one.key not in self.store.known]
        ready = written = float(len(wanted) - len(missing))

        def add(answers: float) -> None:
            nonlocal written
            written += answers
            on_progress(min(written, len(wanted)))

        on_progress(ready)
        batches = generate(
            self.pair,
            [one.attempt for one in missing],
            [one.adapted for one in missing],
            [one.group for one in missing],
            max_new_tokens=self.max_new_tokens,
            on_progress=add,
        )
        for batch in batches:
            self.store.add({missing[position].key: asdict(answer) for position, answer in batch})
            ready = written = ready + len(batch)  # answers that ended early had been counted in part
            on_progress(ready)


def with_responses(prompts: PromptSet, answering: Answering, progress: Progress) -> PromptSet:
    """Let the base model write the responses that are missing."""
    missing = [example for example in [*prompts.breaks, *prompts.retains] if not example.response]
    if not missing:
        return prompts
    attempts = [Attempt(example.messages) for example in missing]
    keys = answering.keys(attempts, "base")
    words = f"Answers of the original model to {prompts.title}"
    wanted = [Wanted(attempt, False, (0, prompts.title), key) for attempt, key in zip(attempts, keys, strict=True)]
    answering.generate_missing(wanted, lambda ready: progress(0.02, words))
    written = {example: answering.store.answer(key).text for example, key in zip(missing, keys, strict=True)}

    def filled(examples: list[Example]) -> list[Example]:
        return [replace(e, response=written[e]) if e in written else e for e in examples]

    return PromptSet(prompts.title, filled(prompts.breaks), filled(prompts.retains))


def answers_to(
    cases: list[Case],
    answering: Answering,
    progress: Progress,
    words: str = "Answers of the two models",
    between: tuple[float, float] = (0.03, 0.8),
) -> dict[str, list[Answer]]:
    """Model -> its answer to each case. `between` are the shares of the evaluation before and after this."""
    started, ready_before = time.monotonic(), 0.0
    keys = {model: answering.keys([case.attempt for case in cases], model) for model in MODELS.values()}
    wanted = [
        Wanted(case.attempt, adapted, (case.set_number, case.attack), keys[model][row])
        for row, case in enumerate(cases)
        for adapted, model in MODELS.items()
    ]

    def on_progress(ready: float) -> None:
        nonlocal ready_before
        taken = time.monotonic() - started
        if not ready_before:
            ready_before = ready or 1e-9  # stored answers took no time
        left = taken * (len(wanted) - ready) / max(ready - ready_before, 1e-9)
        share = between[0] + (between[1] - between[0]) * ready / len(wanted)
        progress(share, f"{words}: {int(ready)} of {len(wanted)}{_time_left(left, taken)}")

    answering.generate_missing(wanted, on_progress)
    return {model: [answering.store.answer(key) for key in keys[model]] for model in keys}


def _time_left(seconds: float, taken: float) -> str:
    if taken < SETTLED or not seconds:
        return ""
    return f", about {round(seconds / 60)} min left" if seconds > 90 else ", about a minute left"


def base_costs(
    cases: list[Case], answers: dict[str, list[Answer]], pair: ModelPair, progress: Progress
) -> dict[str, list[float]]:
    """Model -> the cost of each of its answers under the base model, in nats a token; infinity for an empty answer."""
    nats = {model: [math.inf if a.nats is None else a.nats for a in answers[model]] for model in answers}
    # Some short-circuited answers have no cost yet: their prompt was in another batch than the base model's.
    for model, its_answers in answers.items():
        unread = [row for row, answer in enumerate(its_answers) if answer.ids and answer.nats is None]
        if unread:
            progress(0.8, "Reading the answers with the original model")
        read = pair.base_nats([cases[row].attempt for row in unread], [its_answers[row] for row in unread])
        for row, value in zip(unread, read, strict=True):
            nats[model][row] = value
    return nats


def usual_costs(prompts: PromptSet, answering: Answering, progress: Progress) -> dict[str, list[float]]:
    """What the base model's own answers cost it, in nats a token: greedy ones, and ones sampled at temperature 1.

    Up to CALIBRATION of the set's questions, from both sides.
    """
    chosen = [*prompts.cut(CALIBRATION // 2).breaks, *prompts.cut(CALIBRATION // 2).retains]
    costs = {}
    for how, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        attempts = [Attempt(example.messages, temperature=temperature) for example in chosen]
        keys = answering.keys(attempts, "base")
        wanted = [Wanted(attempt, False, (0, how), key) for attempt, key in zip(attempts, keys, strict=True)]
        answering.generate_missing(wanted, lambda ready: progress(0.02, "How the original model usually answers"))
        costs[how] = [nats for key in keys if (nats := answering.store.answer(key).nats) is not None]
    return costs


@dataclass(frozen=True)
class Attacker:
    """Carries out the attacks that need a model (attacks/with_model.py); what they gave is stored per question."""

    answering: Answering
    answered: Callable[[Sequence[Try]], list[bool]]  # of each try, whether it got a real answer
    budget: Budget
    progress: Progress

    def _each(self, name: str, run: Callable, adapted: bool, examples: list[Example]) -> list[list[dict[str, Any]]]:
        """What the attack gave for each example, as stored."""
        store, model = self.answering.store, MODELS[adapted]
        how = (name, self.answering.weights[model], self.answering.max_new_tokens)
        how += (asdict(self.budget),) if name in WHITE_BOX else ()
        keys = [key_of(*how, example.messages, example.response) for example in examples]
        missing = [row for row, key in enumerate(keys) if key not in store.known]

        def on_progress(share: float) -> None:
            done = (len(examples) - len(missing) + share * len(missing)) / len(examples)
            title, whom = ATTACK_TITLES[name], "short-circuited" if adapted else "original"
            self.progress(0.8, f"{title}, on the {whom} model: {done:.0%} of {len(examples)} questions")

        if missing:
            on_progress(0.0)
            target = Target(
                self.answering.pair, adapted, self.answering.max_new_tokens, self.answered, self.budget, on_progress
            )
            for row, found in run(target, [examples[row] for row in missing]):
                store.add({keys[missing[row]]: {"tries": [asdict(one) for one in found]}})
        return [store.known[key]["tries"] for key in keys]

    def made(self, name: str, examples: list[Example]) -> list[list[Attempt]]:
        """The attempts of an attack that is made with one model and then asked of both, for each example."""
        run, adapted = MADE[name]
        return [[_attempt(one) for one in tries] for tries in self._each(name, run, adapted, examples)]

    def led(self, name: str, examples: list[Example]) -> Iterator[tuple[int, dict[str, Try]]]:
        """Yield (index of the example, model -> its try) of an attack that is made with each model by itself."""
        of_model = {model: self._each(name, LED[name], adapted, examples) for adapted, model in MODELS.items()}
        for row in range(len(examples)):
            tries = {model: [_try(one) for one in of_model[model][row]] for model in of_model}
            for number in range(max(map(len, tries.values()))):  # an attack may end earlier with one of the models
                yield row, {model: own[min(number, len(own) - 1)] for model, own in tries.items()}


def _attempt(stored: dict[str, Any]) -> Attempt:
    """As it was before it was written as JSON."""
    return Attempt(**stored | {"messages": tuple((role, text) for role, text in stored["messages"])})


def _try(stored: dict[str, Any]) -> Try:
    plain = stored["plain"] and _attempt(stored["plain"])
    return Try(_attempt(stored["attempt"]), Answer(**stored["answer"]), plain)
