"""Rows of data sets on the Hugging Face hub, read from the repository's own files; no code from it is run.

Which files belong to a split is decided by name from the hub's list of the repository's files. Nothing else is ever
opened: a data card cannot name a file of this machine, an address, or another repository.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from cbgui.data import files
from cbgui.data.files import Raw
from cbgui.data.limits import LimitedReader, parquet_rows
from cbgui.errors import InputError, hub_error, is_rate_limited
from cbgui.space import MAX_UPLOAD, on_space

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
PACKED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
NOT_DATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json")
DATA_ENDINGS = [ending for ending in files.SUFFIXES if ending != ".txt"]  # a repository's .txt is its licence
MAX_TEXT_BYTES = 500 * 2**20  # of one CSV or JSON file, unpacked; Parquet is read in parts
# What files of a split are called where the card does not say.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def check_id(name: str) -> str:
    """Return `name`. Raises InputError unless it is a hub id such as owner/name."""
    if not _ID.fullmatch(name) or ".." in name or "--" in name:
        raise InputError(f"dataset {name!r} is not a hub id; write it as owner/name.")
    return name


def hub_rows(name: str, config: str | None = None, split: str = "train") -> Iterator[Raw]:
    """Stream the rows of a hub dataset. Raises InputError."""
    check_id(name)
    import httpx2
    from huggingface_hub import HfApi, HfFileSystem
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        info = HfApi().dataset_info(name)
        paths = [file.rfilename for file in info.siblings or []]
        chosen = choose_files(name, paths, (info.card_data or {}).get("configs"), config, split or "train")
        hub = HfFileSystem(skip_instance_cache=True)
        for path in chosen:
            with hub.open(f"hf://datasets/{name}@{info.sha}/{path}", "rb") as file:
                yield from _rows(file, f"{name}/{path}")
    except GatedRepoError:
        raise InputError(f"dataset {name!r} is gated; accept its terms on the hub and run 'hf auth login'.") from None
    except RepositoryNotFoundError:
        raise InputError(f"dataset {name!r} is not on the hub, or is private; check the spelling.") from None
    except (HfHubHTTPError, httpx2.HTTPError, OSError, RuntimeError) as error:
        if is_rate_limited(error):
            raise InputError(f"dataset {name!r}: too many requests to the hub; try again in a few minutes.") from None
        reason = type(hub_error(error) or error).__name__
        raise InputError(f"dataset {name!r}: the hub does not answer ({reason}); try again.") from None


def _unpacked_name(path: str) -> str:
    return path.removesuffix(next((ending for ending in PACKED if path.endswith(ending)), ""))


def _ending(path: str) -> str:
    """The ending that says how a file is read, without the one of its packing."""
    return PurePosixPath(_unpacked_name(path)).suffix.lower()


def _is_data(path: str) -> bool:
    parts = path.split("/")
    hidden = any(part.startswith((".", "_")) or part in ("", "..") for part in parts)
    return not hidden and parts[-1] not in NOT_DATA and _ending(path) in DATA_ENDINGS


def choose_files(name: str, paths: list[str], configs: Any, config: str | None, split: str) -> list[str]:
    """Those of `paths`, a repository's files, that hold the split of a configuration, all in one format.

    `configs` is what the repository's card says. Raises InputError naming what there is instead.
    """
    data = [path for path in paths if _is_data(path)]
    if not data:
        raise InputError(f"dataset {name!r} has no files that cbgui reads ({', '.join(DATA_ENDINGS)}); choose another.")
    patterns = _patterns_of_card(name, configs, config)
    if patterns is None:
        data = _in_folder(name, data, config)
        found, known = _by_name(data, split), [s for s in SPLIT_WORDS if _by_name(data, s)]
    else:
        known = list(patterns)
        found = [path for path in data if any(_matches(path, pattern) for pattern in patterns.get(split, []))]
    if not found:
        raise InputError(f"dataset {name!r} has no split {split!r}; choose one of {', '.join(known) or 'its others'}.")
    ending = Counter(map(_ending, found)).most_common(1)[0][0]
    return sorted(path for path in found if _ending(path) == ending)


def _patterns_of_card(name: str, configs: Any, config: str | None) -> dict[str, list[str]] | None:
    """Split -> patterns of its files, as the card's YAML says; None where it says nothing. Raises InputError."""
    entries = [entry for entry in configs or [] if isinstance(entry, dict) and entry.get("data_files")]
    if not entries:
        return None
    names = [str(entry.get("config_name", "default")) for entry in entries]
    if config and config not in names:
        raise InputError(f"dataset {name!r} has no configuration {config!r}; choose one of {', '.join(names)}.")
    usual = [entry for entry in entries if entry.get("default") or entry.get("config_name") == "default"]
    if not config and not usual and len(entries) > 1:
        raise InputError(f"dataset {name!r}: name a configuration, one of {', '.join(names)}.")
    entry = entries[names.index(config)] if config else (usual or entries)[0]
    files_of = entry["data_files"]
    splits: dict[str, list[str]] = {}
    for part in files_of if isinstance(files_of, list) else [files_of]:
        split, path = (part.get("split", "train"), part.get("path")) if isinstance(part, dict) else ("train", part)
        splits.setdefault(str(split), []).extend(map(str, path if isinstance(path, list) else [path]))
    if folder := entry.get("data_dir"):
        splits = {split: [f"{folder}/{path}" for path in patterns] for split, patterns in splits.items()}
    return splits


