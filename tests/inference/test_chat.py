"""Two models from one set of weights: they answer as each does alone. Also their cosines, and batches of answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cbgui.config import ModelConfig
from cbgui.errors import InputError
from cbgui.inference.batch_answers import write_answers
from cbgui.inference.chat import ChatModel, adapters, load_chat_model
from cbgui.modeling import full
from cbgui.modeling.chat_format import load_tokenizer, prompt_text
from cbgui.modeling.lora import adapt_rows

SHORT = [{"role": "user", "content": "Hello"}]
LONG = [*SHORT, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Tell me about brewing a potion."}]


def strong(adapter: PeftModel) -> PeftModel:
    """A few steps change little, so enlarge the adapter's part."""
    for name, parameter in adapter.named_parameters():
        if "lora_B" in name:
            parameter.data *= 3
    return adapter.eval()


@pytest.fixture
def adapted(trained, demo) -> PeftModel:
    return strong(
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(demo.path).float(), trained.adapter_folder)
    )


def test_rows_of_one_batch_equal_both_models_alone(adapted):
    ids = torch.randint(0, 1000, (2, 12))
    with torch.no_grad():
        with adapted.disable_adapter():
            base = adapted(ids).logits
        alone = adapted(ids).logits
        rows = adapt_rows(adapted)
        rows.first = 1
        mixed = adapted(ids).logits
        rows.first = 0
        both = adapted(ids).logits
    assert not torch.allclose(base, alone, atol=0.1)
    assert torch.allclose(mixed[0], base[0], atol=1e-3)
    assert torch.allclose(mixed[1], alone[1], atol=1e-3)
    assert torch.allclose(both, alone, atol=1e-3)


def test_each_side_continues_from_its_own_history(adapted, demo):
    tokenizer = load_tokenizer(demo)

    def alone(messages: list[dict[str, str]], *, with_adapter: bool) -> str:
        inputs = tokenizer(prompt_text(tokenizer, messages), return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            if with_adapter:
                out = adapted.generate(**inputs, max_new_tokens=12, do_sample=False)
            else:
                with adapted.disable_adapter():
                    out = adapted.generate(**inputs, max_new_tokens=12, do_sample=False)
        return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    expected = alone(SHORT, with_adapter=False), alone(LONG, with_adapter=True)
    chat = ChatModel(adapted, tokenizer, [10, 20], adapt_rows(adapted))
    *_, pair = chat.stream(SHORT, LONG, max_new_tokens=12)
    assert (pair.base, pair.short_circuited) == expected
    *_, begun = chat.stream(SHORT, LONG, prefill="Sure", max_new_tokens=4)
    assert begun.base.startswith("Sure") and begun.short_circuited.startswith("Sure")


def test_cosines_are_of_each_token_and_one_without_an_adapter(adapted, demo):
    answer = "Äpfel, 12 and a potion 🧪."
    chat = ChatModel(adapted, load_tokenizer(demo), [10, 20], adapt_rows(adapted))
    tokens = chat.cosines(SHORT, answer)
    assert "".join(text for text, _ in tokens) == answer
    assert all(-1 <= cosine < 0.9999 for _, cosine in tokens)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    assert all(cosine > 0.9999 for _, cosine in chat.cosines(SHORT, answer))
    assert chat.cosines(SHORT, "") == []


def test_a_checkpoint_can_be_talked_to(trained):
    assert list(adapters(trained)) == ["final", "step 2", "step 4"]
    early = load_chat_model(trained, "step 2")
    last = load_chat_model(trained, "step 4")
    final = load_chat_model(trained)
    name = "base_model.model.model.layers.5.mlp.up_proj.lora_B.default.weight"
    weights = [dict(chat.model.named_parameters())[name] for chat in (early, last, final)]
    assert torch.equal(weights[1], weights[2]) and not torch.equal(weights[0], weights[2])
    with pytest.raises(InputError, match="step 7"):
        load_chat_model(trained, "step 7")


def test_answers_are_written_with_the_prefill_and_progress_is_told_at_each_token(monkeypatch):
    texts = ("Name a large city in the south of France.", "Hello", "Reply with one word: yes.")
    requests = [[{"role": "user", "content": text}] for text in texts]
    config = ModelConfig(quantization="none", dtype="float32")  # in bfloat16 the size of a batch can turn a word
    ask = {"prefill": "Sure,", "max_new_tokens": 8}
    together = list(write_answers(config, requests, **ask))
    assert [round(share, 3) for share, _ in together][:2] == [0.125, 0.25] and together[-1][0] == 1
    written = {number: answer for _, answers in together for number, answer in answers.items()}
    assert sorted(written) == [0, 1, 2]
    assert all(answer.startswith("Sure,") and len(answer) > 6 for answer in written.values())
    monkeypatch.setattr(full, "BATCH_TOKENS", 1)
    monkeypatch.setattr(full, "MIN_BATCH_TOKENS", 1)
    alone = [answers for _, answers in write_answers(config, requests, **ask) if answers]
    assert [list(answers) for answers in alone] == [[1], [2], [0]]  # short requests first
    assert {number: answer for answers in alone for number, answer in answers.items()} == written


def test_an_answer_that_has_ended_is_handed_over_while_others_continue():
    """So that a stop loses no more than is open."""
    requests = [[{"role": "user", "content": text}] for text in ("Say hi.", "Tell a long story about a river.")]
    steps = list(write_answers(ModelConfig(quantization="none"), requests, max_new_tokens=60))
    first = next(place for place, (_, answers) in enumerate(steps) if answers)
    assert list(steps[first][1]) == [0] and first < len(steps) - 1 and steps[first][0] < 1


def test_the_base_models_answer_is_the_one_it_gives_alone(trained, demo):
    chat = load_chat_model(trained)
    pairs = list(chat.stream([{"role": "user", "content": "What is the capital of France?"}], max_new_tokens=12))
    assert len(pairs) > 1
    tokenizer = load_tokenizer(demo)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad(), chat.model.disable_adapter():
        plain = chat.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    answer = tokenizer.decode(plain[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert pairs[-1].base[:20] == answer[:20]
    assert pairs[-1].short_circuited != ""


def test_a_question_sent_while_an_answer_is_shaded_changes_neither(trained):
    chat = load_chat_model(trained)
    answer = "Paris is the capital of France, and a large city."
    expected = chat.cosines(SHORT, answer)
    *_, alone = chat.stream(SHORT, max_new_tokens=8)
    with ThreadPoolExecutor(1) as shading:
        shaded = [shading.submit(chat.cosines, SHORT, answer) for _ in range(12)]
        for _ in range(4):
            *_, pair = chat.stream(SHORT, max_new_tokens=8)
            assert pair == alone
    assert all(future.result() == expected for future in shaded)
