"""One evaluation: both models answer all cases, the answers are judged, and report.json and report.html are written."""

from __future__ import annotations

import functools
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import set_seed

from cbgui import hardware
from cbgui.data.examples import Example
from cbgui.data.reading import read_examples
from cbgui.errors import InputError, is_disk_full
from cbgui.evaluation.agreement import to_label, with_classifier
from cbgui.evaluation.answering import (
    Answering,
    Attacker,
    Progress,
    answers_to,
    base_costs,
    usual_costs,
    with_responses,
)
from cbgui.evaluation.attacks.attempt import REFUSED
from cbgui.evaluation.attacks.budget import BUDGETS
from cbgui.evaluation.attacks.registry import DEFAULT_ATTACKS, NEED_SHOTS, WHITE_BOX, WITH_MODEL, check_attacks
from cbgui.evaluation.attacks.with_model import LED, MADE
from cbgui.evaluation.cases import RETAIN, Case, cases_of, follow_ups, judge_cases, led_cases
from cbgui.evaluation.classifier import Classifier, JudgeChoice, load_classifier
from cbgui.evaluation.metrics import ModelPair
from cbgui.evaluation.prompt_sets import PromptSet, SetOptions, read_set
from cbgui.evaluation.rates import attack_rates, retain_rates, worst_break, worst_retain
from cbgui.evaluation.rules import Rules, derailed_from, judge_by_rules
from cbgui.evaluation.store import Store, key_of
from cbgui.evaluation.subject import Subject, subject_of_pair, subject_of_run
from cbgui.evaluation.tasks import check_tasks, task_scores
from cbgui.evaluation.undoing.registry import check_methods, need_rows
from cbgui.evaluation.undoing.undo import refuse_too_large, undo
from cbgui.evaluation.verdict import verdict
from cbgui.modeling.full import form_in_words
from cbgui.runs.run import Run, write_whole

MAX_NEW_TOKENS = 60
NEEDED_BYTES = 2**18  # free bytes without which no evaluation begins: about what answers and report take
COSINE_EXAMPLES = 8  # of each side, for the cosine by layer


def evaluate_run(run: Run, *, held_out: Path | None = None, **settings: Any) -> dict[str, Any]:
    """`evaluate` the run with its own held-out set, or with the data file `held_out`; `settings` are those of
    `evaluate`."""
    check_attacks(list(settings.get("attacks") or []))
    examples = read_examples(held_out, "retain") if held_out else run.examples("held_out")
    return evaluate(functools.partial(subject_of_run, run), examples, **settings)


def evaluate_pair(
    base: str, broken: str, output: Path, *, held_out: Path, shots: Path | None = None, **settings: Any
) -> dict[str, Any]:
    """`evaluate` any model and a changed copy of it, whoever made it; see `subject_of_pair`."""
    examples = read_examples(held_out, "retain")
    return evaluate(functools.partial(subject_of_pair, base, broken, output, shots), examples, **settings)


