"""Any error as one sentence, and errors of a full disk, which come in many forms."""

from __future__ import annotations

import errno
import sqlite3
from html import unescape

import jinja2
import pytest
from made_runs import finished_run
from safetensors import SafetensorError
from test_bad_inputs import is_a_sentence

from cbgui import cli, worker
from cbgui.errors import InputError, error_sentence, is_disk_full
from cbgui.runs.jobs import Job
from cbgui.runs.run import EVALUATE, LOG_VARIABLE
from cbgui.training import session
from cbgui.ui.common import job_words

FULL = [
    OSError(errno.ENOSPC, "No space left on device", "x"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/0"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 60480 vs 60372"),
    sqlite3.OperationalError("database or disk is full"),
]
OTHERS = {
    "could not be read or written (Permission denied)": PermissionError(errno.EACCES, "Permission denied", "x"),
    "Memory ran out": MemoryError(),
    "cannot be stored as UTF-8": UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    "package 'gptqmodel' is missing": ImportError("No module named x", name="gptqmodel"),
    "requires gptqmodel": ImportError("Loading a GPTQ model requires gptqmodel\nRead more"),
    "topic's file": sqlite3.DatabaseError("file is not a database"),
    "chat template": jinja2.TemplateError("Conversation roles must alternate"),
    "Unexpected error (RuntimeError: shapes)": RuntimeError("shapes\nmore"),
    "steps = 0": InputError("steps = 0: too few."),
}
OUT_OF_MEMORY = "Out of memory with one example at a time"


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_a_full_disk_is_recognised_whoever_reports_it(error):
    assert is_disk_full(error) and "disk is full" in error_sentence(error)
    try:
        raise ValueError("could not save") from error
    except ValueError as wrapped:
        assert is_disk_full(wrapped)


@pytest.mark.parametrize("words", OTHERS)
def test_any_error_is_one_sentence(words):
    sentence = error_sentence(OTHERS[words])
    assert words in sentence and is_a_sentence(sentence.removeprefix("Unexpected error"))
    assert not is_disk_full(OTHERS[words])


@pytest.mark.parametrize("words", OTHERS)
def test_a_command_a_job_and_training_say_any_error_in_a_sentence(words, tmp_path, monkeypatch, capsys):
    run = finished_run(tmp_path / "run")

    def fails(*arguments):
        raise OTHERS[words]

    monkeypatch.setenv(LOG_VARIABLE, "")  # so that monkeypatch restores it
    monkeypatch.setattr(cli.folder, "open_run", fails)
    is_input = isinstance(OTHERS[words], InputError)
    assert worker._job(run, ["evaluate", str(run.path)]) == (2 if is_input else 1)
    printed = capsys.readouterr()
    said = printed.err.partition(" Details: ")[0]
    assert words in said and is_a_sentence(said.removeprefix("Unexpected error"))
    assert is_input or "Traceback" in run.log_file.read_text("utf-8")
    run.job_output(EVALUATE).write_text(printed.err + printed.out, "utf-8")
    assert unescape(job_words(Job(run, EVALUATE), "the test")).startswith("**run**: the test failed.")
    assert words.split()[0] in job_words(Job(run, EVALUATE), "the test")

    monkeypatch.setattr(session, "train", fails)
    assert session.run_training(run) == 1
    (error, status) = run.events()[0][-2:]
    expected = OUT_OF_MEMORY if words == "Memory ran out" else said.strip()  # training says what to set
    assert error["kind"] == "error" and error["text"] == status["text"] and error["text"].startswith(expected)
    assert status["resume"] is not is_input
