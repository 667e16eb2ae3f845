"""The commands: cbgui app | train | generate | evaluate | compare | export | upload | estimate |
check | bench | suggest.

Exit codes: 0 done or paused, 1 failed with a message or interrupted, 2 bad input."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import TyperException

from cbgui import space
from cbgui.cli_readonly import SetOption, bench, check, estimate
from cbgui.cli_suggest import suggest
from cbgui.config import load_config, override
from cbgui.errors import InputError, error_sentence
from cbgui.parsing import refuse_broken_text
from cbgui.printing import event_line, log_traceback, progress_lines, report_lines, say_starting, tell
from cbgui.runs import folder
from cbgui.runs.disk import disk_is_full
from cbgui.runs.jobs import alone
from cbgui.runs.process import hold
from cbgui.runs.run import EVALUATE, EXPORT, TRAIN, UPLOAD, Run, read_data

if TYPE_CHECKING:
    from accelerate import PartialState

# torch and transformers take seconds to import, so each command imports what needs them after its input is checked.
commands = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
RunArgument = Annotated[Path, typer.Argument(help="the run's folder")]


@commands.command("app")
def open_app(
    host: Annotated[str, typer.Option(envvar="GRADIO_SERVER_NAME", help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="7860 by default, or the next free one")] = None,
    runs: Annotated[str | None, typer.Option(envvar="CBGUI_RUNS", help="the folder of runs; ./runs by default")] = None,
    share: Annotated[bool, typer.Option("--share", help="a public address through gradio.live, for 72 hours")] = False,
    auth: Annotated[
        str | None, typer.Option(metavar="NAME:PASSWORD", envvar="CBGUI_AUTH", help="require this name and password")
    ] = None,
    open_to_network: Annotated[bool, typer.Option("--open-to-network", help="let others in without --auth")] = False,
) -> None:
    """Serve the app on this machine; open its address in a browser."""
    name, _, password = (auth or "").partition(":")
    if auth is not None and not (name and password):
        raise InputError("--auth needs a name and a password; write it as --auth name:password.")
    if port is not None and not 0 < port < 65536:
        raise InputError(f"--port {port} is not a port; use a number from 1 to 65535.")
    _check_address(host, port)
    local = host in ("127.0.0.1", "localhost", "::1")
    if (not local or share) and not (auth or open_to_network or space.on_space()):
        option = "--share" if local else f"--host {host!r}"
        raise InputError(
            f"{option} lets others use this machine and see its runs; add --auth name:password, or --open-to-network "
            "if everyone may."
        )
    runs = runs or space.default_runs()
    try:
        os.makedirs(runs, exist_ok=True)
    except OSError as error:
        raise InputError(f"--runs {runs!r} cannot be written ({error.strerror}); choose another folder.") from None
    os.environ["CBGUI_RUNS"] = runs
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if space.forget_owner_token():
        os.execv(sys.executable, sys.orig_argv)  # this process, anew and without the token
    typer.echo("Starting cbgui ...")
    sys.stdout.flush()
    from cbgui.ui.build import launch

    launch(host, port, share=share, auth=(name, password) if auth else None)


def _check_address(host: str, port: int | None) -> None:
    """Raises InputError when the app cannot listen there. Without a port, Gradio looks for a free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            if os.name != "nt":  # a port that was closed a moment ago is free
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise InputError(f"--port {port} is in use or not allowed; choose another, or leave --port out.") from None
        raise InputError(f"--host {host!r} is not an address of this machine; use 127.0.0.1, or 0.0.0.0.") from None


@commands.command()
def train(
    preset: Annotated[str, typer.Argument(metavar="PRESET_OR_YAML")] = "",
    output: Annotated[Path, typer.Option(help="the run's folder")] = ...,
    break_file: Annotated[str | None, typer.Option("--break", help="data file of what must stop")] = None,
    retain_file: Annotated[str | None, typer.Option("--retain", help="data file of what must be kept")] = None,
    held_out: Annotated[str | None, typer.Option("--held-out", help="data file of held-out examples")] = None,
    model: Annotated[str | None, typer.Option(help="hub id or folder")] = None,
    assignments: SetOption = None,
    resume: Annotated[bool, typer.Option(help="continue from the last checkpoint; other options are ignored")] = False,
) -> None:
    """Train a circuit breaker. Training is a process of its own: Ctrl-C asks it to pause."""
    if resume:
        run = folder.open_run(output)
        if run.state() == "done":
            typer.echo("This run has already finished.")
            return
    else:
        run = _new_run(preset, output, break_file, retain_file, held_out, model, assignments or [])
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise typer.Exit(_train_in_this_process(run))
    offset = run.start()
    while True:
        try:
            for event in run.follow(offset):
                if line := event_line(event):
                    typer.echo(line, err=event["kind"] == "error")
            break
        except KeyboardInterrupt:
            typer.echo("Pausing at the end of this step ...")
            run.ask("pause")
            offset = run.events()[1]
    state = run.state()
    if state == "failed" and not run.newest("status")["status"].get("resume"):
        raise typer.Exit(1)  # its error, printed above, says what to change
    if state in ("failed", "interrupted"):
        if state == "interrupted" and disk_is_full(run.path):
            typer.echo("The disk is full; free some space.", err=True)
        ended = "The run failed" if state == "failed" else "The run was interrupted"
        typer.echo(f"{ended}; go on with: python -m cbgui train --resume --output {output}", err=True)
        raise typer.Exit(1)


