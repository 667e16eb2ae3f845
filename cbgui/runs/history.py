"""A run's events as its page shows them: read on from where they were read last, thinned to what a chart can show."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from pathlib import Path

from cbgui.runs.events import Event, read
from cbgui.runs.run import Run

POINTS = 400  # the most steps, and the most validations, that are kept for the charts
RECENT_STEPS = 10  # that the time left is estimated from
PIECE = 8 * 2**20  # bytes that are read at once
REMEMBERED = 16  # histories in memory; one takes less than 1 MB, however long its run
OF_A_POINT = ("kind", "step", "reroute_loss", "retain_loss", "cosine", "drift")  # what the charts read


@dataclass
class _Thinned:
    """Every n-th of the items and the newest one; n doubles whenever POINTS are exceeded."""

    kept: list[Event] = field(default_factory=list)
    newest: Event | None = None
    every: int = 1
    count: int = 0

    def add(self, item: Event) -> None:
        if self.count % self.every == 0:
            self.kept.append(item)
            if len(self.kept) > POINTS:
                self.kept, self.every = self.kept[::2], 2 * self.every
        self.newest, self.count = item, self.count + 1

    def items(self) -> list[Event]:
        if self.newest is None or self.kept[-1] is self.newest:
            return list(self.kept)
        return [*self.kept, self.newest]


@dataclass
class History:
    """What the pages show of the events up to byte `end` of the file."""

    end: int = 0
    newest: dict[str, Event] = field(default_factory=dict)  # by kind
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))  # without the first step
    measured: int = 0  # steps, validations and trials so far
    trials: list[Event] = field(default_factory=list)  # in the order of the run; a few
    _points: dict[str, _Thinned] = field(default_factory=lambda: {"step": _Thinned(), "validation": _Thinned()})

    def add(self, events: list[Event]) -> None:
        for event in events:
            kind = event["kind"]
            if kind == "step" and "step" in self.newest:  # the first step is slow: it computes the reference states
                self.seconds.append(event["seconds"])
            self.newest[kind] = event
            if kind == "trial":
                self.measured += 1
                self.trials.append(event)
            if kind in self._points:
                self.measured += 1
                self._points[kind].add({key: event[key] for key in OF_A_POINT if key in event})

    def points(self) -> list[Event]:
        """Steps and validations for the charts, at most POINTS and one of each, in the order of their steps."""
        points = [event for thinned in self._points.values() for event in thinned.items()]
        return sorted(points, key=lambda event: event["step"])

    def text(self, kind: str, otherwise: str) -> str:
        """The newest words of status, warning or error."""
        return self.newest[kind]["text"] if kind in self.newest else otherwise

    def newest_time(self) -> float:
        """When the newest event was written; 0 without events."""
        return max((event["time"] for event in self.newest.values()), default=0.0)


_histories: OrderedDict[tuple[Path, int, int], History] = OrderedDict()  # by file, device and inode
_lock = threading.Lock()


def history(run: Run) -> History:
    """The run's events so far. Only what is new since the last call is read, unless a resumed run replaced the file."""
    path = run.events_file
    try:
        stat = path.stat()
    except OSError:
        return History()
    key = (path, stat.st_dev, stat.st_ino)
    with _lock:
        found = _histories.pop(key, None)
        if found is None or found.end > stat.st_size:
            found = History()
        end = -1
        while end < found.end:  # piece by piece, or a long run would fill the memory
            end = found.end
            events, found.end = read(path, end, PIECE)
            found.add(events)
        _histories[key] = found
        while len(_histories) > REMEMBERED:
            _histories.popitem(last=False)
        return copy.deepcopy(found)  # another thread may read on while the caller draws
