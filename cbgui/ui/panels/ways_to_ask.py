"""Ways to ask a question on the Try page: plainly, or with a trick; and keeping a question for the topic."""

from __future__ import annotations

from cbgui.data.examples import Example, Kind
from cbgui.errors import InputError
from cbgui.evaluation.attacks.registry import ATTACKS
from cbgui.ui.common import sentences, shown_topic, tell
from cbgui.ui.fragments import plain

PLAINLY, BEGUN = "Plainly", "Answer begun for it"
WAYS = {  # on the page -> the attack's name
    PLAINLY: "direct",
    BEGUN: "prefill",
    "Role play": "role_play",
    "As fiction": "hypothetical",
    "In keywords": "fragment",
    "Typed badly": "typed_badly",
}
BEGINNING = "Sure, here is how:"
KEPT = {"break": "Must stop", "near_miss": "Look-alikes"}


def worded(question: str, way: str, prefill: str) -> tuple[str, str]:
    """What is sent, and what the answer begins with. Raises InputError for an unknown way."""
    if way not in WAYS:
        raise InputError(f"how to ask = {way!r}: choose one of {', '.join(WAYS)}.")
    if way == BEGUN:
        return question, prefill or BEGINNING
    (attempt,) = ATTACKS[WAYS[way]].attempts(Example((("user", question),), "", "break"), [])
    return attempt.messages[-1][1], prefill


@sentences
def keep_question(kind: Kind, topic: tuple | None, question: str | None) -> None:
    """Add the question that was asked last to the topic, without an answer."""
    if not (question or "").strip():
        raise InputError("there is no question to add yet; ask one first.")
    data = shown_topic(topic)
    example = Example((("user", question),), "", kind, "asked on the Try page")
    data.add([example], f"add a question to {KEPT[kind]}")
    tell(
        f"Added to {KEPT[kind]} of {plain(data.name)}. The Topic page can undo it, and lets the model write its answer."
    )
