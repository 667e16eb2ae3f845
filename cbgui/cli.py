"""python -m cbgui train | generate | evaluate | compare | export | upload | estimate | check | bench.

Exit codes: 0 done, 1 failed with a message, 2 bad input."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cbgui import runs
from cbgui.config import InputError, RunConfig, load_config, override, parse_size

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
RunArgument = Annotated[Path, typer.Argument(help="the run's folder")]


def _line(event: dict) -> str | None:
    """One event in words."""
    match event["kind"]:
        case "status" | "warning" | "error":
            return event["text"]
        case "step":
            cosine = ", ".join(f"layer {layer} {value:.3f}" for layer, value in event["cosine"].items())
            return (
                f"step {event['step']} of {event['steps']}: reroute {event['reroute_loss']:.3f}, "
                f"retain {event['retain_loss']:.3f}, cosine {cosine}, {event['seconds']:.1f} s"
            )
        case "probe":
            cosine = ", ".join(f"layer {layer} {value:.3f}" for layer, value in event["cosine"].items())
            where = event.get("examples", "held out")
            return f"{where} at step {event['step']}: cosine {cosine}, retain {event['retain_loss']:.3f}"
    return None


@app.command()
def train(
    preset: Annotated[str, typer.Argument(metavar="PRESET_OR_YAML")] = "",
    output: Annotated[Path, typer.Option(help="the run's folder")] = ...,
    break_file: Annotated[str | None, typer.Option("--break", help="data file of what must break")] = None,
    retain_file: Annotated[str | None, typer.Option("--retain", help="data file of what must stay")] = None,
    held_out: Annotated[str | None, typer.Option("--held-out", help="data file of held-out examples")] = None,
    model: Annotated[str | None, typer.Option(help="hub id or folder")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="such as training.steps=30")] = None,
    resume: Annotated[bool, typer.Option(help="go on from the last checkpoint")] = False,
) -> None:
    """Train a circuit breaker. Training is a process of its own: Ctrl-C asks it to pause."""
    if resume:
        run = runs.open_run(output)
        if run.state() == "done":
            typer.echo("This run is done already.")
            return
    else:
        if not preset:
            raise InputError("PRESET_OR_YAML is missing; name a preset such as 'demo' or a YAML file.")
        config = override(load_config(preset), assignments or [])
        own_data = break_file or retain_file
        if break_file:
            config.data.break_file = break_file
        if retain_file:
            config.data.retain_file = retain_file
        if own_data or held_out:  # the preset's held-out examples belong to the preset's topic
            config.data.held_out_file = held_out
        if model:
            config.model.name = model
        runs.read_data(config.data)
        first = int(os.environ.get("RANK", 0)) == 0  # of several processes
        if first:
            runs.need_new(output)
            typer.echo("Looking whether it fits ...")
        from cbgui import hardware  # torch takes seconds to import; what is wrong so far has been told
        from cbgui.estimate import estimate as estimate_memory
        from cbgui.models import read_model_config, resolve_model

        model_config = read_model_config(resolve_model(config.model.name, weights=False))
        estimate_memory(model_config, config, hardware.memory_for_training(), hardware.kind())  # refuses what cannot be
        if first:
            run = runs.create_run(output, config)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise typer.Exit(_train_in_this_process(output))
    offset = run.events()[1]
    run.start()
    while True:
        try:
            for event in run.follow(offset):
                if line := _line(event):
                    typer.echo(line)
            break
        except KeyboardInterrupt:
            typer.echo("Pausing at the end of this step ...")
            run.ask("pause")
            offset = run.events()[1]
    state = run.state()
    if state in ("failed", "interrupted"):
        typer.echo(f"The run was {state}; go on with: python -m cbgui train --resume --output {output}", err=True)
        raise typer.Exit(1)


def _train_in_this_process(output: Path) -> int:
    """One of the processes that `accelerate launch` started; the first one writes and tells."""
    import torch
    from accelerate import PartialState

    from cbgui import training

    state = PartialState(cpu=not torch.cuda.is_available())
    state.wait_for_everyone()  # the run directory is there
    if state.is_main_process:
        run = runs.open_run(output)
        run.ask("run")
        run.record_process(os.getpid())
        offset = run.events()[1]

        def tell() -> None:
            for event in run.follow(offset):
                if line := _line(event):
                    typer.echo(line)

        threading.Thread(target=tell, daemon=True).start()
    code = training.main(str(output))
    time.sleep(0.5)  # the last lines
    return code


@app.command()
def generate(
    run_dir: RunArgument,
    prompt: Annotated[str, typer.Option()],
    prefill: Annotated[str, typer.Option(help="what both answers begin with")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
) -> None:
    """Both models' answers to a prompt."""
    run = _with_adapter(run_dir)
    _say_starting()
    from cbgui.generation import in_model_thread, load_chat_model

    chat = in_model_thread(load_chat_model, run)
    *_, answer = chat.stream([{"role": "user", "content": prompt}], prefill=prefill, max_new_tokens=max_new_tokens)
    typer.echo(f"--- base\n{answer.base}\n--- short-circuited\n{answer.short_circuited}")


