"""Merge an adapter into the base model's safetensors, tensor by tensor, without loading the model into memory."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import AutoConfig

from cbgui import hardware
from cbgui.errors import InputError, is_disk_full
from cbgui.export.model_card import CARD, write_card
from cbgui.export.modelfile import MODELFILE, modelfile
from cbgui.export.older_readers import suit_older_readers
from cbgui.export.verify import verify
from cbgui.modeling.adapter_io import adapter_deltas
from cbgui.modeling.decoder import empty_model
from cbgui.modeling.hub import WEIGHTS, WEIGHTS_INDEX, ModelSource, is_companion, resolve_model, weight_files
from cbgui.modeling.quantized import FP8, stored_form
from cbgui.modeling.stored import StoredWeights
from cbgui.parsing import parse_size
from cbgui.runs.disk import PART, move, write_whole
from cbgui.runs.run import MERGED_FROM, Run

Progress = Callable[[float, str], None]  # share done, words
PROGRESS_SECONDS = 0.5  # between two reports of progress
SUMS = "SHA256SUMS"
OLD = ".old"  # ending of a merged model that is being replaced
DISK_FACTOR = 1.02  # disk space needed, times the size of the weights


def _bytes(dtype: str, shape: list[int]) -> int:
    """Bytes of a tensor in a safetensors file."""
    width = {"BOOL": 8, "BF16": 16}.get(dtype) or int(re.search(r"\d+", dtype)[0])
    return math.prod(shape) * width // 8


def _write_shard(
    path: Path, stored: StoredWeights, names: list[str], merged: Callable[[str, torch.Tensor], torch.Tensor]
) -> int:
    """Write stored weights to one safetensors file, with `merged` applied to each. Returns their bytes.

    The format (https://huggingface.co/docs/safetensors): 8 bytes of header length, a JSON header, raw data.
    """
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        dtype, shape = stored.form(name)
        size = _bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for name in names:
            tensor = merged(name, stored.read(name))
            if header[name]["dtype"] == "BF16":
                tensor = tensor.bfloat16()
            out.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)  # as a view, without a copy
    return offset


def _plan(stored: StoredWeights, shards: list[Path], max_shard_size: int | None) -> Iterator[list[str]]:
    """The names of the weights of each output file. Without a limit, the files are those of the base model."""
    if max_shard_size is None:
        yield from map(stored.in_file, shards)
        return
    current, size = [], 0
    for shard in shards:
        for name in stored.in_file(shard):
            nbytes = _bytes(*stored.form(name))
            if current and size + nbytes > max_shard_size:
                yield current
                current, size = [], 0
            current.append(name)
            size += nbytes
    yield current


def export_run(
    run: Run,
    output: Path,
    *,
    max_shard_size: str | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> float:
    """Merge the adapter of `run` into its base model, verify the result and write it to the folder `output`.

    Returns the largest absolute difference of any next token's probability between the merged model and base + adapter.
    `output` appears only when it is complete and verified; until then the files are in a folder that ends in PART. With
    `replace`, an earlier merged model there stays until then. Raises InputError.
    """
    progress = progress or (lambda share, words: None)
    limit = parse_size(max_shard_size, "--max-shard-size") if max_shard_size else None
    run.need_adapter()
    part, old = (output.with_name(output.name + ending) for ending in (PART, OLD + PART))
    if old.exists() and not output.exists():  # killed between the two renames of `_put_in_place`
        move(old, output)
    ours = (output / MERGED_FROM).is_file() or output.resolve() == run.merged_folder.resolve()
    if output.exists() and not (replace and ours):
        remedy = "choose another folder" if replace else "choose another folder, or pass --replace"
        raise InputError(f"--output {str(output)!r} exists already; {remedy}.")
    config = run.config()
    source = resolve_model(config.model.name, version=config.model.version)
    shards = weight_files(source.path)
    needed = sum(shard.stat().st_size for shard in shards) * (1 + _is_fp8(source))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {str(output)!r} cannot be written ({error.strerror}); choose another.") from None
    if shutil.disk_usage(output.parent).free < needed * DISK_FACTOR:
        raise InputError(f"--output {str(output)!r}: needs {needed / 1e9:.1f} GB of disk space; free some.")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        adapter = run.adapter_hash()
        merge_weights(source, run.adapter_folder, part, max_shard_size=limit, progress=progress)
        difference = verify(run, source, part, lambda words: progress(0.85, words))
        hardware.free_cached_memory()  # a folder whose files are mapped cannot be renamed on Windows
        write_card(run, source, part)
        (part / MODELFILE).write_text(modelfile(part, config.model), "utf-8")
        write_whole(part / MERGED_FROM, json.dumps({"adapter_sha256": adapter}))
        progress(0.95, "Computing the files' checksums")
        write_whole(part / SUMS, _sums(part))
        _put_in_place(part, output, old)
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise InputError(
            f"--output {str(output)!r}: the disk is full; free {needed / 1e9:.1f} GB and export again."
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    progress(1.0, "Done")
    return difference


def renew_card(run: Run) -> bool:
    """Write the card of the run's merged model anew, after an evaluation; False when it has none of this adapter."""
    if not run.is_merged():
        return False
    folder = run.merged_folder
    write_card(run, resolve_model(run.config().model.name, weights=False), folder)
    sums = folder / SUMS
    if sums.is_file():
        lines = {line.partition("  ")[2]: line for line in sums.read_text("utf-8").splitlines()}
        lines[CARD] = _sum(folder / CARD)
        write_whole(sums, "".join(f"{lines[name]}\n" for name in sorted(lines)))
    return True


def _is_fp8(source: ModelSource) -> bool:
    """Whether the base model is stored in FP8, so that the merged one is written in bfloat16, twice as large."""
    return stored_form(AutoConfig.from_pretrained(source.path, trust_remote_code=False)) == FP8


def _put_in_place(part: Path, output: Path, old: Path) -> None:
    """Rename the finished folder; what it replaces is deleted only then."""
    if output.exists():
        shutil.rmtree(old, ignore_errors=True)
        move(output, old)
    move(part, output)
    shutil.rmtree(old, ignore_errors=True)


def merge_weights(
    source: ModelSource,
    adapter: Path,
    folder: Path,
    *,
    max_shard_size: int | None = None,
    progress: Progress = lambda share, words: None,
) -> None:
    """Write the merged weights, their index, and copies of the configuration, tokenizer and licence files to `folder`.

    Raises InputError when the adapter is not one of this base model.
    """
    folder.mkdir(exist_ok=True)
    shards = weight_files(source.path)
    form = empty_model(AutoConfig.from_pretrained(source.path, trust_remote_code=False))
    stored, changes = StoredWeights(form, shards), adapter_deltas(adapter, form)
    plan = list(_plan(stored, shards, max_shard_size))
    if unknown := sorted(set(changes) - set(stored)):
        raise InputError(
            f"model {source.label!r}: the adapter changes {unknown[0]!r}, which this base model does not have, "
            "so the run was trained on another model; train again."
        )
    sources: dict[str, list[str]] = {}  # stored tensor -> the adapted parameters that it is part of
    for name in changes:
        for tensor in stored.stored_names(name):
            sources.setdefault(tensor, []).append(name)
    seen, reported = 0, 0.0
    count = sum(map(len, plan))

    def merged(name: str, weight: torch.Tensor) -> torch.Tensor:
        nonlocal seen, reported
        seen += 1
        if time.monotonic() - reported > PROGRESS_SECONDS:
            reported = time.monotonic()
            progress(0.8 * seen / count, f"Merging tensor {seen} of {count}")
        for parameter in sources.get(name, []):
            a, b, scale = changes[parameter]
            if stored.stored_name(parameter) is not None:
                weight = weight.float().addmm_(b.float(), a.float(), alpha=scale).to(weight.dtype)
            else:
                delta = stored.deltas(parameter, b.float() @ a.float() * scale)[name]
                weight = (weight.float() + delta).to(weight.dtype)
        return weight

    weight_map, total = {}, 0
    for number, names in enumerate(plan, 1):
        name = WEIGHTS if len(plan) == 1 else f"model-{number:05d}-of-{len(plan):05d}.safetensors"
        total += _write_shard(folder / name, stored, names, merged)
        weight_map |= dict.fromkeys(names, name)
    if len(plan) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2), "utf-8")
    for path in source.path.iterdir():
        if path.is_file() and is_companion(path.name):
            shutil.copyfile(path, folder / path.name)
    if _is_fp8(source):
        settings = json.loads((folder / "config.json").read_text("utf-8"))
        del settings["quantization_config"]
        (folder / "config.json").write_text(json.dumps(settings, indent=2), "utf-8")
    suit_older_readers(folder)


def _sums(folder: Path) -> str:
    """Checksums of a folder's files, in the format of sha256sum."""
    return "".join(f"{_sum(path)}\n" for path in sorted(folder.iterdir()))


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}"
