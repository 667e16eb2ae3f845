"""Upload a merged model to the Hugging Face hub, into a private repository unless asked otherwise."""

from __future__ import annotations

import os
import re
from pathlib import Path

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

from cbgui.errors import InputError, hub_error, hub_status
from cbgui.runs.run import Run

UPLOADED = (  # patterns of file names
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "merges.txt",
    "vocab.txt",
    "*.md",
    "LICENSE*",
    "Modelfile",
    "SHA256SUMS",
)
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def check_repo(repo: str) -> str:
    """Return `repo`. Raises InputError if it is not a hub id."""
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise InputError(f"repository {repo!r} is not a hub id; write it as your-name/model-name.")
    return repo


def upload_run(run: Run, repo: str, *, private: bool = True, token: str | None = None) -> str:
    """Upload the merged folder of `run` and return the model's address.

    Without a `token`, that of HF_TOKEN is used, else the login of `hf auth login`. A second attempt skips
    the files that the first one uploaded, as the hub knows files by their checksum. Raises InputError, also when a
    repository that should be private exists already and is public.
    """
    run.need_merged()
    return _push(run.merged_folder, check_repo(repo), private, token)


def _push(folder: Path, repo: str, private: bool, token: str | None) -> str:
    # Named, because on a Space huggingface_hub is told to take no token by itself.
    api = HfApi(token=token or os.environ.get("HF_TOKEN"))
    try:
        if private and _is_public(api, repo):
            raise InputError(
                f"repository {repo!r} exists already and is public, so everyone would see this model; choose Public "
                "(--public) if they may, or name another repository."
            )
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(UPLOADED),
            commit_message="Short-circuited by cbgui",
        )
    except LocalTokenNotFoundError:
        raise InputError("upload: no hub login was found; run 'hf auth login', or enter a token.") from None
    except (HfHubHTTPError, httpx2.HTTPError, OSError, RuntimeError) as error:  # a failed file is a RuntimeError
        answer = hub_error(error)
        if answer is not None:
            raise InputError(_sentence(answer, repo)) from None
        raise InputError(
            f"repository {repo!r}: the hub did not answer, or the connection broke ({type(error).__name__}); start the "
            "upload again; files already uploaded are not sent again."
        ) from None
    return f"{api.endpoint}/{repo}"


def _is_public(api: HfApi, repo: str) -> bool:
    try:
        return api.model_info(repo).private is False
    except RepositoryNotFoundError:
        return False


def _sentence(error: HfHubHTTPError, repo: str) -> str:
    """What the hub's answer means for the user."""
    status = hub_status(error)
    message = (error.server_message or "").strip().splitlines()
    words = f" The hub says: {message[0][:200]}" if message else ""
    match status:
        case 401:
            return f"repository {repo!r}: the hub does not know this token; log in again with 'hf auth login'."
        case 403 if "storage" in words.lower() or "quota" in words.lower():
            return (
                f"repository {repo!r}: the account's storage is full; delete files there or use another account.{words}"
            )
        case 403:
            return f"repository {repo!r}: the token may not write there; use one with write access.{words}"
        case 404:
            return f"repository {repo!r}: no such user or organisation, or this token may not see it; check both."
        case 413 | 507:
            return (
                f"repository {repo!r}: the account's storage is full; delete files there or use another account.{words}"
            )
        case 429:
            return f"repository {repo!r}: too many requests to the hub; try again in a few minutes."
    return f"repository {repo!r}: the hub answered with error {status}; try again.{words}"
