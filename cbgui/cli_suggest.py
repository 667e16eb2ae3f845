"""The command that suggests examples that the user did not think of, with the model's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cbgui.config import ModelConfig
from cbgui.errors import InputError
from cbgui.printing import say_starting

if TYPE_CHECKING:
    from cbgui.data.examples import Example
    from cbgui.data.suggest import Suggestion
    from cbgui.inference.batch_answers import Loaded

MAX_NEW_TOKENS = 100  # of an answer


def suggest(
    break_file: Annotated[Path, typer.Argument(metavar="BREAK_FILE", help="the questions that must stop")],
    output: Annotated[Path, typer.Option(help="the file to write, ending in .jsonl; train --retain takes it")],
    keep: Annotated[Path | None, typer.Option(help="questions to keep that you have; none of them is repeated")] = None,
    model: Annotated[str, typer.Option(help="hub id, folder or demo: the model that drafts and answers")] = "demo",
    count: Annotated[int, typer.Option(min=1, max=5000, help="how many questions to keep")] = 300,
    drafts: Annotated[
        bool, typer.Option(help="let the model draft questions too, must-stop ones among them (marked break)")
    ] = True,
    translations: Annotated[
        bool, typer.Option(help="let the model translate the must-stop questions, and as many to keep")
    ] = True,
) -> None:
    """Suggest more questions, with the model's own answers. Read them before training."""
    if output.suffix != ".jsonl":
        raise InputError(f"--output {str(output)!r} does not end in .jsonl; name it like keep.jsonl.")
    if output.exists():
        raise InputError(f"--output {str(output)!r} exists already; choose another name.")
    _refuse_unwritable(output)
    from cbgui.data.examples import Example, write_examples
    from cbgui.data.reading import read_file
    from cbgui.data.suggest import suggest as suggestions

    breaks = [e for e in read_file(break_file, "break", try_out=True).examples if e.kind == "break"]
    keeps = read_file(keep, "retain").examples if keep else []
    found = suggestions(breaks, keeps, count)
    say_starting()
    from cbgui.inference.batch_answers import load_for_answers, write_answers

    config = ModelConfig(name=model)
    loaded = load_for_answers(config)
    answers: dict[int, str] = {}
    try:
        if drafts or translations:
            found += _added_by_model(loaded, config, breaks, keeps, found, drafts=drafts, translations=translations)
        typer.echo(f"{len(found):,} suggestions; the model writes their answers. Ctrl+C keeps those that are written.")
        prompts = [[{"role": "user", "content": suggestion.prompt}] for suggestion in found]
        shown = 0
        for share, ended in write_answers(config, prompts, max_new_tokens=MAX_NEW_TOKENS, loaded=loaded):
            answers |= {index: answer for index, answer in ended.items() if answer}
            if int(share * 20) > shown:
                shown = int(share * 20)
                typer.echo(f"{share:4.0%} {len(answers):,} answers")
    except KeyboardInterrupt:
        typer.echo("Stopped.")
    examples = [
        Example((("user", found[index].prompt),), answer, found[index].kind, found[index].reason)
        for index, answer in sorted(answers.items())
    ]
    try:
        write_examples(output, examples)
    except OSError as error:
        raise _unwritable(output, error) from None
    stopping = sum(example.kind == "break" for example in examples)
    typer.echo(
        f"{len(examples):,} rows in {output}: {len(examples) - stopping:,} to keep and {stopping:,} that must stop "
        "(marked break). Read them and delete what does not fit; train --retain takes the file as it is."
    )


def _refuse_unwritable(output: Path) -> None:
    """Raises InputError before minutes of work are lost."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()
        output.unlink()
    except OSError as error:
        raise _unwritable(output, error) from None


def _unwritable(output: Path, error: OSError) -> InputError:
    return InputError(f"--output {str(output)!r} cannot be written ({error.strerror}); choose another.")


def _added_by_model(
    loaded: Loaded,
    config: ModelConfig,
    breaks: list[Example],
    keeps: list[Example],
    found: list[Suggestion],
    *,
    drafts: bool,
    translations: bool,
) -> list[Suggestion]:
    """What the model adds; a line says each fifth of the way."""
    from cbgui.inference.drafts import COUNT
    from cbgui.inference.model_suggestions import FEWEST, MOST, suggest_with_model

    if drafts and len(breaks) < FEWEST:
        typer.echo(f"The model drafts no questions: it needs at least {FEWEST} must-stop questions to go by.")
    adding = suggest_with_model(
        loaded,
        config,
        [e.prompt for e in breaks],
        [e.prompt for e in keeps if e.kind != "break"],
        found,
        known=[e.prompt for e in keeps if e.kind == "break"],
        drafts=COUNT if drafts else 0,
        translations=MOST if translations else 0,
    )
    said, made = {"drafting": -1, "translating": -1}, []
    for work, share, made in adding:  # noqa: B007, the last are returned
        if int(share * 5) > said[work]:
            said[work] = int(share * 5)
            typer.echo(f"{share:4.0%} of {work} more questions")
    return made
