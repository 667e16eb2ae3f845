"""Write the answers of the demo's examples with the demo model, greedily: python dev/write_demo_answers.py [--all]

By default only examples without an answer get one; --all writes every answer again.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cbgui.config import PRESETS, ModelConfig  # noqa: E402
from cbgui.inference.batch_answers import write_answers  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--model", default="demo", help="hub id or folder")
    parser.add_argument("--tokens", type=int, default=96)
    arguments = parser.parse_args()
    for path in sorted((PRESETS / "demo").glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        unanswered = [row for row in rows if arguments.all or not row.get("response")]
        prompts = [[{"role": "user", "content": row["prompt"]}] for row in unanswered]
        if not prompts:
            continue
        config = ModelConfig(name=arguments.model)
        for share, answers in write_answers(config, prompts, max_new_tokens=arguments.tokens):
            for index, answer in answers.items():
                unanswered[index]["response"] = answer
            print(f"\r{path.name}: {share:.0%}", end="", flush=True)
        print()
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main()
