"""The functions of the attacks in registry.WITH_MODEL, apart from it because they import PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.attacks.crescendo import crescendo
from cbgui.evaluation.attacks.languages import translated
from cbgui.evaluation.attacks.registry import SOFT_PROMPT, SUFFIX
from cbgui.evaluation.attacks.soft_prompt import soft_prompt
from cbgui.evaluation.attacks.suffix import suffixed
from cbgui.evaluation.attacks.target import Target, Try

# Made with one of the models (whether it is the short-circuited one), then asked of both like any other attempts.
Make = Callable[[Target, Sequence[Example]], Iterator[tuple[int, list[Attempt]]]]
MADE: dict[str, tuple[Make, bool]] = {"languages": (translated, False), SUFFIX: (suffixed, True)}
# Made with each model by itself, since every turn or step depends on what that model says.
Lead = Callable[[Target, Sequence[Example]], Iterator[tuple[int, list[Try]]]]
LED: dict[str, Lead] = {"crescendo": crescendo, SOFT_PROMPT: soft_prompt}
