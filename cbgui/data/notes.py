"""What the reader of a file should know: what was assumed about it, and what was left out of it."""

from __future__ import annotations

from dataclasses import dataclass, field

PLACES_NAMED = 5


@dataclass
class Notes:
    """Sentences for the screen, and the rows that were left out or changed, counted by reason."""

    said: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)

    def say(self, sentence: str) -> None:
        """Add a sentence, once."""
        if sentence not in self.said:
            self.said.append(sentence)

    def count(self, reason: str, where: str = "") -> None:
        """Count a row for `reason`, which goes on from "Rows ": "without a question, left out". `where`: its place."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        places = self.places.setdefault(reason, [])
        if where and len(places) < PLACES_NAMED:
            places.append(where.rpartition(", ")[2])  # the file's name goes without saying

    def sentences(self) -> list[str]:
        """All of it as sentences; empty when there is nothing to tell."""
        return self.said + [self._counted(reason) for reason in self.counts]

    def words(self) -> str:
        """All sentences as one text."""
        return " ".join(self.sentences())

    def _counted(self, reason: str) -> str:
        places, more = self.places[reason], self.counts[reason] > PLACES_NAMED
        shown = f" ({', '.join(places)}{', ...' if more else ''})" if places else ""
        return f"Rows {reason}: {self.counts[reason]:,}{shown}."
