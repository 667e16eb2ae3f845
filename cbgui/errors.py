"""InputError, and what the Hugging Face hub said behind an error of its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


class InputError(ValueError):
    """Bad input, in one sentence that names the field, the value and the remedy."""


def hub_error(error: BaseException) -> HfHubHTTPError | None:
    """The hub's own answer down the chain of causes, if there is one: its clients wrap one error in another."""
    from huggingface_hub.errors import HfHubHTTPError  # takes a third of a second, which --help need not wait for

    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, HfHubHTTPError):
        seen = seen.__cause__ or seen.__context__
    return seen


def hub_status(error: BaseException) -> int:
    """The HTTP status of the hub's answer; 0 without one."""
    answer = hub_error(error)
    return answer.response.status_code if answer is not None and answer.response is not None else 0


def is_rate_limited(error: BaseException) -> bool:
    """Whether the hub says that there were too many requests, or that a quota is used up."""
    return hub_status(error) == 429
