"""The commands: app, train, generate, evaluate, compare, export, upload, estimate, check, bench and suggest.

Exit codes: 0 done or paused, 1 failed with a message or interrupted, 2 bad input."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cbgui import space
from cbgui.cli_evaluate import evaluate
from cbgui.cli_export import export
from cbgui.cli_readonly import SetOption, bench, check, estimate
from cbgui.cli_suggest import suggest
from cbgui.cli_train import new_run, train_in_this_process
from cbgui.errors import InputError, error_sentence
from cbgui.parsing import refuse_broken_text
from cbgui.printing import event_line, log_traceback, say_starting, tell
from cbgui.runs import folder
from cbgui.runs.disk import disk_is_full
from cbgui.runs.jobs import alone
from cbgui.runs.run import UPLOAD, Run

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
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open the app's page in a browser")] = True,
    open_to_network: Annotated[bool, typer.Option("--open-to-network", help="let others in without --auth")] = False,
) -> None:
    """Serve the app on this machine and open it in a browser."""
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

    try:
        launch(host, port, share=share, auth=(name, password) if auth else None, browser=browser)
    except OSError as error:  # Gradio finds ports taken that have just been left
        if port is None or "port" not in str(error):
            raise
        raise InputError(f"--port {port} is in use; choose another, or leave --port out.") from None


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
        run = new_run(preset, output, break_file, retain_file, held_out, model, assignments or [])
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise typer.Exit(train_in_this_process(run))
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


@commands.command()
def generate(
    run_dir: RunArgument,
    prompt: Annotated[str, typer.Option()],
    prefill: Annotated[str, typer.Option(help="what both answers begin with")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
) -> None:
    """Both models' answers to a prompt."""
    run = _with_adapter(run_dir)
    if not prompt.strip():
        raise InputError("--prompt is empty; write what a user would ask.")
    say_starting()
    from cbgui.inference.chat import load_chat_model
    from cbgui.inference.streaming import in_model_thread

    chat = in_model_thread(load_chat_model, run)
    *_, answer = chat.stream([{"role": "user", "content": prompt}], prefill=prefill, max_new_tokens=max_new_tokens)
    typer.echo(f"--- base\n{answer.base}\n--- short-circuited\n{answer.short_circuited}")


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


for command in (evaluate, estimate, check, bench, suggest, export):
    commands.command()(command)


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
