import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from cbgui.config import ObjectiveConfig, load_config, override
from cbgui.modeling.chat_format import encode, load_tokenizer
from cbgui.modeling.lora import add_lora
from cbgui.modeling.truncated import load_truncated_model
from cbgui.training.measure import Totals, micro_batch_losses
from cbgui.training.objectives import (
    coefficients,
    reroute_cosine,
    reroute_spread,
    retain_absolute,
    retain_huber,
    retain_relative,
)
from cbgui.training.reference_states import ReferenceStates


def test_losses_on_known_vectors():
    frozen = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    adapted = torch.tensor([[6.0, 8.0], [-1.0, 0.0], [2.0, 0.0]])
    example = torch.tensor([0, 0, 1])
    assert torch.allclose(reroute_cosine(adapted, frozen, example), torch.tensor([1.0, 0.0, 0.0]))
    assert torch.allclose(retain_absolute(adapted, frozen, example), torch.tensor([5.0, 2.0, 8**0.5]))
    assert torch.allclose(retain_relative(adapted, frozen, example), torch.tensor([1.0, 2.0, 2**0.5]))
    # Linear far away, squared below a relative distance of 0.1.
    assert torch.allclose(retain_huber(adapted, frozen, example), torch.tensor([1.0, 2.0, 2**0.5]) - 0.05)
    assert torch.allclose(retain_huber(frozen * 1.02, frozen, example), torch.full((3,), 0.02**2 / 0.2), atol=1e-5)


def test_spread_costs_a_collapsed_answer_and_not_an_orthogonal_one():
    frozen = torch.zeros(4, 8)
    frozen[:, 7] = 1.0
    collapsed = torch.zeros(4, 8)
    collapsed[:, 0] = 2.0
    orthogonal = torch.eye(4, 8) * 2
    one_answer, four_answers = torch.zeros(4, dtype=torch.long), torch.arange(4)
    assert reroute_cosine(collapsed, frozen, one_answer).sum() == 0
    assert torch.allclose(reroute_spread(collapsed, frozen, one_answer), torch.ones(4))
    assert reroute_spread(orthogonal, frozen, one_answer).sum() == 0
    assert reroute_spread(collapsed, frozen, four_answers).sum() == 0


def test_schedules():
    def at(schedule, step, steps):
        objective = ObjectiveConfig(schedule=schedule, reroute_coefficient=10, retain_coefficient=4)
        return coefficients(objective, step, steps)

    assert at("linear", 0, 10) == pytest.approx((9.5, 0.2))
    assert at("linear", 9, 10) == pytest.approx((5.0, 2.0))
    assert at("full", 0, 11) == (10, 0)
    assert at("full", 10, 11) == (0, 4)
    assert at("constant", 3, 10) == at("constant", 9, 10) == (10, 4)
    assert [at("rise", step, 11) for step in (0, 5, 10)] == [(10, 1), (10, 4), (10, 4)]
    assert [at("late", step, 11)[1] for step in (0, 5, 10)] == pytest.approx([0.16, 2.36, 4])
    assert at("late", 5, 11)[0] == 10


REFERENCE = Path(__file__).resolve().parents[1] / "measure" / "reference_rr.py"


@pytest.mark.skipif(not REFERENCE.exists(), reason="the bench of the workplace is not beside this checkout")
def test_published_form_equals_the_reference(demo, tmp_path):
    """Same weights, same two batches. The published retain mean runs over padding too, so it is this project's mean
    times (real retain tokens / padded retain tokens), which the test states by that factor."""
    spec = importlib.util.spec_from_file_location("reference_rr", REFERENCE)
    reference = importlib.util.module_from_spec(spec)
    sys.modules["reference_rr"] = reference
    spec.loader.exec_module(reference)

    settings = ["objective.target_layers=[10, 20]", "objective.retain=absolute", "objective.retain_layers=all"]
    settings += [
        "objective.read=residual",
        "objective.reroute=cosine",
        "lora.init_std=0",
        "lora.first_layer=0",
        "model.dtype=float32",
        "objective.schedule=linear",
    ]
    config = override(load_config("demo"), settings)
    tokenizer = load_tokenizer(demo)
    truncated = load_truncated_model(demo, config)
    add_lora(truncated, config.lora, seed=0)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in truncated.model.named_parameters():
        if "lora_B" in name:
            with torch.no_grad():  # away from the stationary point, where both losses would be trivial
                parameter.normal_(std=0.05, generator=generator)

    class Arguments:
        model, layers, qlora, drop_layers, torch_dtype = str(demo.path), [10, 20], False, True, torch.float32

    theirs = reference.load(Arguments, "cpu")
    ours = dict(truncated.model.named_parameters())
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            with torch.no_grad():
                parameter.copy_(ours[name.replace("base_model.model.model.", "base_model.model.", 1)])
    for module in theirs.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    from cbgui.config import PRESETS
    from cbgui.data.reading import read_examples
    from cbgui.modeling.chat_format import prompt_text

    breaks = read_examples(PRESETS / "demo" / "break.jsonl", "break")[:2]
    retains = read_examples(PRESETS / "demo" / "retain.jsonl", "retain")[:2]
    rows = [
        {"split": split, "prompt": prompt_text(tokenizer, e.chat()), "response": e.response}
        for split, examples in (("break", breaks), ("retain", retains))
        for e in examples
    ]
    pad = 384
    broken, retain = reference.encode(tokenizer, rows[:2], pad), reference.encode(tokenizer, rows[2:], pad)
    _, their_retain, their_break = reference.step_loss(theirs, retain, broken, [10, 20], 0.3)

    encoded = [encode(tokenizer, e, 4096) for e in (*breaks, *retains)]
    totals = Totals.of(encoded)
    reference_states = ReferenceStates(truncated, tokenizer.pad_token_id, tmp_path, budget=0)
    losses = micro_batch_losses(truncated, encoded, config, reference_states, totals)
    assert losses.reroute.item() == pytest.approx(their_break, rel=1e-4)
    assert losses.retain.item() * totals.retain / (2 * pad) == pytest.approx(their_retain, rel=1e-4)
    assert their_retain > 0 and their_break < 0.999
