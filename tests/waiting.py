"""Wait for a condition with a generous limit, as these machines may be busy; and for a coroutine."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


def wait_until(condition: Callable[[], Result], seconds: float = 300) -> Result:
    """The condition's result once it is true. Raises AssertionError when it never is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError(f"the condition was not met within {seconds:g} seconds")


def run_async(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """The coroutine's result. In a thread of its own, as Playwright leaves an event loop in the tests' thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
