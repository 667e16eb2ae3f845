"""events.jsonl: what each kind of event holds, and reading the file from its beginning, from an offset or from its end.

Lines that are no event are skipped, whatever a full disk, a kill or an editor has made of them; who reads an event can
rely on its values.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from cbgui.data.examples import Kind

MEASURED = ("step", "validation", "samples", "trial", "checkpoint")  # events of one step
BLOCK = 64 * 2**10  # bytes that are read at once from the end
SEARCHED = 2**20  # bytes from the end in which the newest events are looked for
Event = dict[str, Any]

_config = with_config(ConfigDict(extra="allow", allow_inf_nan=False))
_Step = Annotated[int, Field(ge=0, le=10**12)]
_Seconds = Annotated[float, Field(ge=0, le=10**10)]
_Cosines = Annotated[dict[Annotated[str, Field(pattern=r"^\d{1,4}$")], float], Field(min_length=1)]


@_config
class _Told(TypedDict):
    kind: Literal["status", "warning", "error"]
    time: _Seconds
    text: str
    state: NotRequired[str]


@_config
class _Coefficients(TypedDict):
    reroute: float
    retain: float


@_config
class _Trained(TypedDict):
    kind: Literal["step"]
    time: _Seconds
    step: _Step
    steps: Annotated[int, Field(ge=1, le=10**12)]
    reroute_loss: float
    retain_loss: float
    cosine: _Cosines
    coefficients: _Coefficients
    learning_rate: float
    tokens_per_second: float
    memory_bytes: float
    seconds: _Seconds
    trained_seconds: NotRequired[_Seconds]


@_config
class _Validated(TypedDict):
    kind: Literal["validation"]
    time: _Seconds
    step: _Step
    reroute_loss: float
    retain_loss: float
    drift: float
    cosine: _Cosines


@_config
class _Sample(TypedDict):
    prompt: str
    kind: Kind
    base: str
    short_circuited: str


@_config
class _Sampled(TypedDict):
    kind: Literal["samples"]
    time: _Seconds
    step: _Step
    answers: list[_Sample]


_Count = Annotated[int, Field(ge=0, le=10**9)]


@_config
class _Tried(TypedDict):
    kind: Literal["trial"]
    time: _Seconds
    step: _Step
    strength: float  # what the adapter was multiplied by
    blocked: _Count  # of `breaks` must-stop questions
    breaks: _Count
    hurt: dict[Kind, tuple[_Count, _Count]]  # kind -> (harmed, of so many)
    worst: list[str]
    refused: NotRequired[_Count]  # of the blocked
    kl: NotRequired[float]  # nats a token by which the median keep question moves
    begun: NotRequired[_Count]  # of `breaks`, blocked where the answer has begun
    chosen: NotRequired[bool]  # the strength that the run ended with


@_config
class _Saved(TypedDict):
    kind: Literal["checkpoint"]
    time: _Seconds
    step: _Step
    path: str


_event: TypeAdapter[Event] = TypeAdapter(
    Annotated[_Told | _Trained | _Validated | _Sampled | _Tried | _Saved, Field(discriminator="kind")]
)


def parse(line: bytes) -> Event | None:
    """The event on a line; None for anything else."""
    try:
        return _event.validate_json(line)
    except ValidationError:
        return None


def read(path: Path, offset: int = 0, most: int = -1) -> tuple[list[Event], int]:
    """The events of the whole lines from byte `offset` on, and the offset to go on from; of `most` bytes, or of all."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(most)
    except OSError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    return [event for line in whole.split(b"\n") if (event := parse(line)) is not None], offset + len(whole)


def first(path: Path) -> Event | None:
    """The first event, if it lies in the first BLOCK bytes."""
    try:
        with path.open("rb") as file:
            lines = file.read(BLOCK).split(b"\n")[:-1]
    except OSError:
        return None
    return next((event for line in lines if (event := parse(line)) is not None), None)


def newest_first(path: Path) -> Iterator[Event]:
    """The events from the end of the file backwards, as far as SEARCHED bytes; read block by block as they are asked
    for, so that the length of a run does not matter."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            stop, rest = max(0, end - SEARCHED), b""
            while end > stop:
                start = max(stop, end - BLOCK)
                file.seek(start)
                first_part, *lines = (file.read(end - start) + rest).split(b"\n")
                for line in reversed(lines):
                    if (event := parse(line)) is not None:
                        yield event
                end, rest = start, first_part
            if stop == 0 and (event := parse(rest)) is not None:
                yield event
    except OSError:
        return
