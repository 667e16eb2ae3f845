"""The process that renders chat templates, with limited memory: they are programs that came with a model.

Run as a script by cbgui.modeling.templates. Reads one JSON object a line, {"template", "messages", "settings",
"prompt"}, and answers each with one: {"text"}, {"refused": why} or {"over": which limit}. Imports nothing of cbgui, to
start quickly.
"""

from __future__ import annotations

import json
import sys
from typing import Any

MEMORY = 2**30  # bytes
LONGEST = 20_000_000  # characters of a rendered conversation


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _answer(request: dict[str, Any]) -> dict[str, str]:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        (text,), _ = render_jinja_template(
            [request["messages"]],
            chat_template=request["template"],
            add_generation_prompt=request["prompt"],
            **request["settings"],
        )
    except (MemoryError, OverflowError, RecursionError):
        return {"over": "memory"}
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        return {"refused": str(error)[:500] or type(error).__name__}
    return {"text": text} if len(text) <= LONGEST else {"over": "length"}


def main() -> None:
    import transformers.utils.chat_template_utils  # noqa: F401  takes most of a second

    _limit_memory()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
