"""What is behind an error of the hub's clients, which wrap one in another."""

from __future__ import annotations

from huggingface_hub.errors import HfHubHTTPError


def answer_behind(error: BaseException) -> HfHubHTTPError | None:
    """The hub's own answer down the chain of causes, if it gave one."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, HfHubHTTPError):
        seen = seen.__cause__ or seen.__context__
    return seen


def status_behind(error: BaseException) -> int:
    """Its HTTP status; 0 without an answer."""
    answer = answer_behind(error)
    return answer.response.status_code if answer is not None and answer.response is not None else 0


def asks_to_slow_down(error: BaseException) -> bool:
    """Too many requests, or a quota used up."""
    return status_behind(error) == 429
