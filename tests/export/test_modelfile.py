"""The Modelfile: the model's own chat template in Ollama's language, where answers end, and a context length."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from cbgui.config import ModelConfig
from cbgui.export.modelfile import MAX_CONTEXT, modelfile, read_pieces
from cbgui.modeling.chat_format import load_tokenizer, prompt_text
from cbgui.modeling.hub import ModelSource

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set system, turns = messages[0].content, messages[1:] %}"
    "{% else %}{% set system, turns = '', messages %}{% endif %}{% for m in turns %}"
    "{% set text = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m.content if loop.first and system else m.content %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + text + ' [/INST]' }}"
    "{% else %}{{ ' ' + text + ' ' + eos_token }}{% endif %}{% endfor %}"
)
THINKS = CHATML.replace(
    "assistant\n' }}{% endif %}",
    "assistant\n' }}{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
)
COUNTS = CHATML.replace("m.content +", "loop.index | string + m.content +")


@pytest.fixture
def tokenizer(demo) -> PreTrainedTokenizerBase:
    return load_tokenizer(ModelSource(demo.path, "demo"))


def conversation(system: str | None) -> list[dict[str, str]]:
    turns = [("user", "Hi there,\nyou."), ("assistant", "Yes?"), ("user", "{{ .System }} is text")]
    turns = [("system", system)] * (system is not None) + turns
    return [{"role": role, "content": text} for role, text in turns]


@pytest.mark.parametrize("template", [None, CHATML, LLAMA_2, THINKS])
def test_the_pieces_of_a_template_write_what_it_writes(tokenizer, template):
    tokenizer.chat_template = template or tokenizer.chat_template
    pieces = read_pieces(tokenizer)
    for messages in (conversation(None), conversation("Be brief."), conversation("Be brief.")[:2]):
        assert pieces.render(messages) == prompt_text(tokenizer, messages)
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        turns = [turn for turn in messages if turn["role"] != "system"]
        assert go(pieces.go_template(), system, turns) == prompt_text(tokenizer, messages)


def go(template: str, system: str, turns: list[dict[str, str]]) -> str:
    """What Go makes of the few actions that the template uses; checked once against Go's own text/template."""
    opened = '{{ range $i, $turn := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}{{ if eq .Role "user" }}'
    beginning, found, body = template.partition(opened)
    assert found and body.endswith("{{ end }}{{ end }}{{ end }}")
    user, answer = body.removesuffix("{{ end }}{{ end }}{{ end }}").split('{{ else if eq .Role "assistant" }}')
    if "{{ if .System }}" in beginning:
        with_system, without = beginning.removeprefix("{{ if .System }}").removesuffix("{{ end }}").split("{{ else }}")
        beginning = with_system.replace("{{ .System }}", system) if system else without
    at_end, between = user.removeprefix("{{ .Content }}{{ if $last }}").removesuffix("{{ end }}").split("{{ else }}")
    after_answer = answer.removeprefix("{{ .Content }}{{ if not $last }}")
    after = {"user": between, "assistant": after_answer}
    text = "".join(turn["content"] + after[turn["role"]] for turn in turns[:-1])
    return beginning + text + turns[-1]["content"] + at_end


def test_a_template_that_refuses_a_system_turn_is_written_without_one(tokenizer):
    tokenizer.chat_template = GEMMA
    assert "{{ .System }}" not in read_pieces(tokenizer).go_template()


def test_a_token_that_the_tokenizer_adds_is_not_written_twice(tokenizer, monkeypatch):
    tokenizer.chat_template = GEMMA
    assert read_pieces(tokenizer).before_user.startswith(tokenizer.bos_token)
    monkeypatch.setattr("cbgui.export.modelfile._adds_bos", lambda tokenizer: True)
    assert read_pieces(tokenizer).before_user == "<start_of_turn>user\n"


@pytest.mark.parametrize("template", [COUNTS, CHATML.replace("m.role +", "m.role + '{{ \"{{\" }}' +")])
def test_a_template_that_is_more_than_pieces_is_left_to_ollama(tokenizer, template):
    tokenizer.chat_template = template
    assert read_pieces(tokenizer) is None


def test_the_file_names_weights_template_stops_and_context(demo, tmp_path):
    folder = Path(shutil.copytree(demo.path, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors")))
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 0]}', "utf-8")
    text = modelfile(folder, ModelConfig(), "./model-q8_0.gguf")
    assert text.startswith('FROM ./model-q8_0.gguf\nTEMPLATE """{{ if .System }}<|im_start|>system\n')
    assert text.endswith(
        f'"""\nPARAMETER stop "<|im_end|>"\nPARAMETER stop "<|endoftext|>"\nPARAMETER num_ctx {MAX_CONTEXT}\n'
    )
    (folder / "chat_template.jinja").write_text(COUNTS, "utf-8")
    text = modelfile(folder, ModelConfig())
    assert text.startswith("FROM .\n# The chat template") and "TEMPLATE" not in text