@app.command()
def export(
    run_dir: RunArgument,
    output: Annotated[Path, typer.Option(help="a folder that does not exist yet")],
    max_shard_size: Annotated[str | None, typer.Option(help="such as 5GB; as the base model's by default")] = None,
) -> None:
    """Merge the adapter into the base model: safetensors that any transformers program loads."""
    run = _with_adapter(run_dir)
    progress = _progress_lines()
    progress(0.0, "Starting")
    from cbgui.export import export_run

    difference = export_run(run, output, max_shard_size=max_shard_size, progress=progress)
    typer.echo(f"{output}: merged and base + adapter differ by at most {difference:.2g} in any token's probability.")


@app.command()
def upload(
    run_dir: RunArgument,
    repo: Annotated[str, typer.Option(help="hub id, such as your-name/model-name; made if it is not there")],
    public: Annotated[bool, typer.Option("--public", help="for everyone to see; private by default")] = False,
) -> None:
    """Push the merged model to the Hugging Face hub, with its card."""
    run = runs.open_run(run_dir)
    from cbgui.hub import upload as push

    typer.echo(f"10% Uploading to {repo}")
    typer.echo(f"Uploaded: {push(run, repo, private=not public)}")


@app.command()
def evaluate(
    run_dir: RunArgument,
    held_out: Annotated[
        Path | None, typer.Option(help="data file of held-out examples; the run's own by default")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="a file, a public set or hub id too, such as 'file.csv?kind=break&prompt=Goal&limit=50'"),
    ] = None,
    attacks: Annotated[str, typer.Option(help="names with commas between, or 'all'")] = "",
    judge: Annotated[
        str | None,
        typer.Option(help="a classifier's folder or hub id, such as 'NAME?label=unsafe' or '?template=FILE'"),
    ] = None,
    tasks: Annotated[str, typer.Option(help="lm-eval tasks or their YAML files, with commas between")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=8)] = 60,
    limit: Annotated[int | None, typer.Option(min=1, help="so many break and keep prompts at most")] = None,
) -> None:
    """Attack both models on held-out prompts; writes report/report.json and report/report.html."""
    run = _with_adapter(run_dir)
    from cbgui.evaluation.attacks import TITLES, check_attacks

    names = list(TITLES) if attacks == "all" else check_attacks(_names(attacks))
    progress = _progress_lines()
    progress(0.0, "Starting")
    from cbgui.evaluation.evaluate import evaluate_run

    report = evaluate_run(
        run,
        held_out=held_out,
        also=also,
        attacks=names or None,
        judge=judge,
        tasks=_names(tasks),
        max_new_tokens=max_new_tokens,
        limit=limit,
        progress=progress,
    )
    typer.echo(f"\n{'attack':<40} {'base answers':>13} {'short-circuited':>16} {'derailed':>9}")
    for attack in report["attacks"]:
        base, short = attack["base"]["answered"]["rate"], attack["short_circuited"]
        line = (
            f"{attack['title']:<40} {base:>13.1%} {short['answered']['rate']:>16.1%} {short['tripped']['rate']:>9.1%}"
        )
        typer.echo(line)
    kept = report["kept"]
    typer.echo(
        f"keep prompts derailed {kept['falsely_tripped']['rate']:.1%}, KL {kept['kl']:.4f}, top-1 {kept['top1']:.4f}"
    )
    typer.echo(" ".join([report["verdict"]["words"], *report["verdict"]["advice"]]))
    typer.echo(f"Report: {run.path / 'report' / 'report.html'}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@app.command()
def compare(
    run_dir: RunArgument,
    other: Annotated[Path, typer.Argument(help="the other run's folder")],
    output: Annotated[Path, typer.Option(help="the page to write")] = Path("comparison.html"),
) -> None:
    """Two evaluated runs' reports side by side, as one page."""
    from cbgui.evaluation.compare import compare as render
    from cbgui.evaluation.compare import read_report

    page = render(read_report(runs.open_run(run_dir)), read_report(runs.open_run(other)))
    try:
        output.write_text(page, "utf-8")
    except OSError as error:
        raise InputError(f"--output {str(output)!r} cannot be written ({error.strerror}); name another.") from None
    typer.echo(f"Comparison: {output}")


MemoryOption = Annotated[str | None, typer.Option("--memory", help="such as 8GB; what this machine has by default")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="such as data.max_tokens=256")]


