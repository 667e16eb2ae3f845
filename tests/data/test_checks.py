"""The checks of a data set, their fixes, and the near duplicates they look for."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_rows import CHECK_NAMES, CLEAN_ROWS, SUBJECTS, example, rows_with_fault

from cbgui.data import checks
from cbgui.data.dataset_store import DatasetStore
from cbgui.data.near_duplicates import near_pairs

HELD_OUT = [example("What is a held-out question?", "This.", "retain")]


@pytest.fixture
def data(tmp_path: Path) -> DatasetStore:
    return DatasetStore.make(tmp_path / "set")


def findings(data: DatasetStore) -> dict[str, checks.Finding]:
    return {finding.check: finding for finding in checks.run_checks(data, max_tokens=200)}


def test_near_pairs_are_found_and_others_are_not():
    texts = [f"how does one paint {s} in a quiet corner of the garden" for s in SUBJECTS]
    texts += ["how does one paint red lamps in a quiet corner of the garden please", "something else"]
    pairs = near_pairs(texts, 0.9).tolist()
    assert [0, len(SUBJECTS)] in pairs
    assert all(len(SUBJECTS) + 1 not in pair for pair in pairs)


def test_a_clean_set_has_no_findings(data):
    data.add(CLEAN_ROWS, "import")
    data.add(HELD_OUT, "import", held_out=True)
    assert findings(data) == {}


@pytest.mark.parametrize("check", CHECK_NAMES)
def test_every_check_finds_its_fault_and_its_fix_works(check, data):
    training, held_out = rows_with_fault(check)
    data.add(training, "import")
    if held_out or check != "no_held_out":
        data.add(held_out or HELD_OUT, "import", held_out=True)
    before = [(row.example, row.held_out) for row in data.rows()]
    found = findings(data)
    assert set(found) == {check}, {name: finding.title for name, finding in found.items()}
    if found[check].ids:
        assert data.page(check=check)[1] == len(found[check].ids)
    assert found[check].fix
    checks.fix(data, found[check], max_tokens=200)
    assert check not in findings(data)
    data.undo()
    assert [(row.example, row.held_out) for row in data.rows()] == before


def test_a_long_prompt_is_cut_as_training_cuts_it(data):
    data.add([example("a" * 700 + "b" * 700, "word " * 200)], "import")
    checks.fix(data, findings(data)["too_long"], max_tokens=200)
    (row,) = data.rows()
    prompt, response = row.example.prompt, row.example.response
    assert len(prompt) + len(response) == 800 and 190 < len(response) <= 200
    assert abs(prompt.count("a") - prompt.count("b")) <= 1  # the middle is gone
