"""How a run is doing, in words: its state, its progress, why it ended, and whether it may be stuck."""

from __future__ import annotations

import statistics
import time

from cbgui.errors import InputError
from cbgui.hardware import GIB
from cbgui.runs import folder, queue
from cbgui.runs.disk import disk_is_full
from cbgui.runs.history import History
from cbgui.runs.run import Run
from cbgui.training.diagnostics import TOO_WEAK
from cbgui.training.trials import Trial
from cbgui.ui.fragments import plain
from cbgui.ui.panels import charts
from cbgui.ui.words import say

APP = "cbgui"
WEAK_SHARE = 0.9  # of the must-stop questions; a run that blocks less is offered more steps
# A process that has written nothing for so many seconds, and for so many of its steps, may be stuck.
SILENT_SECONDS, SILENT_STEPS = 120.0, 20
# What the user has asked of a process that goes on until its step is done.
ASKED = {"pause": "status.pausing", "stop": "status.stopping"}
ASKED_EARLY = {name: f"{key}_early" for name, key in ASKED.items()}


def in_words(run: Run, state: str, past: History, silent: float | None = None) -> str:
    """How the run is doing, as Markdown. `silent`: for how many seconds a process that should be busy has written
    nothing; None while that is not long."""
    words = say("status.is", name=plain(run.name), state=say(f"state.{state}"))
    if silent is not None:
        words += say("status.silent", time=charts.duration(silent), reason=_why_silent(run))
    if "step" in past.newest:
        words += _progress(run, state, past, silent)
    elif state == "running":
        words += f". {plain(past.text('status', say('status.starting_process')))} ..."
        words += _asked(run, ASKED_EARLY)
    elif state == "waiting":
        words += say("status.waits", before=runs_before(run))
    elif state == "new":
        words += say("status.press_resume")
    if state in ("failed", "interrupted"):
        words += f"  \n{_reason(run, state, past)}"
    if state == "stopped":
        words += say("status.stopped_early")
    if state == "done" and _ended_early(past):
        words += say("status.ended_early")
    return words


def _ended_early(past: History) -> bool:
    last = past.newest.get("step")
    return bool(last) and last["step"] < last["steps"]


def is_weak(past: History) -> bool:
    """Whether a run blocks too little, as its last measurements say."""
    trial = Trial.of_event(past.trials[-1]) if past.trials else Trial()
    return past.newest.get("warning", {}).get("trouble") == TOO_WEAK or trial.blocked_share < WEAK_SHARE


def _asked(run: Run, keys: dict[str, str]) -> str:
    key = keys.get(run.request())
    return say(key) if key else ""


def tab_title(run: Run, state: str, past: History, before: str | None) -> str | None:
    """What the browser's tab says; None to leave it as it is. `before`: the state when the page looked last."""
    if state == "running":
        last = past.newest.get("step")
        return f"{last['step'] / last['steps']:.0%} {run.name} - {APP}" if last else f"{run.name} - {APP}"
    if before == "running":
        return f"{say(f'state.{state}').partition(',')[0].capitalize()}: {run.name} - {APP}"
    return APP if before is None else None


def _reason(run: Run, state: str, past: History) -> str:
    """Why a run ended before its time, and whether to press Resume."""
    resume = say("status.resume_checkpoint")
    if not run.complete_checkpoints():
        resume = say("status.resume_again")
    if state == "failed":
        reason = past.text("error", say("status.ended_silently"))
        return f"{plain(reason)} {resume}" if past.newest["status"].get("resume") else plain(reason)
    if disk_is_full(run.path):
        return say("status.disk_full", resume=resume)
    return say("status.ended_silently_resume", resume=resume)


def _why_silent(run: Run) -> str:
    pid = run.training.pid()
    if run.training.is_suspended():
        return say("status.suspended", pid=str(pid))
    return say("status.stuck", pid=str(pid))


def silence(state: str, past: History, run: Run) -> float | None:
    """Seconds since a running process wrote its newest event, if that is long for it or if it is suspended."""
    if state != "running":
        return None
    started = past.newest_time()
    silent = max(0.0, time.time() - started) if started else 0.0
    usual = statistics.median(past.seconds) if past.seconds else 0.0
    return silent if silent > max(SILENT_SECONDS, SILENT_STEPS * usual) or run.training.is_suspended() else None


def refuses(run: Run) -> bool:
    """Whether the run teaches the model to refuse in words."""
    try:
        return bool(run.config().refusals)
    except InputError:  # a damaged run.yaml, which is told where it matters
        return False


def _progress(run: Run, state: str, past: History, silent: float | None) -> str:
    last = past.newest["step"]
    words = say("status.step", step=str(last["step"]), steps=str(last["steps"]))
    if state == "running":
        if past.seconds and silent is None:
            left = statistics.median(past.seconds) * (last["steps"] - last["step"])
            words += say("status.left", left=charts.duration(left))
        words += say(
            "status.speed",
            tokens=format(last["tokens_per_second"], ".0f"),
            memory=format(last["memory_bytes"] / GIB, ".1f"),
        )
        words += _asked(run, ASKED)
    status = past.newest.get("status", last)
    if state == "running" and status["time"] > last["time"]:  # between two steps, such as a trial
        resumes = status.get("state") in ("paused", "stopped", "failed")
        words += f" {say('status.starting_process') if resumes else plain(past.text('status', ''))} ..."
    if not past.trials:  # a trial has counted what the cosine only hints at
        words += f"  \n{charts.meaning(past.points(), state, refuses(run))}"
    else:
        words += say("status.trial", step=str(past.trials[-1]["step"]))
        words += f"{_trial(Trial.of_event(past.trials[-1]))}."
    if state == "running":
        weights = last["coefficients"]
        words += say("status.weights", stop=_weight(weights["reroute"]), keep=_weight(weights["retain"]))
        words += say("status.learning_rate", rate=format(last["learning_rate"], ".2g"))
    if warning := past.text("warning", ""):
        words += say("status.warning", warning=plain(warning))
    return words


def _weight(value: float) -> str:
    return format(value, ".0f" if value >= 100 else ".3g")


def _trial(trial: Trial) -> str:
    """`Trial.sentence` in the language of the page."""
    sides = []
    if trial.breaks:
        refused = say("charts.refused_of_them", count=trial.refused) if trial.refused else ""
        sides.append(say("status.trial_blocked", blocked=trial.blocked, of=trial.breaks, refused=refused))
    harmed = [
        say("charts.some_of", number=number, of=of, kinds=say(f"kind.many_{kind}"))
        for kind, (number, of) in sorted(trial.hurt.items())
        if of
    ]
    if harmed:
        sides.append(say("status.trial_harmed", questions=say("common.and").join(harmed)))
    return ", ".join(sides)


def runs_before(run: Run) -> str:
    """How many runs must end first. Their names may be other visitors', so they are not shown."""
    waiting = queue.waiting_runs(folder.root_folder())
    count = waiting.index(run) + 1 if run in waiting else 1  # with the one that trains now
    return say("status.before_one") if count == 1 else say("status.before_many", count=count)
