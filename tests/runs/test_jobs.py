"""A command in the background: its progress, how it ended, and stopping it."""

from __future__ import annotations

import pytest
from waiting import wait_until

from cbgui.errors import InputError
from cbgui.runs.jobs import EVALUATE, Job, running_jobs

SMALL = ("--attacks", "direct", "--limit", "2", "--max-new-tokens", "8")


def ended(job: Job) -> str:
    wait_until(lambda: job.state() in ("done", "failed"))
    return job.state()


@pytest.mark.slow
def test_a_job_fails_in_words_is_stopped_and_ends(trained):
    job = Job(trained, EVALUATE)
    assert job.state() == "none"
    job.start("--attacks", "telepathy")
    assert ended(job) == "failed"
    assert any("telepathy" in line for line in job.lines())
    job.start(*SMALL)
    assert job.state() == "running" and list(running_jobs(trained.path.parent)) == [job]
    with pytest.raises(InputError, match="running already"):
        job.start()
    job.stop()
    assert job.state() == "stopped" and not list(running_jobs(trained.path.parent))
    job.start(*SMALL)
    assert ended(job) == "done", job.lines()
    assert trained.report_page.is_file()
