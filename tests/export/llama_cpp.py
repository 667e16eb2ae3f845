"""A GGUF in real llama.cpp, through the wheel xllamacpp: its server, asked as a user's programs ask it."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xllamacpp

AT_ONCE = 4  # questions that share a pass over the weights
CONTEXT = 256  # tokens of each


class LlamaCpp:
    """llama.cpp with one model. Questions are answered greedily."""

    def __init__(self, path: Path) -> None:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx, parameters.n_parallel = CONTEXT * AT_ONCE, AT_ONCE
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
        parameters.warmup = False
        self.server = xllamacpp.Server(parameters)

    def answers(self, prompts: list[str], tokens: int) -> list[str]:
        """The answers of at most so many tokens, through the chat template in the file."""

        def ask(prompt: str) -> str:
            request = {"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "temperature": 0}
            return self.server.handle_chat_completions(request)["choices"][0]["message"]["content"]

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(ask, prompts))

    def prompt_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation through the chat template in the file, ready for the answer."""
        text = self._post("/apply-template", {"messages": messages})["prompt"]
        return self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]

    def _post(self, path: str, request: dict) -> dict:
        body = json.dumps(request).encode()
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(self.server.listening_address + path, body, headers)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.load(answer)
