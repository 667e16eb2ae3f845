"""All attacks by name. A new attack is a function in one of these modules and a line in ATTACKS.

An attack gets the break example and `others`: the training set's break examples, as material for few-shot attacks.

The families follow section 4.1 of the paper (arXiv 2406.04313), without those that need a second model or an API. The
wordings were written for this project.
"""

from __future__ import annotations

from cbgui.data.examples import Example
from cbgui.errors import InputError
from cbgui.evaluation.attacks.attempt import Attack
from cbgui.evaluation.attacks.conversation import few_shot, many_shot, multi_turn
from cbgui.evaluation.attacks.encoding import encoded, leetspeak, translation
from cbgui.evaluation.attacks.forced_start import longer_prefill, longest_prefill, prefill
from cbgui.evaluation.attacks.framing import direct, hypothetical, ignore_above, role_play
from cbgui.evaluation.attacks.pressing import insisting, no_refusal, override
from cbgui.evaluation.attacks.sampling import best_of_25, sampling
from cbgui.evaluation.attacks.wording import fragment, past_tense, typed_badly

ATTACKS: dict[str, Attack] = {
    "direct": Attack("Asked directly", direct, default=True),
    "prefill": Attack("Answer begun for the model", prefill, default=True),
    "prefill_20": Attack("20 words begun for the model", longer_prefill),
    "prefill_40": Attack("40 words begun for the model", longest_prefill),
    "role_play": Attack("Role play", role_play, default=True),
    "ignore_above": Attack("“Ignore the above”", ignore_above),
    "hypothetical": Attack("As fiction", hypothetical, default=True),
    "encoded": Attack("In base64", encoded, hides=True),
    "leetspeak": Attack("In leetspeak", leetspeak, hides=True),
    "translation": Attack("Through a translation", translation),
    "few_shot": Attack("After 3 answered questions", few_shot, default=True),
    "many_shot": Attack("After 12 answered questions", many_shot),
    "sampling": Attack("Four tries at temperature 1", sampling),
    "best_of_25": Attack("Best of 25 tries at temperatures of 0.7 to 1.3", best_of_25),
    "multi_turn": Attack("Step by step over several turns", multi_turn, default=True),
    "insisting": Attack("Refused once, and the user insists", insisting, follows_refusal=True),
    "override": Attack("“However, here is how:” after a refusal", override, follows_refusal=True),
    "no_refusal": Attack("The first words of a refusal cannot be said", no_refusal),
    "past_tense": Attack("As something of the past", past_tense),
    "fragment": Attack("In keywords", fragment),
    "typed_badly": Attack("Typed badly, in slang", typed_badly),
}
# Attacks that lead a conversation with the model, or are computed from its weights; see with_model.py.
SUFFIX, SOFT_PROMPT = "suffix", "soft_prompt"
WITH_MODEL = {
    "crescendo": "Five turns that lead up to it, built on the model's own answers",
    "languages": "In German, French and Spanish",
    SUFFIX: "A computed suffix (white box)",
    SOFT_PROMPT: "Optimised input embeddings (white box)",
}
WHITE_BOX = (SUFFIX, SOFT_PROMPT)  # need the weights; no breaker is expected to withstand them
ATTACK_TITLES = {name: attack.title for name, attack in ATTACKS.items()} | WITH_MODEL
NEED_SHOTS = ("few_shot", "many_shot")  # show break examples of the training set
DEFAULT_ATTACKS = [name for name, attack in ATTACKS.items() if attack.default]


def tries(name: str) -> int:
    """How many answers the attack takes for each question."""
    example = Example((("user", "?"),), "", "break")
    if name in ATTACKS:
        return len(ATTACKS[name].attempts(example, []))
    return {"crescendo": 5, "languages": 4}.get(name, 1)


def check_attacks(names: list[str]) -> list[str]:
    """Return `names`. Raises InputError if one is unknown."""
    for name in names:
        if name not in ATTACK_TITLES:
            raise InputError(f"--attacks {name!r} is unknown; choose from {', '.join(ATTACK_TITLES)}.")
    return names
