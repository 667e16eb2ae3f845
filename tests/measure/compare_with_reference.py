"""Time and peak memory of a step, compared with the published pipeline on the same examples.

python tests/measure/compare_with_reference.py [--steps 4] [--batch 2] [--micro-batch 4]

64 + 64 examples with answers of 80 to 500 words, made from the demo's answers. Both programs train the published
objective on layers 10 and 20 with the published LoRA; cbgui does so in float32, and in the precision that it chooses on
this machine. cbgui sees the examples twice: first all of them are new, then their reference states are read from disk,
as in all later rounds. The published pipeline's steps are all alike, so `--steps` of them are enough.
Prints one line of JSON for each program.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
PUBLISHED = {
    "objective.target_layers": "[10, 20]",
    "objective.reroute": "cosine",
    "objective.retain": "absolute",
    "objective.retain_layers": "all",
    "objective.read": "residual",
    "objective.schedule": "linear",
    "lora.init_std": "0",
    "training.learning_rate": "1e-4",
    "training.optim": "adamw_torch",
    "model.quantization": "none",
}
PUBLISHED_STEPS = 150


def write_examples(path: Path, tokenizer) -> None:
    """JSON Lines as reference_rr.py reads them; always the same file."""
    from cbgui.config import PRESETS
    from cbgui.data.reading import read_examples
    from cbgui.modeling.chat_format import prompt_text

    generator = random.Random(0)
    rows = []
    for split in ("break", "retain"):
        examples = read_examples(PRESETS / "demo" / f"{split}.jsonl", split)
        words = " ".join(e.response for e in examples).split()
        for example in generator.sample(examples, 64):
            start, count = generator.randrange(len(words) - 500), generator.randint(80, 500)
            answer = " ".join(words[start : start + count])
            rows.append({"split": split, "prompt": prompt_text(tokenizer, example.chat()), "response": answer})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def ours(folder: str, data: str, batch: int, micro_batch: int, dtype: str) -> None:
    """cbgui's part; it runs in a separate process, so that its peak memory is its own."""
    from cbgui import hardware
    from cbgui.config import RunConfig, override
    from cbgui.modeling.batch import Encoded
    from cbgui.modeling.chat_format import load_tokenizer
    from cbgui.modeling.cpu import allocator
    from cbgui.modeling.hub import ModelSource
    from cbgui.modeling.lora import add_lora
    from cbgui.modeling.truncated import load_truncated_model
    from cbgui.runs.run import Run
    from cbgui.training.bench import matmul_rate, step_flops
    from cbgui.training.trainer import make_trainer

    rows = [json.loads(line) for line in Path(data).read_text("utf-8").splitlines()]
    sides = [[row for row in rows if row["split"] == split] for split in ("break", "retain")]
    once = len(sides[0]) // batch
    steps = 2 * once
    settings = [f"{key}={value}" for key, value in PUBLISHED.items()]
    settings += [f"training.steps={steps}", f"training.break_batch_size={batch}", f"training.retain_batch_size={batch}"]
    settings += [f"model.dtype={dtype}", "data.max_tokens=1024", "training.gradient_checkpointing=false"]
    settings += [f"training.micro_batch_size={micro_batch}"]
    allocator.keep_freed_memory()
    config = override(RunConfig(), settings)
    source = ModelSource(Path(folder), folder)
    tokenizer, truncated = load_tokenizer(source), load_truncated_model(source, config)
    add_lora(truncated, config.lora, 0)
    loaded = hardware.step_memory()

    def encoded(row: dict) -> Encoded:
        """Cut as reference_rr.py does: 512 + 512 tokens of a break example, 1,024 of a retain example."""
        prompt, response = (tokenizer(row[key], add_special_tokens=False).input_ids for key in ("prompt", "response"))
        if row["split"] == "break":
            prompt, response = prompt[:512], response[:512]
            return Encoded(tuple(prompt + response), len(prompt), True)
        return Encoded(tuple((prompt + response)[:1024]), 0, False)

    plan = [[encoded(r) for side in sides for r in side[s * batch : (s + 1) * batch]] for s in range(once)] * 2
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(Path(scratch))
        make_trainer(run, config, truncated, plan, [], tokenizer.pad_token_id).train()
        events = [event for event in run.events()[0] if event["kind"] == "step"]
    tokens = [[len(example.ids) for example in step] for step in plan]
    seconds = [event["seconds"] for event in events]
    rate = matmul_rate(truncated.model.dtype, 1024, 576, 1536)
    shares = [step_flops(truncated, lengths, s < once) / seconds[s] / rate for s, lengths in enumerate(tokens)]
    result = {
        "program": f"cbgui, {str(truncated.model.dtype).removeprefix('torch.')}",
        "tokens_per_step": round(statistics.mean(sum(lengths) for lengths in tokens)),
        "peak_mib": round(hardware.peak_memory() / 2**20),
        "loaded_mib": round(loaded / 2**20),
        "matmul_gflops": round(rate / 1e9),
    }
    for name, part in (("new_examples", slice(once)), ("seen_examples", slice(once, None))):
        result[f"s_per_step_{name}"] = round(statistics.median(seconds[part]), 2)
        result[f"share_of_matmul_rate_{name}"] = round(statistics.median(shares[part]), 2)
    new, seen = result["s_per_step_new_examples"], result["s_per_step_seen_examples"]
    result |= {
        "s_per_step_of_150": round((once * new + (PUBLISHED_STEPS - once) * seen) / PUBLISHED_STEPS, 2),
    }
    print(json.dumps(result), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument(
        "--micro-batch", type=int, help="examples at once in cbgui; by default a whole step, as cbgui chooses"
    )
    parser.add_argument("--ours", nargs=3, metavar=("FOLDER", "DATA", "DTYPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    micro_batch = arguments.micro_batch or 2 * arguments.batch
    if arguments.ours:
        folder, data, dtype = arguments.ours
        ours(folder, data, arguments.batch, micro_batch, dtype)
        return
    from cbgui import hardware
    from cbgui.modeling.chat_format import load_tokenizer
    from cbgui.modeling.cpu import allocator
    from cbgui.modeling.hub import resolve_model
    from cbgui.training.bench import machine

    source = resolve_model("demo")
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "examples.jsonl"
        write_examples(data, load_tokenizer(source))
        sizes = ["--steps", str(arguments.steps), "--batch", str(arguments.batch)]
        own_choice = str(hardware.fast_dtype()).removeprefix("torch.")
        for dtype in dict.fromkeys(("float32", own_choice)):
            own = [sys.executable, __file__, *sizes, "--micro-batch", str(micro_batch)]
            own += ["--ours", str(source.path), str(data), dtype]
            done = subprocess.run(
                own, capture_output=True, text=True, check=True, env=os.environ | allocator.environment_for_training()
            )
            print(done.stdout.strip().splitlines()[-1], flush=True)
        base = [
            sys.executable,
            str(Path(__file__).with_name("reference_rr.py")),
            "--model",
            str(source.path),
            "--data",
            str(data),
            *sizes,
        ]
        print(
            "reference_rr.py, float32", subprocess.run(base, capture_output=True, text=True, check=True).stdout.strip()
        )


if __name__ == "__main__":
    main()