def _new_run(
    preset: str,
    output: Path,
    break_file: str | None,
    retain_file: str | None,
    held_out: str | None,
    model: str | None,
    assignments: list[str],
) -> Run:
    """Check everything that can be checked before a model is loaded, and make the run directory."""
    if not preset:
        raise InputError("PRESET_OR_YAML is missing; name a preset such as 'demo' or a YAML file.")
    if output.resolve() == Path.cwd():
        raise InputError("--output is the current folder; give the run a folder of its own, such as runs/demo.")
    config = override(load_config(preset), assignments)
    if break_file:
        config.data.break_file = break_file
    if retain_file:
        config.data.retain_file = retain_file
    if break_file or retain_file or held_out:  # the preset's held-out examples belong to the preset's topic
        config.data.held_out_file = held_out
    if model:
        config.model.name = model
    how_read: dict[str, list[str]] = {}
    read_data(config.data, how_read)
    first = int(os.environ.get("RANK", 0)) == 0  # of several processes
    if first:
        folder.refuse_existing(output)
        if break_file or retain_file or held_out:
            for name, sentences in how_read.items():
                typer.echo(f"{name}: {' '.join(sentences)}")
        typer.echo("Checking whether it fits ...")
    from cbgui import hardware
    from cbgui.modeling.architecture import read_model_config
    from cbgui.modeling.hub import resolve_model
    from cbgui.training.memory import estimate_memory

    model_config = read_model_config(resolve_model(config.model.name, weights=False))
    estimate_memory(
        model_config, config, hardware.memory_for_training(), hardware.memory_kind()
    )  # raises if it cannot fit
    return folder.create_run(output, config) if first else Run(output.resolve())


def _train_in_this_process(run: Run) -> int:
    """One of the processes that `accelerate launch` started. The first one writes the events and prints them."""
    import torch
    from accelerate import PartialState

    from cbgui.evaluation.watched_training import train_watched

    state = PartialState(cpu=not torch.cuda.is_available())
    state.wait_for_everyone()  # until the first process has created the run directory
    if not state.is_main_process:
        return _leave_together(state, train_watched(run))
    with hold(run.lock_file(TRAIN)) as held:
        if not held:
            raise InputError(f"run {run.name!r} is running already; stop it first.")
        run.ask("run")
        offset = run.events()[1]

        def tell() -> None:
            for event in run.follow(offset):
                if line := event_line(event):
                    typer.echo(line)

        threading.Thread(target=tell, daemon=True).start()
        code = train_watched(run)
        time.sleep(0.5)  # the last lines
    return _leave_together(state, code)


def _leave_together(state: PartialState, code: int) -> int:
    """End the connection of the processes; one that ends while another still uses it would abort that."""
    if code == 0:
        state.wait_for_everyone()
    state.destroy_process_group()
    return code