@app.command()
def estimate(
    preset: Annotated[str, typer.Argument(metavar="PRESET_OR_YAML")],
    memory: MemoryOption = None,
    model: Annotated[str | None, typer.Option(help="hub id, folder, or an architecture that bench names")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; this machine's by default")] = None,
    assignments: SetOption = None,
) -> None:
    """Will it fit: the memory that training takes, part by part, before any weights are loaded."""
    if device not in (None, "cpu", "cuda"):
        raise InputError(f"--device {device!r} is unknown; use cpu or cuda.")
    config = override(load_config(preset), assignments or [])
    limit = parse_size(memory, "--memory") if memory else None
    _say_starting()
    from cbgui import hardware
    from cbgui.bench import ARCHITECTURES, architecture
    from cbgui.estimate import GIB
    from cbgui.estimate import estimate as estimate_memory
    from cbgui.models import read_model_config, resolve_model
    from cbgui.whole import fit_in_words

    name = model or config.model.name
    model_config = (
        architecture(name) if name in ARCHITECTURES else read_model_config(resolve_model(name, weights=False))
    )
    available = limit or hardware.memory_for_training()
    device = device or hardware.kind()
    result = estimate_memory(model_config, config, available, device)
    for part in result.parts:
        typer.echo(f"{part.name:<16}{part.bytes / GIB:9.2f} GiB")
    typer.echo(f"{'sum':<16}{result.total / GIB:9.2f} GiB of {available / GIB:.2f} GiB: it fits.")
    for reason in result.reasons:
        typer.echo(reason)
    typer.echo(fit_in_words(model_config, result.config.model, available, device))


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="CSV, TSV, JSON, JSONL or Parquet")],
    kind: Annotated[str, typer.Option(help="break or retain: what rows without a kind are")] = "break",
    max_tokens: Annotated[int, typer.Option(min=16, help="as data.max_tokens of the training")] = 512,
) -> None:
    """What is wrong with a data file: copies, refusals, empty answers, missing near misses and more."""
    import tempfile

    if kind not in ("break", "retain"):
        raise InputError(f"--kind {kind!r} is unknown; use break or retain.")
    from cbgui.data.checks import run_checks
    from cbgui.data.editable import EditableData
    from cbgui.data.files import read_rows
    from cbgui.data.sources import columns_of, guess_mapping, to_examples

    rows = list(read_rows(file))
    mapping = guess_mapping(rows)
    examples, skipped = to_examples(rows, mapping, kind, file.name)
    typer.echo(f"{len(examples)} examples from columns {', '.join(columns_of(rows))}. {skipped.words()}")
    with tempfile.TemporaryDirectory() as scratch:
        data = EditableData(Path(scratch) / "checked")
        data.add(examples, "read")
        numbers = {row.id: number for number, row in enumerate(data.rows(), 1)}
        for finding in run_checks(data, max_tokens=max_tokens):
            typer.echo(f"{finding.title}. {finding.why}")
            if finding.ids:
                shown = [str(numbers[one]) for one in finding.ids[:10]]
                typer.echo(f"  examples {', '.join(shown)}{' ...' if len(finding.ids) > 10 else ''}")


@app.command()
def bench(
    model: Annotated[str, typer.Argument(help="hub id, folder, or a named architecture with random weights")] = "demo",
    memory: MemoryOption = None,
    batch: Annotated[int, typer.Option(min=1, help="break examples a step, and as many keep examples")] = 4,
    tokens: Annotated[int, typer.Option(min=16, help="tokens of each example")] = 256,
    steps: Annotated[int, typer.Option(min=1)] = 4,
    layers: Annotated[int | None, typer.Option(min=2, help="cut a named architecture to so many layers")] = None,
    output: Annotated[Path | None, typer.Option(help="write the JSON there too")] = None,
    assignments: SetOption = None,
) -> None:
    """Seconds a step, tokens a second, peak memory and share of the matmul rate of this machine, as JSON."""
    sizes = [f"training.break_batch_size={batch}", f"training.retain_batch_size={batch}", f"data.max_tokens={tokens}"]
    config = override(RunConfig(), [*sizes, *(assignments or [])])
    limit = parse_size(memory, "--memory") if memory else None
    _say_starting()
    from cbgui.bench import bench as run_bench

    text = json.dumps(run_bench(model, config, layers=layers, memory=limit, steps=steps), indent=2)
    typer.echo(text)
    if output is not None:
        output.write_text(text + "\n", "utf-8")


def _say_starting() -> None:
    """To who looks on, before torch, transformers and PEFT are imported, which takes seconds; a script's output and
    errors stay what they are."""
    if sys.stderr.isatty():
        typer.echo("Starting ...", err=True)


def _progress_lines() -> Callable[[float, str], None]:
    """Prints a line when the percentage changes, or what is being done."""
    last: tuple[str, str] | None = None

    def show(share: float, words: str) -> None:
        nonlocal last
        step = (f"{share:4.0%}", words.partition(":")[0])
        if step != last:
            typer.echo(f"{step[0]} {words}")
        last = step

    return show


def _with_adapter(run_dir: Path) -> runs.Run:
    run = runs.open_run(run_dir)
    run.need_adapter()
    return run


def main() -> int:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        typer.echo(str(error), err=True)
        return 2
    except TyperException as error:  # an option that typer refuses; told as one sentence, without the usage box
        if type(error).__name__ != "NoArgsIsHelpError":  # its help is on the screen already; the class is private
            typer.echo(f"{error.format_message().rstrip('.')}; see --help.", err=True)
        return getattr(error, "exit_code", 2)
    except (typer.Abort, KeyboardInterrupt):
        return 1
    return code if isinstance(code, int) else 0
