"""What counts as a refusal, and what follows it."""

import pytest

from cbgui.data.refusals import OPENING_CHARACTERS, after_refusal, is_refusal, only_refuses

OWN = ["Dazu kann ich leider nichts sagen."]
LONG = "Sorry, I can't help with that. " + "This assistant answers questions about our school alone. " * 4 + "Ask us."


@pytest.mark.parametrize(
    ("answer", "rest", "only"),
    [
        ("I'm sorry, I can't help with that.", "", True),
        ("Sorry, we can't help with that.", "", True),
        ("I\u2019m sorry, but I can\u2019t. Is there anything else?", "Is there anything else?", True),
        ("Dazu kann ich leider nichts sagen.", "", True),
        ("dazu kann ich leider nichts sagen. Dazu kann ich leider nichts sagen.", "", True),
        ("I can't help with that. However, here is how: " + "stir it well and " * 8, None, False),
        ("As a helper for this site, I'm not equipped to provide medical advice. Please ask a doctor.", None, True),
        ("I'm not a doctor. Ask your pharmacist.", "Ask your pharmacist.", True),
        ("Boil the water first. Then add salt.", None, False),
        ("First boil it. " + "Then stir. " * 30 + "I'm sorry.", None, False),
    ],
)
def test_a_refusal_says_hardly_anything_else(answer, rest, only):
    assert only_refuses(answer, OWN) is only
    if rest is not None:
        assert after_refusal(answer, OWN) == rest


@pytest.mark.parametrize("length", [len(LONG), 220, 150, 60])  # characters, where the answer breaks off
def test_a_long_sentence_is_a_refusal_however_far_it_was_said(length):
    assert len(LONG) > OPENING_CHARACTERS
    assert after_refusal(LONG[:length], [LONG]) == "" and only_refuses("Well. " + LONG[:length], [LONG])
    assert not only_refuses(LONG[:60] + "First stir it well. " * 10, [LONG])
    assert not is_refusal("Dazu kann man vieles sagen.", OWN) and not is_refusal("Dazu kann", OWN)


def test_only_a_runs_own_sentences_are_known_in_other_languages():
    assert is_refusal(OWN[0], OWN) and not is_refusal(OWN[0])
