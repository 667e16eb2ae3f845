"""Wait for a condition with a generous limit: these machines may be busy."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def wait_until(condition: Callable[[], Result], seconds: float = 300) -> Result:
    """The condition's result once it is true. Raises AssertionError when it never is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError(f"the condition was not met within {seconds:g} seconds")
