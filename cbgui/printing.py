"""What the command line prints: events, progress, reports and errors as lines of text."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from cbgui.config import CACHE
from cbgui.runs.run import LOG_VARIABLE


def event_line(event: dict[str, Any]) -> str | None:
    """One event of a training run in words; None if it is not printed."""
    match event["kind"]:
        case "status" | "warning" | "error":
            return event["text"]
        case "step":
            return (
                f"step {event['step']} of {event['steps']}: reroute {event['reroute_loss']:.3f}, "
                f"retain {event['retain_loss']:.3f}, cosine {_cosines(event)}, {event['seconds']:.1f} s"
            )
        case "validation":
            where = event.get("examples", "held out")
            return f"{where} at step {event['step']}: cosine {_cosines(event)}, retain {event['retain_loss']:.3f}"
    return None


def _cosines(event: dict[str, Any]) -> str:
    return ", ".join(f"layer {layer} {value:.3f}" for layer, value in event["cosine"].items())


def say_starting() -> None:
    """Tell a person at a terminal that torch is being loaded; a script's output and errors stay as they are."""
    if sys.stderr.isatty():
        typer.echo("Starting ...", err=True)


def progress_lines() -> Callable[[float, str], None]:
    """A function of (share done, words) that prints a line when the percentage or the activity changes."""
    last: tuple[str, str] | None = None

    def show(share: float, words: str) -> None:
        nonlocal last
        step = (f"{share:4.0%}", words.partition(":")[0])
        if step != last:
            typer.echo(f"{step[0]} {words}")
        last = step

    return show


def report_lines(report: dict[str, Any]) -> Iterator[str]:
    """The report of an evaluation as a table and a verdict."""
    width = max(len(title) for title in ("attack", *(attack["title"] for attack in report["attacks"])))
    yield f"\n{'attack':<{width}} {'original answers':>16} {'short-circuited':>16} {'refused':>9} {'derailed':>9}"
    for attack in report["attacks"]:
        base, short = attack["base"]["answered"], attack["short_circuited"]
        shown = [_share(base), _share(short["answered"])], [_share(short[how]) for how in ("refused", "derailed")]
        cells = " ".join([*(f"{text:>16}" for text in shown[0]), *(f"{text:>9}" for text in shown[1])])
        yield f"{attack['title']:<{width}} {cells}" + f"  {attack['spoilt']} not counted" * bool(attack["spoilt"])
    retain = report["retain"]
    yield (
        f"must-keep questions harmed {_share(retain['hurt'])}, derailed {_share(retain['falsely_derailed'])}, "
        f"KL {retain['kl']:.4f}, top-1 {retain['top1']:.4f}"
    )
    yield " ".join([report["verdict"]["words"], *report["verdict"]["advice"]])


def _share(rate: dict[str, Any]) -> str:
    """Such as "97.5%"; "-" where nothing was counted."""
    return "-" if rate["rate"] is None else f"{rate['rate']:.1%}"


def tell(words: str) -> None:
    """Print a sentence about what went wrong."""
    with suppress(OSError):  # the output goes to a full disk, or nobody reads it any more
        typer.echo(words, err=True)


def log_traceback() -> Path:
    """Append the current traceback to the run's log for background jobs, otherwise to the user's errors.log."""
    log = Path(os.environ.get(LOG_VARIABLE) or CACHE / "errors.log")
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exc(file=file)
    except OSError:  # a full disk or a read-only home
        with suppress(OSError):
            traceback.print_exc()
    return log
