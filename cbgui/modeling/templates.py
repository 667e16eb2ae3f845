"""Chat templates, which are programs that come with a model, rendered in a process with limits on time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

from jinja2 import TemplateError

from cbgui.errors import InputError
from cbgui.space import child_environment

PROCESS = Path(__file__).with_name("template_process.py")
SECONDS = 10.0  # that one conversation may take; usual templates take a thousandth of one


class _Renderer:
    """The process, started when it is first needed and again after it was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._ready = False

    def start(self) -> None:
        """Start it without waiting for it."""
        with self._lock:
            self._running()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._ready = False
            # It ends when its stdin is closed, which happens when this process ends, however it ends.
            self._process = subprocess.Popen(
                [sys.executable, str(PROCESS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
                text=True,
                encoding="ascii",
            )
        return self._process

    def ask(self, request: str) -> dict[str, str]:
        """The answer to one request; empty when the process broke a limit."""
        with self._lock:
            process = self._running()
            if not self._ready:
                self._ready = process.stdout.readline().strip() == "ready"
            alarm = threading.Timer(SECONDS, process.kill)
            alarm.start()
            try:
                process.stdin.write(request + "\n")
                process.stdin.flush()
                return json.loads(process.stdout.readline())
            except (OSError, ValueError):  # it was killed
                process.kill()
                process.wait()
                return {}
            finally:
                alarm.cancel()


_renderer = _Renderer()


def prepare() -> None:
    """Start the process that renders, so that it is ready by the time that it is needed."""
    _renderer.start()


def render(
    template: str, messages: list[dict[str, str]], settings: dict[str, object], model: str, *, prompt: bool = True
) -> str:
    """A conversation through a chat template, ready for the response unless `prompt` is False.

    `settings` are the tokenizer's special tokens and what else the template reads, such as `enable_thinking`.

    Raises jinja2.TemplateError when the template refuses the conversation, and InputError, naming `model`, when it
    takes too long or too much memory.
    """
    request = {"template": template, "messages": messages, "settings": settings, "prompt": prompt}
    answer = _renderer.ask(json.dumps(request, default=str))
    if "refused" in answer:
        raise TemplateError(answer["refused"])
    if "text" not in answer:
        raise InputError(
            f"model {model!r}: its chat template takes over {SECONDS:.0f} seconds, 1 GB of memory or 20 million "
            f"characters for a conversation of {len(messages)} turns; choose another model."
        )
    return answer["text"]
