"""The command evaluate: a run, or any two models of which one was changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cbgui.errors import InputError
from cbgui.printing import progress_lines, report_lines
from cbgui.runs import folder
from cbgui.runs.jobs import alone
from cbgui.runs.run import EVALUATE, Run


def evaluate(
    run_dir: Annotated[Path | None, typer.Argument(help="the run's folder; without it, --base and --broken")] = None,
    base: Annotated[str | None, typer.Option(help="the original model: a folder or a hub id")] = None,
    broken: Annotated[
        str | None, typer.Option(help="the changed model: a folder, a hub id, or a folder with a LoRA adapter")
    ] = None,
    output: Annotated[Path, typer.Option(help="with --base: the folder that the report goes to")] = Path("evaluation"),
    shots: Annotated[
        Path | None, typer.Option(help="with --base: data file of answered questions that few-shot attacks show")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="data file of held-out examples; by default the run's own")
    ] = None,
    attacks: Annotated[str, typer.Option(help="names with commas between, or 'all'")] = "",
    limit: Annotated[
        int | None, typer.Option(min=1, help="at most this many break and this many retain prompts")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=8, help="the length of an answer")] = 60,
    white_box: Annotated[
        str | None,
        typer.Option(help="how far white-box attacks go: quick, or published; by default published on a GPU only"),
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="ask these prompts too: a file, a public set's title, or a hub id")
    ] = None,
    also_kind: Annotated[
        str | None, typer.Option(help="the kind of --also rows that have none: break, retain, near_miss or refusal")
    ] = None,
    also_prompt: Annotated[str | None, typer.Option(help="the column of --also that holds the prompt")] = None,
    also_response: Annotated[str | None, typer.Option(help="the column of --also that holds the response")] = None,
    also_messages: Annotated[str | None, typer.Option(help="the column of --also that holds conversations")] = None,
    also_config: Annotated[str | None, typer.Option(help="the configuration of a hub dataset in --also")] = None,
    also_split: Annotated[str, typer.Option(help="the split of a hub dataset in --also")] = "train",
    also_limit: Annotated[
        int, typer.Option(min=1, help="at most this many break and this many retain prompts of --also")
    ] = 200,
    judge: Annotated[str | None, typer.Option(help="a classifier's folder or hub id")] = None,
    judge_label: Annotated[
        str | None, typer.Option(help="the classifier's label which means that an answer complied")
    ] = None,
    judge_template: Annotated[
        Path | None, typer.Option(help="text file with {prompt} and {answer}: how the classifier is asked")
    ] = None,
    tasks: Annotated[str, typer.Option(help="lm-eval tasks or their YAML files, with commas between")] = "",
    undo: Annotated[
        str,
        typer.Option(
            help="also try to undo the breaker: fine_tuning, ablation, pruning, quantization, with commas between, or "
            "'all'; takes many minutes"
        ),
    ] = "",
) -> None:
    """Attack both models on held-out prompts; writes report/report.json and report/report.html."""
    run = _judged(run_dir, base, broken, output, held_out)
    from cbgui.evaluation.attacks.budget import BUDGETS
    from cbgui.evaluation.attacks.registry import ATTACK_TITLES, check_attacks

    names = list(ATTACK_TITLES) if attacks == "all" else check_attacks(_names(attacks))
    if white_box not in (None, *BUDGETS):
        raise InputError(f"--white-box {white_box!r} is unknown; choose from {', '.join(BUDGETS)}.")
    from cbgui.evaluation.undoing.registry import chosen_methods

    methods = chosen_methods(undo)
    for option, value in (("--judge-label", judge_label), ("--judge-template", judge_template)):
        if value and not judge:
            raise InputError(f"{option} {str(value)!r} needs a classifier; name one with --judge, or leave it out.")
    progress = progress_lines()
    progress(0.0, "Starting")
    from cbgui.evaluation.classifier import JudgeChoice
    from cbgui.evaluation.evaluate import evaluate_pair, evaluate_run
    from cbgui.evaluation.prompt_sets import SetOptions

    settings = {
        "also": also,
        "also_options": SetOptions(
            kind=also_kind,
            prompt=also_prompt,
            response=also_response,
            messages=also_messages,
            config=also_config,
            split=also_split,
            limit=also_limit,
        ),
        "attacks": names or None,
        "judge": JudgeChoice(judge, judge_label, judge_template) if judge else None,
        "tasks": _names(tasks),
        "undoing": methods,
        "max_new_tokens": max_new_tokens,
        "limit": limit,
        "white_box": white_box,
        "progress": progress,
    }
    renewed = False
    with alone(run, EVALUATE):
        if base and broken:
            report = evaluate_pair(base, broken, output, held_out=held_out, shots=shots, **settings)
        else:
            report = evaluate_run(run, held_out=held_out, **settings)
            from cbgui.export.merge import renew_card

            renewed = renew_card(run)
    for line in report_lines(report):
        typer.echo(line)
    from cbgui.evaluation.undoing.page import sections

    for section in sections(report.get("undoing", [])):
        typer.echo(section.sentence)
    typer.echo(f"Report: {run.report_page}")
    if renewed:
        typer.echo(f"The card of the merged model, {run.merged_folder / 'README.md'}, now holds it.")


def _judged(run_dir: Path | None, base: str | None, broken: str | None, output: Path, held_out: Path | None) -> Run:
    """The run, or the folder that stands for one when two models are given. Raises InputError."""
    if run_dir is not None and not (base or broken):
        run = folder.open_run(run_dir)
        run.need_adapter()
        return run
    if run_dir is not None:
        raise InputError(f"evaluate takes a run ({str(run_dir)!r}) or --base and --broken, not both; leave one out.")
    for name, value in (("a run's folder, or --base", base), ("--broken", broken), ("--held-out FILE", held_out)):
        if not value:
            raise InputError(f"evaluate needs {name}; see --help.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {str(output)!r} cannot be written ({error.strerror}); name another.") from None
    return Run(output)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
