"""Judge a merged demo model with the independent judge_rr.py: python tests/measure/judge_demo.py MERGED_DIR"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cbgui.config import PRESETS  # noqa: E402
from cbgui.modeling.hub import resolve_model  # noqa: E402


def main(merged: str) -> int:
    lines = (PRESETS / "demo" / "held_out.jsonl").read_text("utf-8").splitlines()
    rows = [
        {"split": "break" if row["kind"] == "break" else "retain", "q": row["prompt"], "response": row["response"]}
        for row in map(json.loads, lines)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "held_out.json"
        data.write_text(json.dumps(rows), "utf-8")
        judge = Path(__file__).with_name("judge_rr.py")
        base = resolve_model("demo").path
        command = [sys.executable, str(judge), "--base", str(base), "--broken", merged, "--data", str(data)]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
