"""Rows from outside a file: data sets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator

from cbgui.data.tables import Raw
from cbgui.errors import InputError, is_rate_limited

# How often a streamed read is retried. The default of `datasets`, 20, would take ten minutes, as huggingface_hub makes
# five attempts each time.
RETRIES = 2


def hub_rows(name: str, config: str | None = None, split: str = "train") -> Iterator[Raw]:
    """Stream the rows of a hub dataset without running code from it. Raises InputError."""
    if name.count("/") != 1 or not all(name.split("/")) or any(c.isspace() for c in name):
        raise InputError(f"dataset {name!r} is not a hub id; write it as owner/name.")
    # These take seconds to import.
    import datasets.config
    import httpx2
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    datasets.config.STREAMING_READ_MAX_RETRIES = RETRIES
    gated = f"dataset {name!r} is gated; accept its terms on the hub and run 'hf auth login'."
    try:
        yield from load_dataset(name, config or None, split=split or "train", streaming=True)
    except GatedRepoError:
        raise InputError(gated) from None
    except DatasetNotFoundError as error:
        if "gated" in str(error):
            raise InputError(gated) from None
        raise InputError(f"dataset {name!r} is not on the hub, or is private; check the spelling.") from None
    except ValueError as error:  # an unknown config or split; the message lists the valid ones
        raise InputError(f"dataset {name!r}: {str(error).splitlines()[0][:200]}") from None
    except (HfHubHTTPError, httpx2.HTTPError, ConnectionError, OSError, RuntimeError) as error:
        if is_rate_limited(error):
            raise InputError(f"dataset {name!r}: too many requests to the hub; try again in a few minutes.") from None
        raise InputError(f"dataset {name!r}: the hub does not answer ({type(error).__name__}); try again.") from None
