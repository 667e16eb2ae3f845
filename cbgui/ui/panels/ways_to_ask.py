"""Ways to ask a question on the Try page: plainly, or with a trick; and keeping a question for the topic."""

from __future__ import annotations

from cbgui.data.examples import Example, Kind
from cbgui.errors import InputError
from cbgui.evaluation.attacks.registry import ATTACKS
from cbgui.ui.common import sentences, shown_topic, tell
from cbgui.ui.fragments import plain
from cbgui.ui.words import ENGLISH, TEXTS, say

PLAINLY, BEGUN = "plainly", "begun"
WAYS = {  # on the page -> the attack's name
    PLAINLY: "direct",
    BEGUN: "prefill",
    "role_play": "role_play",
    "as_fiction": "hypothetical",
    "in_keywords": "fragment",
    "typed_badly": "typed_badly",
}
BEGINNING = "Sure, here is how:"
KEPT: dict[Kind, str] = {"break": "must_stop", "near_miss": "look_alikes"}  # kind -> what the page calls the part


def worded(question: str, way: str, prefill: str) -> tuple[str, str]:
    """What is sent, and what the answer begins with. Raises InputError for an unknown way."""
    if way not in WAYS:
        raise InputError(say("try.way_wrong", way=f"{way!r}", ways=", ".join(WAYS)))
    if way == BEGUN:
        return question, prefill or BEGINNING
    (attempt,) = ATTACKS[WAYS[way]].attempts(Example((("user", question),), "", "break"), [])
    return attempt.messages[-1][1], prefill


@sentences
def keep_question(kind: Kind, topic: tuple | None, question: str | None) -> None:
    """Add the question that was asked last to the topic, without an answer."""
    if not (question or "").strip():
        raise InputError(say("try.nothing_to_add"))
    data = shown_topic(topic)
    example = Example((("user", question),), "", kind, "asked on the Try page")
    data.add([example], f"add a question to {TEXTS[ENGLISH][f'common.{KEPT[kind]}']}")
    tell(say("try.added_to", part=say(f"common.{KEPT[kind]}"), name=plain(data.name)))
