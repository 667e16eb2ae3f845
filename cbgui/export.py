"""Adapter + the base model's original shards -> merged safetensors, tensor by tensor, without the model in memory."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open

from cbgui.config import InputError, ModelConfig, parse_size
from cbgui.data.batches import prompt_text
from cbgui.models import ModelSource, load_full_model, load_tokenizer, load_with_adapter, resolve_model
from cbgui.runs import Run, write_whole

Progress = Callable[[float, str], None]  # share done, words
NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # safetensors' dtype names
CHUNK = 16 * 2**20


def adapter_deltas(adapter: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """Weight name in the base model -> (A, B, scale); the weight's change is scale * B @ A."""
    settings = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    scale = settings["lora_alpha"] / settings["r"]
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            name, matrix = re.fullmatch(r"base_model\.model\.(.+)\.lora_(A|B)\.weight", key).groups()
            pairs.setdefault(f"{name}.weight", {})[matrix] = file.get_tensor(key)
    return {name: (pair["A"], pair["B"], scale) for name, pair in pairs.items()}


def _shards(source: ModelSource) -> list[Path]:
    index = source.path / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        return [source.path / name for name in names]
    return sorted(source.path.glob("*.safetensors"))


def _tensor_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _write_shard(
    path: Path, tensors: list[tuple[str, Path]], merged: Callable[[str, torch.Tensor], torch.Tensor]
) -> str:
    """Stream tensors to one safetensors file (8-byte header length, JSON header, raw data); returns its SHA-256."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, origin in tensors:
        with safe_open(origin, "pt") as file:
            view = file.get_slice(name)
            dtype, shape = view.get_dtype(), view.get_shape()
        width = {"BOOL": 8, "BF16": 16}.get(dtype) or int(re.search(r"\d+", dtype)[0])
        size = math.prod(shape) * width // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as out:
        for block in (len(text).to_bytes(8, "little"), text):
            out.write(block)
            digest.update(block)
        for name, origin in tensors:
            with safe_open(origin, "pt") as file:
                block = _tensor_bytes(merged(name, file.get_tensor(name)))
            out.write(block)
            digest.update(block)
    return digest.hexdigest()


def _plan(shards: list[Path], max_shard_size: int | None) -> Iterator[list[tuple[str, Path]]]:
    """Which tensors go into which output file; without a limit the original sharding is kept."""
    if max_shard_size is None:
        for shard in shards:
            with safe_open(shard, "pt") as file:
                yield [(name, shard) for name in file.keys()]  # noqa: SIM118
        return
    current, size = [], 0
    for shard in shards:
        with safe_open(shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                view = file.get_slice(name)
                width = {"BOOL": 8, "BF16": 16}.get(view.get_dtype()) or int(re.search(r"\d+", view.get_dtype())[0])
                nbytes = math.prod(view.get_shape()) * width // 8
                if current and size + nbytes > max_shard_size:
                    yield current
                    current, size = [], 0
                current.append((name, shard))
                size += nbytes
    yield current


def export_run(run: Run, output: Path, *, max_shard_size: str | None = None, progress: Progress | None = None) -> float:
    """Merge `run`'s adapter into its base model at `output` and verify it.

    Returns the largest absolute difference of the log-probabilities between merged and base + adapter. Files are
    written to a ".part" folder that is renamed when all of it is there and verified. Raises InputError.
    """
    progress = progress or (lambda share, words: None)
    limit = parse_size(max_shard_size, "--max-shard-size") if max_shard_size else None
    run.need_adapter()
    if output.exists():
        raise InputError(f"--output {str(output)!r} exists already; choose another folder.")
    config = run.config()
    source = resolve_model(config.model.name)
    shards = _shards(source)
    needed = sum(shard.stat().st_size for shard in shards)
    output.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(output.parent).free < needed * 1.02:
        raise InputError(f"--output {str(output)!r}: {needed / 1e9:.1f} GB are needed there; free some space.")
    part = output.with_name(output.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()

    deltas = adapter_deltas(run.adapter)
    unused = set(deltas)

    def merged(name: str, weight: torch.Tensor) -> torch.Tensor:
        if name not in deltas:
            return weight
        unused.discard(name)
        a, b, scale = deltas[name]
        return (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)

    plan = list(_plan(shards, limit))
    sums, weight_map = {}, {}
    for number, tensors in enumerate(plan, 1):
        name = "model.safetensors" if len(plan) == 1 else f"model-{number:05d}-of-{len(plan):05d}.safetensors"
        progress(0.8 * (number - 1) / len(plan), f"Merging file {number} of {len(plan)}")
        sums[name] = _write_shard(part / name, tensors, merged)
        weight_map |= {tensor: name for tensor, _ in tensors}
    if unused:
        raise InputError(f"run {run.name!r}: the adapter names {sorted(unused)[0]!r}, which the base model lacks.")
    if len(plan) > 1:
        index = {"metadata": {"total_size": needed}, "weight_map": weight_map}
        (part / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), "utf-8")
    for path in source.path.iterdir():
        companion = (
            path.suffix in (".json", ".jinja") or path.name == "tokenizer.model" or path.name.startswith("LICENSE")
        )
        if path.is_file() and companion and path.name != "model.safetensors.index.json":
            shutil.copyfile(path, part / path.name)
    progress(0.8, "Comparing the merged model with base + adapter")
    difference = verify(run, source, part)
    (part / "README.md").write_text(model_card(run, source), "utf-8")
    write_whole(part / "SHA256SUMS", "".join(f"{value}  {name}\n" for name, value in sums.items()))
    part.rename(output)
    progress(1.0, "Done")
    return difference


@torch.no_grad()
def verify(run: Run, source: ModelSource, merged: Path) -> float:
    """Largest difference of next-token probabilities between merged and base + adapter, over a few keep examples, both
    computed in float32. Break examples do not serve: a derailed model answers rounding with quite another word.

    Raises InputError when the difference is more than the stored dtype's rounding explains.
    """
    full_precision = ModelConfig(name=run.config().model.name, dtype="float32")
    tokenizer = load_tokenizer(source)
    kept = [e for e in run.examples("held_out") + run.examples("retain") if e.kind != "break"]
    examples = kept[:2] + kept[-2:]
    rows = []
    for example in examples:
        text = prompt_text(tokenizer, example.chat()) + example.response
        rows.append(tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[:, :256])

    def probabilities(model: torch.nn.Module) -> list[torch.Tensor]:
        return [F.softmax(model(input_ids=ids.to(model.device)).logits[0].float(), -1).cpu() for ids in rows]

    adapted = probabilities(load_with_adapter(source, full_precision, run.adapter))
    gc.collect()
    stored = probabilities(load_full_model(ModelSource(merged, merged.name), full_precision))
    difference = max((a - b).abs().max().item() for a, b in zip(adapted, stored, strict=True))
    mean = max((a - b).abs().sum(-1).mean().item() / 2 for a, b in zip(adapted, stored, strict=True))
    if not mean < 0.05:  # total variation; not (<) so that NaN fails too
        raise InputError(
            f"run {run.name!r}: the merged model differs from base + adapter (mean total variation {mean:.3f}); "
            "the export was not kept. Export again; if it stays, train with a smaller learning rate."
        )
    return difference


def model_card(run: Run, source: ModelSource) -> str:
    """A short card; what it says is read from the run."""
    config = run.config()
    base = "HuggingFaceTB/SmolLM2-135M-Instruct" if config.model.name == "demo" else source.label
    counts = {name: len(run.examples(name)) for name in ("break", "retain")}
    lines = [
        "---",
        "library_name: transformers",
        f"base_model: {json.dumps(base)}",
        "tags: [circuit-breaker, representation-rerouting]",
        "---",
        "",
        f"# {base.rsplit('/', 1)[-1]}, short-circuited",
        "",
        f"{source.label}, with a circuit breaker merged into its weights by representation rerouting "
        "(Zou et al. 2024, arXiv 2406.04313), made with cbgui.",
        "",
        f"Trained on {counts['break']} break and {counts['retain']} retain examples, {config.training.steps} steps. "
        "It loads like any transformers model; nothing is added at inference.",
        "",
        "A circuit breaker derails answers; it does not refuse politely, and it is not known to stop attacks that "
        "optimise input embeddings against it, nor fine-tuning it away.",
        "",
    ]
    return "\n".join(lines)
