"""InputError, any error in one sentence, and the Hugging Face hub's answer inside an error of its clients."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


FULL = (errno.ENOSPC, errno.EDQUOT)
# Words of a full disk in errors without a number: the system's own, those of safetensors and torch.save,
# and that of SQLite.
FULL_WORDS = re.compile(
    r"No space left on device|Disk quota exceeded|os error (28|122)\b|disk is full"
    r"|PytorchStreamWriter failed|inline_container\.cc:\d+\] \. unexpected pos"
)
SHOWN = 120  # characters of a value in a sentence


class InputError(ValueError):
    """Bad input, in one sentence that names the field, the value and the remedy."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that caused it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def is_disk_full(error: BaseException) -> bool:
    """Whether the error, or one that caused it, comes from a full disk."""
    return any(getattr(one, "errno", None) in FULL or FULL_WORDS.search(str(one)) for one in _chain(error))


def brief(value: object) -> str:
    """A value as a sentence shows it: as repr does, but without the middle of a long one."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 30]} ... {text[-25:]}"


def error_sentence(error: BaseException) -> str:
    """Any error as one sentence for the user; its traceback belongs in a log."""
    first = next(iter(str(error).strip().splitlines()), "")[:300]
    if isinstance(error, InputError):
        return str(error)
    if is_disk_full(error):
        return "The disk is full; free some space, then try again."
    if isinstance(error, OSError) and error.strerror:
        where = f"{str(error.filename)[:200]!r} " if error.filename else ""
        return f"The file {where}could not be read or written ({error.strerror}); check the path and its permissions."
    if isinstance(error, MemoryError):
        return "Memory ran out; close other programs, or choose smaller settings."
    if isinstance(error, UnicodeError):
        return "A text holds characters that cannot be stored as UTF-8; remove them."
    if isinstance(error, ImportError):
        # transformers names a quantizer's package only in its text.
        which = f"The package {error.name!r}" if error.name else f"A package ({first.rstrip('.')})"
        return f"{which} is missing or broken; install the requirements again, or choose a model that needs no other."
    if isinstance(error, sqlite3.Error):
        return (
            f"A topic's file could not be read or written ({first}); copy it back from a backup, or delete the topic."
        )
    if type(error).__module__.startswith("jinja2"):
        return f"The model's chat template does not take this conversation ({first}); change its turns or the model."
    return f"Unexpected error ({type(error).__name__}{': ' if first else ''}{first})."


def hub_error(error: BaseException) -> HfHubHTTPError | None:
    """The hub's own answer in the error's chain of causes; None without one. Its clients wrap one error in another."""
    from huggingface_hub.errors import HfHubHTTPError  # takes a third of a second, which --help need not wait for

    return next((one for one in _chain(error) if isinstance(one, HfHubHTTPError)), None)


def hub_status(error: BaseException) -> int:
    """The HTTP status of the hub's answer; 0 without one."""
    answer = hub_error(error)
    return answer.response.status_code if answer is not None and answer.response is not None else 0


def is_rate_limited(error: BaseException) -> bool:
    """Whether the hub says that there were too many requests, or that a quota is used up."""
    return hub_status(error) == 429
