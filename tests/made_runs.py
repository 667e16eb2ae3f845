"""Runs whose files are written by hand, for tests that need no training."""

from __future__ import annotations

import json
from pathlib import Path

from cbgui.config import RunConfig
from cbgui.runs.run import Run

EMPTY_WEIGHTS = b"\x02\0\0\0\0\0\0\0{}"  # a safetensors file without tensors
RATE = {"rate": 0.25, "count": 1, "of": 4, "low": 0.05, "high": 0.7}
RATES = {"answered": RATE, "derailed": RATE, "refused": RATE}
REPORT = {
    "created": "2026-11-28 12:00:00 +0000",
    "settings": {"training": {"steps": 4}},
    "max_new_tokens": 16,
    "held_out": {"break": 4, "retain": 4},
    "attacks": [{"name": "direct", "title": "Asked directly", "base": RATES, "short_circuited": RATES}],
    "retain": {name: RATE for name in ("falsely_derailed", "base_falsely_derailed", "refused", "base_refused")}
    | {"kl": 0.01, "top1": 0.9, "perplexity_ratio": 1.1, "kinds": {}},
    "worst_break": [],
    "worst_retain": [],
    "verdict": {"name": "good", "words": "It works.", "advice": []},
}


def step_event(step: int, steps: int) -> dict:
    return {
        "time": 1.7e9 + step,
        "kind": "step",
        "step": step,
        "steps": steps,
        "reroute_loss": 1 / step,
        "retain_loss": 0.1,
        "cosine": {"10": 0.5, "20": 0.4},
        "coefficients": {"reroute": 10.0, "retain": 2.0},
        "learning_rate": 1e-3,
        "tokens_per_second": 100.0,
        "memory_bytes": 2**30,
        "seconds": 2.0,
        "trained_seconds": 2.0 * step,
    }


def validation_event(step: int) -> dict:
    kept = ("time", "step", "reroute_loss", "retain_loss", "cosine")
    return {"kind": "validation", "drift": 0.1, **{key: step_event(step, step)[key] for key in kept}}


def finished_run(path: Path, steps: int = 4) -> Run:
    """A run that is done, evaluated and merged as far as its files say."""
    run = Run(path)
    run.data_file("break").parent.mkdir(parents=True)
    for part in ("break", "retain", "held_out"):
        rows = [{"prompt": f"{part} {n}?", "response": "So."} for n in range(3)]
        run.data_file(part).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    run.dataset_name_file.write_text("potions", "utf-8")
    run.write_config(RunConfig())
    events = [event for step in range(1, steps + 1) for event in (step_event(step, steps), validation_event(step))]
    sample = {"prompt": "How?", "kind": "break", "base": "So.", "short_circuited": "Blue."}
    events.append({"time": 1.8e9, "kind": "samples", "step": steps, "answers": [sample]})
    events.append({"time": 1.8e9, "kind": "status", "state": "done", "text": "Done"})
    run.events_file.write_text("".join(json.dumps(event) + "\n" for event in events), "utf-8")
    run.ask("run")
    for folder in (run.adapter_folder, run.checkpoint(4)):
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(EMPTY_WEIGHTS)
        (folder / "adapter_config.json").write_text('{"r": 16, "lora_alpha": 16, "target_modules": []}', "utf-8")
    for name in ("optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth"):
        (run.checkpoint(4) / name).write_text("x", "utf-8")
    run.mark_complete(4)
    run.report_folder.mkdir()
    run.report_file.write_text(json.dumps(REPORT | {"adapter_sha256": run.adapter_hash()}), "utf-8")
    run.report_page.write_text("<p>It works.</p>", "utf-8")
    run.merged_folder.mkdir()
    (run.merged_folder / "cbgui.json").write_text(json.dumps({"adapter_sha256": run.adapter_hash()}), "utf-8")
    (run.merged_folder / "model.safetensors").write_bytes(EMPTY_WEIGHTS)
    run.log_file.write_text("Starting\n", "utf-8")
    return run
