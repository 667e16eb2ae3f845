"""The command that suggests questions to keep, with the model's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cbgui.config import ModelConfig
from cbgui.errors import InputError
from cbgui.printing import say_starting

MAX_NEW_TOKENS = 100  # of an answer


def suggest(
    break_file: Annotated[Path, typer.Argument(metavar="BREAK_FILE", help="the questions that must stop")],
    output: Annotated[Path, typer.Option(help="the file to write, ending in .jsonl; train --retain takes it")],
    keep: Annotated[Path | None, typer.Option(help="questions to keep that you have; none of them is repeated")] = None,
    model: Annotated[str, typer.Option(help="hub id, folder or demo: the model that answers")] = "demo",
    count: Annotated[int, typer.Option(min=1, max=5000, help="how many questions")] = 300,
) -> None:
    """Suggest questions that the model should keep answering, with its own answers. Read them before training."""
    if output.suffix != ".jsonl":
        raise InputError(f"--output {str(output)!r} does not end in .jsonl; name it like keep.jsonl.")
    if output.exists():
        raise InputError(f"--output {str(output)!r} exists already; choose another name.")
    from cbgui.data.examples import Example, write_examples
    from cbgui.data.reading import read_file
    from cbgui.data.suggest import suggest as suggestions

    breaks = [e for e in read_file(break_file, "break", try_out=True).examples if e.kind == "break"]
    keeps = read_file(keep, "retain").examples if keep else []
    found = suggestions(breaks, keeps, count)
    say_starting()
    from cbgui.inference.batch_answers import write_answers

    typer.echo(f"{len(found):,} suggestions; the model writes their answers. Ctrl+C keeps those that are written.")
    answers: dict[int, str] = {}
    prompts = [[{"role": "user", "content": suggestion.prompt}] for suggestion in found]
    shown = 0
    try:
        for share, ended in write_answers(ModelConfig(name=model), prompts, max_new_tokens=MAX_NEW_TOKENS):
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
        output.parent.mkdir(parents=True, exist_ok=True)
        write_examples(output, examples)
    except OSError as error:
        raise InputError(f"--output {str(output)!r} cannot be written ({error.strerror}); choose another.") from None
    typer.echo(
        f"{len(examples):,} rows in {output}. Read them, delete what does not fit, and add them to what must stay."
    )
