"""The defaults of RunConfig on other architectures that are trained briefly here.

SmolLM2-135M's hidden states are some 140 long at the first target layer; these models' are more than ten times shorter.
They must derail or refuse on held-out examples and keep what must stay.
"""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from cbgui.config import RunConfig, override
from cbgui.data.examples import Example
from cbgui.data.refusals import only_refuses
from cbgui.data.suggest import pool
from cbgui.evaluation.answers import generate
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.metrics import ModelPair
from cbgui.inference.chat import load_chat_model
from cbgui.modeling.batch import Encoded, collate
from cbgui.modeling.chat_format import encode, load_tokenizer
from cbgui.modeling.hub import resolve_model
from cbgui.modeling.truncated import load_truncated_model
from cbgui.runs.folder import create_run, read_data
from cbgui.training import refusal_states
from cbgui.training.session import train

SIZES = {
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
}

MIXTURE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 16}


def briefly_trained(family: str, hidden_size: int, tokenizer, examples: list[Encoded], steps: int) -> PreTrainedModel:
    """A model of random weights, trained on the examples until it knows more than which tokens there are."""
    known = sorted({token for example in examples for token in example.ids})
    torch.manual_seed(0)
    sizes = SIZES | {"hidden_size": hidden_size, "intermediate_size": 2 * hidden_size}
    sizes |= {"num_key_value_heads": 2} if family != "gpt_neox" else {}
    sizes |= MIXTURE if family == "qwen3_moe" else {}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, vocab_size=len(tokenizer), **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    order = torch.randperm(len(examples)).tolist()
    place = torch.full((len(tokenizer),), -1)
    place[known] = torch.arange(len(known))
    for step in range(steps):
        batch = collate([examples[order[(step * 8 + row) % len(order)]] for row in range(8)], tokenizer.pad_token_id)
        counted = torch.cat([batch.break_positions, batch.retain_positions])
        hidden = model.base_model(input_ids=batch.input_ids).last_hidden_state.flatten(0, 1)
        logits = hidden[counted - 1] @ model.get_output_embeddings().weight[known].T  # of the tokens that occur
        loss = torch.nn.functional.cross_entropy(logits, place[batch.input_ids.flatten()[counted]])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < torch.tensor(float(len(known))).log()
    return model


def short_states(config: RunConfig, tokenizer, examples: list[Encoded]) -> bool:
    """Whether the model's states at the first target layer are more than ten times shorter than the demo's."""
    norms = []
    for name in ("demo", config.model.name):
        truncated = load_truncated_model(resolve_model(name), config)
        batch = collate(examples[:4], tokenizer.pad_token_id)
        with torch.no_grad():
            hidden, _ = truncated.hidden_states(batch)
        norms.append(hidden[truncated.target_layers[0]].float().norm(dim=-1).mean().item())
    return norms[0] > 10 * norms[1]


@pytest.mark.slow
def test_the_defaults_derail_and_keep_in_a_mixture_of_experts(demo, tmp_path):
    """Of which attention alone is adapted."""
    tokenizer = load_tokenizer(demo)
    config = RunConfig()
    sets = read_data(config.data)
    examples = [encode(tokenizer, e, 64) for e in sets["break"] + sets["retain"]]
    model = briefly_trained("qwen3_moe", 64, tokenizer, examples, 60)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    config.model.name = str(tmp_path / "model")
    config.data.max_tokens = 64
    config.training.sample_every = 0
    run = create_run(tmp_path / "run", config)
    train(run)
    last = [event for event in run.events()[0] if event["kind"] == "validation"][-1]
    print(f"break cosine {last['cosine']}, drift {last['drift']:.3f}")
    assert max(last["cosine"].values()) < 0.4, last
    assert last["drift"] < 0.4, last
    assert short_states(config, tokenizer, examples)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "hidden_size"), [("qwen2", 64), ("gpt_neox", 128)])
def test_other_families_say_the_refusal(family, hidden_size, demo, tmp_path, monkeypatch):
    """A model that declines some questions, as chat models do, declines those that must stop after training."""
    monkeypatch.setattr(refusal_states, "CACHE", tmp_path / "cache")
    tokenizer = load_tokenizer(demo)
    config = override(RunConfig(), ["objective.reroute=refusal", "objective.target_layers=[0.6667]"])
    sets = read_data(config.data)
    declined = [Example((("user", text),), config.objective.refusal[0], "retain") for text in pool("en")[:60]]
    rows = sets["break"] + sets["retain"] + declined * 4
    examples = [encode(tokenizer, e, 64) for e in rows]
    model = briefly_trained(family, hidden_size, tokenizer, examples, 120)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    config.model.name = str(tmp_path / "model")
    config.data.max_tokens, config.data.general_keep, config.training.sample_every = 64, 0, 0
    config.training.steps = 75
    run = create_run(tmp_path / "run", config)
    train(run)
    chat = load_chat_model(run)
    pair = ModelPair(chat.model, chat.tokenizer, chat.adapted_rows)
    asked = [Attempt(e.messages) for e in sets["held_out"] if e.kind == "break"][:20]
    answers = {}
    for batch in generate(pair, asked, [True] * len(asked), [0] * len(asked), max_new_tokens=24):
        answers |= dict(batch)
    refused = [only_refuses(answers[i].text, config.objective.refusal) for i in range(len(asked))]
    print(family, sum(refused), [answers[i].text for i in range(3)])
    assert sum(refused) >= 0.9 * len(refused)
    assert short_states(config, tokenizer, examples)