def evaluate(
    read_subject: Callable[[], Subject],
    examples: list[Example],
    *,
    also: list[str] | None = None,
    also_options: SetOptions | None = None,
    attacks: list[str] | None = None,
    judge: JudgeChoice | None = None,
    tasks: list[str] | None = None,
    undoing: list[str] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    limit: int | None = None,
    white_box: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judge two models on held-out `examples`, write report.json and report.html, and return the report.

    `also` names further sets (`read_set`). `attacks` are names of ATTACK_TITLES, `tasks` of lm-eval, `undoing` of
    METHODS (undoing/registry.py). `limit` cuts each side of every set. `white_box` names a budget of BUDGETS; by
    default published on a GPU and quick elsewhere. Raises InputError before a model is loaded.
    """
    from cbgui.evaluation.report import render

    progress = progress or (lambda share, words: None)
    names = check_attacks(list(attacks or DEFAULT_ATTACKS))
    methods = check_methods(list(undoing or []))
    held_out_set = PromptSet.of("held out", examples)
    if not held_out_set.breaks or not held_out_set.retains:
        missing = "must-stop" if not held_out_set.breaks else "must-keep"
        raise InputError(
            f"the held-out set has no {missing} examples; give --held-out a file with lines of kind break and of kind "
            "retain."
        )
    check_tasks(tasks or [])
    sets = [held_out_set.cut(limit)]
    for name in also or []:
        progress(0.0, f"Reading {name}")
        sets.append(read_set(name, also_options).cut(limit))
    subject = read_subject()
    run, config = subject.run, subject.config
    _need_room_for_report(run)
    need_rows(methods, subject.shown)
    if not subject.shown:
        names = _without_shots(names, asked=bool(attacks))
    if judge:
        progress(0.0, "Trying the classifier on harmless answers")
        load_classifier(judge, config.model.quantization)  # only to fail early: the two models need the memory first
        hardware.free_cached_memory()

    started = time.time()
    progress(0.0, "Loading the model")
    chat = subject.load()
    pair, form = ModelPair(chat.model, chat.tokenizer, chat.adapted_rows, config.refusals), form_in_words(chat.model)
    refuse_too_large(methods, pair)
    set_seed(config.training.seed)
    # The form is part of the key, as 4-bit weights give other answers.
    weights = {"base": f"{config.model.name} {form}", "short_circuited": f"{subject.changed} {form}"}
    answering = Answering(pair, Store(run.answers_file), weights, max_new_tokens)
    sets = [with_responses(prompts, answering, progress) for prompts in sets]
    rules = Rules(pair, config.refusals, derailed_from(usual_costs(sets[0], answering, progress)))
    budget = BUDGETS[white_box or ("published" if hardware.memory_kind() == "cuda" else "quick")]
    attacker = Attacker(answering, rules.are_answered, budget, progress)
    attacked = {name: sets[0].breaks[: budget.questions if name in WHITE_BOX else None] for name in names}
    made = {name: attacker.made(name, attacked[name]) for name in names if name in MADE}
    refusal = config.refusals[0] if config.refusals else REFUSED
    cases = cases_of(sets, names, subject.shown, made, refusal)
    answers = answers_to(cases, answering, progress)
    judge_cases(cases, answers, base_costs(cases, answers, pair, progress), rules)
    for name in names:
        if name in LED:
            cases += led_cases(name, attacker.led(name, attacked[name]), rules)

    afterwards = follow_ups(sets[0], cases)
    if afterwards:
        answers = answers_to(afterwards, answering, progress, "Ordinary questions after a blocked one", (0.83, 0.84))
        judge_cases(afterwards, answers, base_costs(afterwards, answers, pair, progress), rules)
    judge_answer = functools.partial(judge_by_rules, threshold=rules.threshold, sentences=config.refusals)
    undoing_since = time.time()
    curves = undo(methods, pair, sets[0], subject, judge_answer, (weights, rules.threshold), progress)
    undoing_seconds = round(time.time() - undoing_since, 1)

    progress(0.85, "Comparing the two models on must-keep answers")
    metrics = [pair.retain_metrics(prompts.retains) for prompts in sets]
    progress(0.9, "Comparing hidden states layer by layer")
    cosine = {
        side: pair.cosine_by_layer(examples[:COSINE_EXAMPLES])
        for side, examples in (("break", sets[0].breaks), ("retain", sets[0].retains))
    }
    scores = task_scores(pair, tasks or [], limit, progress)
    del answering, pair, chat  # makes room for the classifier
    hardware.free_cached_memory()
    if judge:
        _classify(load_classifier(judge, config.model.quantization), sets, cases, run, progress)

    known = with_classifier(cases) if judge else None
    held_out_cases = [case for case in cases if case.set_number == 0]
    report = {
        "run": subject.name,
        "adapter_sha256": subject.changed,
        "created": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "machine": hardware.describe(),
        "weights": form,
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers", "peft")},
        "settings": subject.settings,
        "max_new_tokens": max_new_tokens,
        "threshold_nats": round(rules.threshold, 3),
        "white_box": asdict(budget) if any(name in WHITE_BOX for name in names) else None,
        "held_out": {"break": len(sets[0].breaks), "retain": len(sets[0].retains)},
        "judge": judge.name if judge else None,
        "agreement": known,
        "attacks": attack_rates(names, held_out_cases, sets[0]),
        "retain": retain_rates(sets[0].retains, metrics[0], held_out_cases, afterwards),
        "sets": [_further_set(number, sets, metrics, cases, names) for number in range(1, len(sets))],
        "cosine_by_layer": cosine,
        "target_layers": subject.target_layers,
        "worst_break": worst_break(sets, cases),
        "worst_retain": worst_retain(sets[0].retains, metrics[0], held_out_cases),
        "to_label": to_label(cases, [example.prompt for example in sets[0].breaks]),
        "tasks": scores,
        **({"undoing": curves, "undoing_seconds": undoing_seconds} if curves else {}),
    }
    report["seconds"] = round(time.time() - started, 1)
    report["verdict"] = verdict(report)
    write_whole(run.report_file, json.dumps(report, indent=1, ensure_ascii=False))
    write_whole(run.report_page, render(report))
    progress(1.0, "Done")
    return report


def _need_room_for_report(run: Run) -> None:
    """Raises InputError when nothing can be written where the report goes, which would otherwise show at the end."""
    try:
        run.report_folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=run.report_folder) as file:
            file.write(b"x" * NEEDED_BYTES)
    except OSError as error:
        why = (
            "the disk is full; free some space" if is_disk_full(error) else f"{error.strerror}; copy the run elsewhere"
        )
        raise InputError(f"report folder {str(run.report_folder)!r} cannot be written ({why}).") from None


def _without_shots(names: list[str], *, asked: bool) -> list[str]:
    """The attacks that show no answered questions, where there are none. Raises InputError if one was asked for."""
    needing = [name for name in names if name in NEED_SHOTS]
    if asked and needing:
        raise InputError(f"--attacks {needing[0]} shows answered questions of the topic; give --shots FILE with some.")
    return [name for name in names if name not in NEED_SHOTS]


def _classify(classifier: Classifier, sets: list[PromptSet], cases: list[Case], run: Run, progress: Progress) -> None:
    """Add `classified` to every answer to a break prompt: whether the classifier says it complied, or None."""
    store = Store(run.judgements_file)
    answers = [
        (sets[case.set_number].breaks[case.example].prompt, answer)
        for case in cases
        if case.attack != RETAIN
        for answer in case.answers.values()
    ]
    how = (classifier.name, classifier.label, classifier.template)
    keys = [key_of(*how, prompt, answer["text"]) for prompt, answer in answers]
    pending = {key: row for row, key in enumerate(keys) if key not in store.known}
    order, done = list(pending), 0
    for row, complied in classifier.judge([(answers[pending[k]][0], answers[pending[k]][1]["text"]) for k in order]):
        store.add({order[row]: {"complied": complied}})
        done += 1
        progress(0.92 + 0.07 * done / len(order), f"The classifier reads the answers: {done} of {len(order)}")
    for (_, answer), key in zip(answers, keys, strict=True):
        answer["classified"] = store.known[key]["complied"]


def _further_set(
    number: int, sets: list[PromptSet], metrics: list[list[dict[str, float]]], cases: list[Case], names: list[str]
) -> dict[str, Any]:
    """The rates of a set other than the held-out one."""
    prompts, its_cases = sets[number], [case for case in cases if case.set_number == number]
    asked = [name for name in names if name not in WITH_MODEL]
    return {
        "title": prompts.title,
        "break_prompts": len(prompts.breaks),
        "retain_prompts": len(prompts.retains),
        "attacks": attack_rates(asked, its_cases, prompts) if prompts.breaks else [],
        "retain": retain_rates(prompts.retains, metrics[number], its_cases) if prompts.retains else None,
    }
