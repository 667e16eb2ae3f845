"""A white-box attack that stays text: a suffix to the question, computed token by token from the weights.

Greedy coordinate gradient (GCG), Zou et al. 2023 (arXiv 2307.15043): the gradient names promising tokens for each place
of the suffix, candidates with one of them exchanged are tried, and the best stays. The suffix is computed against the
short-circuited model; both models are then asked with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.attacks.target import Target, Try
from cbgui.modeling.chat_format import example_ids

SUFFIX_TOKENS = 12
START = " !"  # every place of the suffix at first
GOAL_TOKENS = 16  # of the response, whose probability is maximised
PROMISING = 64  # tokens considered for each place
ASK_EVERY = 5  # steps after which the model is asked whether it answers now


def suffixed(target: Target, examples: Sequence[Example]) -> Iterator[tuple[int, list[Attempt]]]:
    """Yield (index of the example, the attempt with the suffix that was found)."""
    allowed = _text_tokens(target)
    for row, example in enumerate(examples):
        found = Attempt(example.messages)
        for step, attempt in enumerate(_improving(target, example, allowed)):
            found = attempt
            target.on_progress((row + step / target.budget.suffix_steps) / len(examples))
            if step % ASK_EVERY == ASK_EVERY - 1 and target.answered([Try(attempt, target.ask([attempt])[0])])[0]:
                break
        yield row, [found]


def _improving(target: Target, example: Example, allowed: torch.Tensor) -> Iterator[Attempt]:
    """The attempt after each step."""
    pair = target.pair
    model, tokenizer = pair.model, pair.tokenizer
    chance = torch.Generator().manual_seed(0)
    *before, (role, prompt) = example.messages
    goal = example_ids(tokenizer, example.chat(), example.response)[1][:GOAL_TOKENS]
    suffix = tokenizer(START, add_special_tokens=False).input_ids[-1:] * SUFFIX_TOKENS

    def attempt(ids: Sequence[int]) -> Attempt:
        return Attempt((*before, (role, prompt + tokenizer.decode(ids))))

    embed = model.get_input_embeddings()
    for _ in range(target.budget.suffix_steps):
        place = _place(target, attempt(suffix), suffix)
        if place is None:  # the text is read as other tokens inside the chat template
            yield attempt(suffix)
            return
        ids, start = place
        with target.gradients_of_inputs():
            inputs = embed(torch.tensor([ids + goal], device=model.device)).detach().requires_grad_(True)
            loss = _loss(model(inputs_embeds=inputs).logits, goal)[0]
            (gradient,) = torch.autograd.grad(loss, inputs)
        slope = gradient[0, start : start + len(suffix)].float() @ embed.weight[allowed].float().T
        best = allowed[slope.topk(min(PROMISING, len(allowed)), largest=False).indices]  # (suffix tokens, PROMISING)
        candidates = {tuple(suffix)}
        for _ in range(4 * target.budget.candidates):
            where = int(torch.randint(len(suffix), (), generator=chance))
            chosen = int(best[where, torch.randint(best.shape[1], (), generator=chance)])
            other = (*suffix[:where], chosen, *suffix[where + 1 :])
            if tokenizer(tokenizer.decode(other), add_special_tokens=False).input_ids == list(other):
                candidates.add(other)
            if len(candidates) > target.budget.candidates:
                break
        suffix = list(_best_of(target, sorted(candidates), ids, start, goal))
        yield attempt(suffix)


@torch.no_grad()
def _best_of(
    target: Target, candidates: Sequence[tuple[int, ...]], ids: list[int], start: int, goal: list[int]
) -> tuple[int, ...]:
    """The suffix under which the goal is likeliest."""
    model = target.pair.model
    rows = [ids[:start] + list(suffix) + ids[start + len(suffix) :] + goal for suffix in candidates]
    with target.pair.using(target.adapted):
        losses = torch.cat(
            [
                _loss(model(input_ids=torch.tensor(rows[at : at + 16], device=model.device)).logits, goal)
                for at in range(0, len(rows), 16)
            ]
        )
    return candidates[int(losses.argmin())]


def _loss(logits: torch.Tensor, goal: list[int]) -> torch.Tensor:
    """(rows,) mean cost of the goal, in nats a token; `logits` is (rows, tokens, vocabulary) and ends with the goal."""
    wanted = torch.tensor(goal, device=logits.device).expand(len(logits), -1)
    at_goal = logits[:, -len(goal) - 1 : -1].float()
    return F.cross_entropy(at_goal.transpose(1, 2), wanted, reduction="none").mean(-1)


def _place(target: Target, attempt: Attempt, suffix: list[int]) -> tuple[list[int], int] | None:
    """The prompt's token ids, and where the suffix begins in them; None if it is not read as these tokens."""
    chat = [{"role": role, "content": content} for role, content in attempt.messages]
    ids, _ = example_ids(target.pair.tokenizer, chat, "")  # a model that thinks is given an empty thought
    starts = [at for at in range(len(ids) - len(suffix) + 1) if ids[at : at + len(suffix)] == suffix]
    return (ids, starts[-1]) if starts else None


def _text_tokens(target: Target) -> torch.Tensor:
    """The tokens that are printable ASCII, and no special ones."""
    tokenizer, rows = target.pair.tokenizer, target.pair.model.get_input_embeddings().weight.shape[0]
    special = set(tokenizer.all_special_ids)
    texts = tokenizer.batch_decode([[token] for token in range(min(len(tokenizer), rows))])
    found = [at for at, text in enumerate(texts) if at not in special and text.strip() and text.isascii()]
    found = [at for at in found if texts[at].isprintable()]
    return torch.tensor(found, device=target.pair.model.device)
