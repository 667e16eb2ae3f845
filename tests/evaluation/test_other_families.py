"""Answers, costs, chat and cosines of families whose layers or caches are not those of Llama."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import LAYERS, tiny_model

from cbgui.data.examples import Example
from cbgui.evaluation.answers import generate
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.metrics import ModelPair
from cbgui.evaluation.undoing import ablation
from cbgui.inference.chat import ChatModel
from cbgui.inference.prompt_states import prompt_states
from cbgui.modeling.chat_format import load_tokenizer
from cbgui.modeling.decoder import adapted_modules, decoder_prefix, text_decoder
from cbgui.modeling.lora import adapt_rows

# Transposed weights; no cache; only Mamba; skipped layers; several states a token; padding that would be read as text.
FAMILIES = [
    "gpt2",
    "openai-gpt",
    "mamba",
    "mllama",
    "gemma3n_text",
    "zamba2",
    "recurrent_gemma",
    "xlstm",
    "deepseek_v4",
]
START = (("user", "Hello there, I have some questions."), ("assistant", "Go on, I am listening."))
ASKED = ["What is rain?", "Name three rivers that flow through large cities in Europe.", "Why?"]


@pytest.mark.parametrize("family", FAMILIES)
def test_both_models_answer_as_each_does_alone(family, demo):
    tokenizer = load_tokenizer(demo)
    full = tiny_model(family, len(tokenizer))
    full.generation_config.eos_token_id = None
    prefix = decoder_prefix(full)
    names = [f"{prefix}.{name}" for name in adapted_modules(text_decoder(full))]
    model = get_peft_model(full, LoraConfig(r=4, target_modules=names, init_lora_weights=False)).eval()
    rows = adapt_rows(model)
    pair = ModelPair(model, tokenizer, rows)
    attempts = [Attempt((*START, ("user", text))) for text in ASKED]
    both, adapted = [*attempts, *attempts], [False] * 3 + [True] * 3
    together = dict(row for batch in generate(pair, both, adapted, [0] * 6, max_new_tokens=4) for row in batch)
    rows.first, answers = 0, {False: [], True: []}
    for row, attempt in enumerate(both):
        ids = torch.tensor([pair.prompt_ids(attempt)])
        with pair.using(adapted[row]):
            alone = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False, pad_token_id=0, use_cache=True)
        assert tokenizer.decode(alone[0, ids.shape[1] :], skip_special_tokens=True) == together[row].text
        answers[adapted[row]].append(together[row])
    for of_adapted, written in answers.items():
        read = pair.base_nats(attempts, written)
        assert all(math.isfinite(cost) for cost in read)
        if not of_adapted or pair.plain_cache:  # otherwise the costs of writing are not known
            assert read == pytest.approx([answer.nats for answer in written], rel=1e-3)

    examples = [Example(attempt.messages, "It is water.", "break") for attempt in attempts]
    assert len(pair.cosine_by_layer(examples)) == LAYERS
    directions = ablation.directions(pair, examples[:1], examples[1:])
    with ablation.ablated(pair, list(directions), inside=True), torch.no_grad():
        assert model(input_ids=torch.tensor([[5, 6, 7]])).logits.isfinite().all()

    chat = ChatModel(model, tokenizer, [2, 3], rows)
    history = [{"role": "user", "content": ASKED[0]}]
    longer = [*history, {"role": "assistant", "content": "Water."}, {"role": "user", "content": ASKED[1]}]
    *_, last = chat.stream(longer, history, max_new_tokens=4)
    assert last.base == [*chat.stream(longer, max_new_tokens=4)][-1].base
    assert last.short_circuited == [*chat.stream(history, max_new_tokens=4)][-1].short_circuited
    assert len(chat.cosines(history, "It is water.")) > 2
    assert prompt_states(full, tokenizer, ASKED).isfinite().all()
