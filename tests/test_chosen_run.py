"""Which run a page means before it has chosen one."""

from __future__ import annotations

import shutil

from cbgui.ui import chat_tab
from cbgui.ui.common import chosen


def test_the_newest_run_is_meant_until_the_page_has_chosen_it(trained, tmp_path, monkeypatch):
    """A request sent a second after the page opened is answered, not told that there is no run."""
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    assert chosen(None) is None and chosen("gone") == "gone"
    *_, chat = chat_tab._of_run(None)
    assert "Train a run first" in chat.placeholder
    shutil.copytree(trained.path, tmp_path / "newest")
    assert chosen(None) == "newest"
    checkpoint, _, *chats = chat_tab._of_run(None)
    assert checkpoint.value and all(chat.placeholder == "Ask both models the same." for chat in chats)
