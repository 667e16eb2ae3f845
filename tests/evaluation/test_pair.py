"""Two models from two folders that cbgui did not make a run of, judged from the command line."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import VOCABULARY, tiny_model

from cbgui.config import PRESETS
from cbgui.evaluation.evaluate import evaluate_run
from cbgui.export.merge import export_run
from cbgui.modeling.two_models import TwoModels
from cbgui.runs.run import Run

HELD_OUT = PRESETS / "demo" / "held_out.jsonl"
ASKED = ["--limit", "3", "--attacks", "direct,prefill", "--max-new-tokens", "16"]


@pytest.fixture(scope="module")
def merged(blocking: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(tmp_path_factory.mktemp("merged")) / "model"
    export_run(blocking, folder)
    return folder


@pytest.fixture(scope="module")
def own_report(blocking: Run) -> dict:
    """The report of the run that the pair came from."""
    return evaluate_run(blocking, attacks=["direct", "prefill"], limit=3, max_new_tokens=16)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_a_pair_is_judged_as_the_run_that_it_came_from(cli, demo, blocking, merged, own_report, tmp_path, form):
    other = merged if form == "merged" else blocking.adapter_folder
    output = tmp_path / "judged"
    done = cli("evaluate", "--base", demo.path, "--broken", other, "--held-out", HELD_OUT, "--output", output, *ASKED)
    assert done.returncode == 0, done.stderr
    report = json.loads((output / "report" / "report.json").read_text("utf-8"))
    for attack, expected in zip(report["attacks"], own_report["attacks"], strict=True):
        for model in ("base", "short_circuited"):
            assert attack[model]["derailed"]["rate"] == expected[model]["derailed"]["rate"], (attack, expected)
    assert report["attacks"][0]["short_circuited"]["derailed"]["rate"] == 1
    assert report["retain"]["kl"] == pytest.approx(own_report["retain"]["kl"], rel=0.1)
    assert report["settings"]["broken"] == str(other) and report["verdict"]["name"] == own_report["verdict"]["name"]
    assert "against" in (output / "report" / "report.html").read_text("utf-8")


@torch.no_grad()
def test_rows_of_one_batch_are_those_of_each_model_alone(tiny_pair):
    base, changed, both = tiny_pair
    ids = torch.randint(1, VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(0))
    expected = [base(input_ids=ids).logits, changed(input_ids=ids).logits]
    assert not torch.allclose(*expected, atol=1e-2)
    both.rows.first = 3
    assert torch.allclose(both(input_ids=ids).logits, torch.cat([expected[0][:3], expected[1][3:]]), atol=1e-5)
    both.rows.first = 0
    assert torch.allclose(both(input_ids=ids).logits, expected[1], atol=1e-5)
    with both.disable_adapter():
        assert torch.allclose(both(input_ids=ids).logits, expected[0], atol=1e-5)


@pytest.fixture
def tiny_pair() -> tuple[torch.nn.Module, torch.nn.Module, TwoModels]:
    """A tiny model, one whose embedding, norms and every other linear layer are changed, and both in one."""
    base = tiny_model("qwen3").eval()
    changed = copy.deepcopy(base)
    with torch.no_grad():
        for number, parameter in enumerate(changed.parameters()):
            if number % 2 == 0 or parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    both = TwoModels(copy.deepcopy(base), copy.deepcopy(changed), "changed").eval()
    return base, changed, both


def test_what_is_no_pair_is_told_in_a_sentence(cli, demo, tmp_path):
    held_out = ("--held-out", HELD_OUT)
    done = cli("evaluate", "--base", "demo", *held_out)
    assert done.returncode == 2 and "needs --broken" in done.stderr
    done = cli("evaluate", "--base", "demo", "--broken", "demo")
    assert done.returncode == 2 and "needs --held-out FILE" in done.stderr
    done = cli("evaluate", tmp_path, "--base", "demo", "--broken", "demo", *held_out)
    assert done.returncode == 2 and "not both" in done.stderr
    output = ("--output", tmp_path / "out")
    done = cli("evaluate", "--base", "demo", "--broken", "demo", *held_out, *output)
    assert done.returncode == 2 and "has the same weights as --base" in done.stderr
    smaller = tmp_path / "smaller"
    shutil.copytree(demo.path, smaller)
    weights = load_file(smaller / "model.safetensors")
    config = json.loads((smaller / "config.json").read_text("utf-8")) | {"num_hidden_layers": 29}
    (smaller / "config.json").write_text(json.dumps(config), "utf-8")
    save_file({n: w for n, w in weights.items() if ".29." not in n}, smaller / "model.safetensors", {"format": "pt"})
    done = cli("evaluate", "--base", "demo", "--broken", smaller, *held_out, *output)
    assert done.returncode == 2 and "is not a changed copy of --base" in done.stderr
    done = cli("evaluate", "--base", "demo", "--broken", smaller, *held_out, *output, "--attacks", "few_shot")
    assert done.returncode == 2 and "give --shots FILE" in done.stderr