def _matches(path: str, pattern: str) -> bool:
    """Whether a card's pattern means this file of its repository; "*" stays within a folder, "**" does not."""
    pattern = pattern.removeprefix("./")
    if "**" not in pattern:
        return path.count("/") == pattern.count("/") and fnmatchcase(path, pattern)
    return any(fnmatchcase(path, pattern.replace("**/", either)) for either in ("", "*/"))


def _in_folder(name: str, data: list[str], config: str | None) -> list[str]:
    """Without configurations in the card, one is a folder, if it is given at all. Raises InputError."""
    if not config or config == "default":
        return data
    folders = sorted({path.rpartition("/")[0] for path in data} - {""})
    if config not in folders:
        known = f"choose one of {', '.join(folders[:10])}" if folders else "leave it empty"
        raise InputError(f"dataset {name!r} has no configuration {config!r}; {known}.")
    return [path for path in data if path.startswith(f"{config}/")]


def _by_name(data: list[str], split: str) -> list[str]:
    """The files that are called after the split, such as data/train-00000-of-00001.parquet or test.csv.

    Where no file is called after any split, all are "train".
    """

    def called(words: tuple[str, ...], letters: str) -> list[str]:
        word = "|".join(map(re.escape, words))
        return [path for path in data if re.search(rf"(?<![{letters}])({word})(?![{letters}])", path.lower())]

    if exact := called((split.lower(),), "a-z0-9_"):
        return exact
    if split in SPLIT_WORDS and (loose := called(SPLIT_WORDS[split], "a-z0-9")):
        return loose
    any_split = called(tuple(word for words in SPLIT_WORDS.values() for word in words), "a-z0-9")
    return data if split == "train" and not any_split else []


def _rows(file: BinaryIO, name: str) -> Iterator[Raw]:
    """Rows of an open file, whose kind its name tells. Parquet is read in parts; other files are copied first."""
    if name.endswith(".parquet"):
        yield from parquet_rows(file, name)
        return
    unpack = PACKED.get(PurePosixPath(name).suffix)
    most = MAX_UPLOAD if on_space() else MAX_TEXT_BYTES
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, PurePosixPath(_unpacked_name(name)).name)
        try:
            with copy.open("wb") as out:
                shutil.copyfileobj(LimitedReader(unpack(file) if unpack else file, most, name), out, 2**20)
        except (gzip.BadGzipFile, EOFError, lzma.LZMAError):
            raise InputError(f"{name}: not a {PurePosixPath(name).suffix} file, or cut off; choose another.") from None
        yield from files.read_rows(copy)
