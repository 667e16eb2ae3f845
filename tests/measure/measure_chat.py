"""How long two answers take side by side, against one plain batch of two: python tests/measure/measure_chat.py RUN_DIR.

Prints JSON with the machine. Both run in the same thread, in turns. Run nothing else on the machine.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from cbgui import hardware  # noqa: E402
from cbgui.inference.chat import load_chat_model  # noqa: E402
from cbgui.inference.streaming import in_model_thread  # noqa: E402
from cbgui.modeling.chat_format import prompt_text  # noqa: E402
from cbgui.modeling.full import load_full_model  # noqa: E402
from cbgui.modeling.hub import resolve_model  # noqa: E402
from cbgui.runs.folder import open_run  # noqa: E402

TOKENS, ROUNDS = 100, 7
PROMPTS = ["Write a long story about a dog.", "Tell me about Paris, at length."]


def main(run_dir: str) -> None:
    run = open_run(Path(run_dir))
    config = run.config()
    chat = in_model_thread(load_chat_model, run)
    plain = in_model_thread(load_full_model, resolve_model(config.model.name), config.model)
    tokenizer = chat.tokenizer
    tokenizer.padding_side = "left"
    histories = [[{"role": "user", "content": text}] for text in PROMPTS]
    texts = [prompt_text(tokenizer, history) for history in histories]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(plain.device)

    def generate() -> int:
        with torch.inference_mode():
            output = plain.generate(
                **inputs, max_new_tokens=TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        return output.shape[1] - inputs["input_ids"].shape[1]

    times: dict[str, list[float]] = {"plain": [], "side by side": []}
    for _ in range(ROUNDS):
        started = time.perf_counter()
        tokens = in_model_thread(generate)
        times["plain"].append(time.perf_counter() - started)
        started = time.perf_counter()
        streamed = sum(1 for _ in chat.stream(*histories, max_new_tokens=TOKENS))
        times["side by side"].append(time.perf_counter() - started)
        assert tokens == streamed == TOKENS, (tokens, streamed)
    medians = {name: round(statistics.median(values), 2) for name, values in times.items()}
    ratio = round(medians["side by side"] / medians["plain"], 3)
    print(json.dumps({"machine": hardware.describe(), "seconds": medians, "ratio": ratio, "all": times}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
