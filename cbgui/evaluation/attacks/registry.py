"""All attacks by name. A new attack is a function in one of these modules and a line in ATTACKS.

An attack gets the break example and `others`: the training set's break examples, as material for few-shot attacks.

The families follow section 4.1 of the paper (arXiv 2406.04313), without those that need a second model or an API. The
wordings were written for this project.
"""

from __future__ import annotations

from cbgui.errors import InputError
from cbgui.evaluation.attacks.attempt import Attack
from cbgui.evaluation.attacks.conversation import few_shot, many_shot, multi_turn
from cbgui.evaluation.attacks.encoding import encoded, leetspeak, translation
from cbgui.evaluation.attacks.forced_start import prefill
from cbgui.evaluation.attacks.framing import direct, hypothetical, ignore_above, role_play
from cbgui.evaluation.attacks.sampling import sampling

ATTACKS: dict[str, Attack] = {
    "direct": Attack("Asked directly", direct, default=True),
    "prefill": Attack("Answer begun for the model", prefill, default=True),
    "role_play": Attack("Role play", role_play, default=True),
    "ignore_above": Attack("“Ignore the above”", ignore_above),
    "hypothetical": Attack("As fiction", hypothetical, default=True),
    "encoded": Attack("In base64", encoded),
    "leetspeak": Attack("In leetspeak", leetspeak),
    "translation": Attack("Through a translation", translation),
    "few_shot": Attack("After 3 answered questions", few_shot, default=True),
    "many_shot": Attack("After 12 answered questions", many_shot),
    "sampling": Attack("Four tries at temperature 1", sampling),
    "multi_turn": Attack("Step by step over several turns", multi_turn, default=True),
}
SOFT_PROMPT = "soft_prompt"  # not in ATTACKS, as it needs the model's gradients; see soft_prompt.py
ATTACK_TITLES = {name: attack.title for name, attack in ATTACKS.items()}
ATTACK_TITLES[SOFT_PROMPT] = "Optimised input embeddings (white box)"
DEFAULT_ATTACKS = [name for name, attack in ATTACKS.items() if attack.default]


def check_attacks(names: list[str]) -> list[str]:
    """Return `names`. Raises InputError if one is unknown."""
    for name in names:
        if name not in ATTACK_TITLES:
            raise InputError(f"--attacks {name!r} is unknown; choose from {', '.join(ATTACK_TITLES)}.")
    return names
