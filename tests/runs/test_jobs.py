"""A command as a process of its own: it outlives its starter, says how far it is and how it ended, can be stopped."""

from __future__ import annotations

import time

import pytest

from cbgui.errors import InputError
from cbgui.runs.jobs import Job


def wait(job: Job, *states: str) -> str:
    for _ in range(3000):  # five minutes, for a busy machine
        if job.state() in states:
            return job.state()
        time.sleep(0.1)
    raise AssertionError((job.state(), job.lines()))


@pytest.mark.slow
def test_a_job_ends_is_stopped_and_fails_in_words(trained):
    job = Job(trained, "evaluate")
    assert job.state() == "none"
    job.start("--attacks", "telepathy")
    assert wait(job, "done", "failed") == "failed"
    assert any("telepathy" in line for line in job.lines())
    job.start("--attacks", "direct", "--limit", "2", "--max-new-tokens", "8")
    assert job.state() == "running"
    with pytest.raises(InputError, match="running already"):
        job.start()
    job.stop()
    assert job.state() == "stopped"
    job.start("--attacks", "direct", "--limit", "2", "--max-new-tokens", "8")
    assert wait(job, "done", "failed") == "done", job.lines()
    assert (trained.path / "report" / "report.html").is_file()