@commands.command()
def generate(
    run_dir: RunArgument,
    prompt: Annotated[str, typer.Option()],
    prefill: Annotated[str, typer.Option(help="what both answers begin with")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
) -> None:
    """Both models' answers to a prompt."""
    run = _with_adapter(run_dir)
    say_starting()
    from cbgui.inference.chat import load_chat_model
    from cbgui.inference.streaming import in_model_thread

    chat = in_model_thread(load_chat_model, run)
    *_, answer = chat.stream([{"role": "user", "content": prompt}], prefill=prefill, max_new_tokens=max_new_tokens)
    typer.echo(f"--- base\n{answer.base}\n--- short-circuited\n{answer.short_circuited}")


@commands.command()
def evaluate(
    run_dir: RunArgument,
    held_out: Annotated[
        Path | None, typer.Option(help="data file of held-out examples; by default the run's own")
    ] = None,
    attacks: Annotated[str, typer.Option(help="names with commas between, or 'all'")] = "",
    limit: Annotated[
        int | None, typer.Option(min=1, help="at most this many break and this many retain prompts")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=8, help="the length of an answer")] = 60,
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
) -> None:
    """Attack both models on held-out prompts; writes report/report.json and report/report.html."""
    run = _with_adapter(run_dir)
    from cbgui.evaluation.attacks.registry import ATTACK_TITLES, check_attacks

    names = list(ATTACK_TITLES) if attacks == "all" else check_attacks(_names(attacks))
    progress = progress_lines()
    progress(0.0, "Starting")
    from cbgui.evaluation.classifier import JudgeChoice
    from cbgui.evaluation.evaluate import evaluate_run
    from cbgui.evaluation.prompt_sets import SetOptions

    also_options = SetOptions(
        kind=also_kind,
        prompt=also_prompt,
        response=also_response,
        messages=also_messages,
        config=also_config,
        split=also_split,
        limit=also_limit,
    )
    with alone(run, EVALUATE):
        report = evaluate_run(
            run,
            held_out=held_out,
            also=also,
            also_options=also_options,
            attacks=names or None,
            judge=JudgeChoice(judge, judge_label, judge_template) if judge else None,
            tasks=_names(tasks),
            max_new_tokens=max_new_tokens,
            limit=limit,
            progress=progress,
        )
    for line in report_lines(report):
        typer.echo(line)
    typer.echo(f"Report: {run.report_page}")


@commands.command()
def compare(
    run_dir: RunArgument,
    other: Annotated[Path, typer.Argument(help="the other run's folder")],
    output: Annotated[Path, typer.Option(help="the page to write")] = Path("comparison.html"),
) -> None:
    """Compare the reports of two evaluated runs on one page."""
    from cbgui.evaluation.compare import compare_reports, read_report

    page = compare_reports(read_report(folder.open_run(run_dir)), read_report(folder.open_run(other)))
    try:
        output.write_text(page, "utf-8")
    except OSError as error:
        raise InputError(f"--output {str(output)!r} cannot be written ({error.strerror}); name another.") from None
    typer.echo(f"Comparison: {output}")


@commands.command()
def export(
    run_dir: RunArgument,
    output: Annotated[Path, typer.Option(help="a folder that does not exist yet")],
    max_shard_size: Annotated[str | None, typer.Option(help="such as 5GB; by default as the base model's")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="replace an earlier merged model at --output")] = False,
) -> None:
    """Merge the adapter into the base model: safetensors that any transformers program loads."""
    run = _with_adapter(run_dir)
    progress = progress_lines()
    progress(0.0, "Starting")
    from cbgui.export.merge import export_run

    with alone(run, EXPORT):
        difference = export_run(run, output, max_shard_size=max_shard_size, replace=replace, progress=progress)
    typer.echo(
        f"{output}: the merged model and base + adapter differ by at most {difference:.2g} in any token's probability."
    )


@commands.command()
def upload(
    run_dir: RunArgument,
    repo: Annotated[str, typer.Option(help="hub id, such as your-name/model-name; created if it does not exist")],
    public: Annotated[bool, typer.Option("--public", help="for everyone to see; private by default")] = False,
) -> None:
    """Push the merged model to the Hugging Face hub, with its card."""
    run = folder.open_run(run_dir)
    run.need_merged()
    from cbgui.export.upload import upload_run

    typer.echo(f"10% Uploading to {repo}")
    with alone(run, UPLOAD):
        address = upload_run(run, repo, private=not public)
    typer.echo(f"Uploaded: {address}")


for command in (estimate, check, bench, suggest):
    commands.command()(command)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _with_adapter(run_dir: Path) -> Run:
    run = folder.open_run(run_dir)
    run.need_adapter()
    return run


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` are the process's own by default."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        refuse_broken_text(sys.argv[1:] if arguments is None else arguments)
        code = commands(arguments, standalone_mode=False)
    except InputError as error:
        tell(str(error))
        return 2
    except TyperException as error:  # an option that typer refuses, as one sentence without the usage box
        if type(error).__name__ != "NoArgsIsHelpError":  # its help is on the screen already; the class is private
            tell(f"{error.format_message().rstrip('.')}; see --help.")
        return getattr(error, "exit_code", 2)
    except (typer.Abort, KeyboardInterrupt):
        return 1
    except Exception as error:
        tell(f"{error_sentence(error)} Details: {log_traceback()}")
        return 1
    return code if isinstance(code, int) else 0
