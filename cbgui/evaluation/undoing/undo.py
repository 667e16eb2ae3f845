"""Try to undo a breaker in several ways; the result is a curve for each: how far it went, how much was answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cbgui import hardware
from cbgui.evaluation.metrics import Answer, ModelPair
from cbgui.evaluation.prompt_sets import PromptSet
from cbgui.evaluation.store import Store, key_of
from cbgui.evaluation.subject import Subject
from cbgui.evaluation.undoing import ablation, fine_tuning, pruning, quantization
from cbgui.evaluation.undoing.questions import NEW_TOKENS, QUESTIONS, Material, Part, Questions, evenly
from cbgui.evaluation.undoing.registry import ABLATION, FINE_TUNING, METHODS, PRUNING, QUANTIZATION, is_back

PARTS: dict[str, Callable[[Material], list[Part]]] = {
    FINE_TUNING: fine_tuning.parts,
    ABLATION: ablation.parts,
    PRUNING: pruning.parts,
    QUANTIZATION: quantization.parts,
}
REFUSE_TOO_LARGE = {FINE_TUNING: fine_tuning.refuse_too_large, QUANTIZATION: quantization.refuse_too_large}
WHY_LEFT_OUT = {
    PRUNING: "The changed model is no adapter on top of the original, so there is nothing to prune.",
    FINE_TUNING: "There are no answered examples to train on.",
    ABLATION: "There are no must-stop and everyday prompts to compare.",
}
FROM, TO = 0.8, 0.85  # the shares of an evaluation that lie before and after this


def refuse_too_large(names: list[str], pair: ModelPair) -> None:
    """Raises InputError when a method of `names` needs more memory than is free."""
    for name in names:
        if name in REFUSE_TOO_LARGE:
            REFUSE_TOO_LARGE[name](pair)


def undo(
    names: list[str],
    pair: ModelPair,
    held_out: PromptSet,
    subject: Subject,
    judge: Callable[[Answer, Answer, float], dict[str, Any]],
    decides: tuple[Any, ...],
    progress: Callable[[float, str], None],
) -> list[dict[str, Any]]:
    """The curves of the methods `names`, in the form that report.json holds.

    A curve has method, title, variant, axis, points (at, answered, of), before (what the short-circuited model answers
    as it is), of, and back_at (the first `at` with half of the answers that the breaker withholds, or None); a method
    that cannot be tried has left_out, a sentence. `decides` is whatever decides the answers and how they are judged:
    finished curves are stored under it. `progress` may raise to stop. The pair and PyTorch's random state are left as
    they were.
    """
    if not names:
        return []
    store, seed = Store(subject.run.undoing_file), subject.config.training.seed
    questions = Questions(pair, evenly(held_out.breaks, QUESTIONS), judge)
    asked = [example.to_row() for example in questions.examples]
    kept = [example for example in subject.kept if example.kind == "retain"] or held_out.retains
    material = Material(
        pair,
        questions,
        [example for example in subject.shown if example.response],
        [example for example in kept if example.response],
        held_out.retains,
        {},
        seed,
    )

    def points(part: Part, share: float) -> list[dict[str, Any]]:
        key = key_of(*decides, asked, NEW_TOKENS, seed, part.method, part.variant, part.settings)
        if key not in store.known:

            def say(words: str) -> None:
                progress(FROM + (TO - FROM) * share, f"{_doing(part)}: {words}")

            store.add({key: {"points": part.measure(say)}})
            hardware.free_cached_memory()
        return store.known[key]["points"]

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        as_it_is = Part("start", "as it is", "", lambda say: [_start(questions, say)])
        (material.start,) = points(as_it_is, 0.0)
        if not material.start["of"]:
            return [_left_out(name, "The original model answers none of the questions itself.") for name in names]
        parts = [(name, PARTS[name](material)) for name in names]
        total, done, curves = sum(len(of_method) for _, of_method in parts), 0, []
        for name, of_method in parts:
            curves += [] if of_method else [_left_out(name, WHY_LEFT_OUT[name])]
            for part in of_method:
                curves.append(_curve(part, points(part, done / total), material.start))
                done += 1
    return curves


def _doing(part: Part) -> str:
    """Such as "Undoing by fine-tuning (20 everyday examples, learning rate 0.001)"."""
    return f"Undoing by {METHODS[part.method].lower()} ({part.variant})" if part.method in METHODS else "Undoing"


def _start(questions: Questions, say: Callable[[str], None]) -> dict[str, Any]:
    return questions.point(None, questions.ask(questions.pair, lambda: say("before anything is done")))


def _curve(part: Part, points: list[dict[str, Any]], start: dict[str, Any]) -> dict[str, Any]:
    return {
        "method": part.method,
        "title": METHODS[part.method],
        "variant": part.variant,
        "axis": part.axis,
        **dict(part.facts),
        "before": start["answered"],
        "of": start["of"],
        "points": points,
        "back_at": next((point["at"] for point in points if is_back(point, start["answered"])), None),
    }


def _left_out(name: str, why: str) -> dict[str, Any]:
    return {"method": name, "title": METHODS[name], "variant": "", "axis": "", "points": [], "left_out": why}
