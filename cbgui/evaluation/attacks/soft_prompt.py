"""The white-box attack: input embeddings found by gradient that make the model begin the answer that must not be given.

Section 4.1 of the paper calls it the embedding attack. Circuit breakers are known to be weakest here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.metrics import Answer, Pair

SOFT_TOKENS = 8
GOAL_TOKENS = 20


def soft_prompt_answer(
    pair: Pair, attempt: Attempt, response: str, *, adapted: bool, max_new_tokens: int, steps: int = 30
) -> Answer:
    """The greedy answer after `steps` of Adam on SOFT_TOKENS embeddings in front of the request.

    The goal is the log-probability of the response's first GOAL_TOKENS tokens.
    """
    model, tokenizer = pair.model, pair.tokenizer
    prompt = torch.tensor(pair.prompt_ids(attempt), device=model.device)
    goal = torch.tensor(tokenizer(response, add_special_tokens=False).input_ids[:GOAL_TOKENS], device=model.device)
    embed = model.get_input_embeddings()
    with torch.no_grad():
        request, wanted = embed(prompt), embed(goal)
        scale = request.float().norm(dim=-1).mean()
        start = embed(prompt[torch.arange(SOFT_TOKENS) % len(prompt)]).float()
    soft = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([soft], lr=0.1 * scale.item() / soft.shape[-1] ** 0.5)
    frozen = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.requires_grad_(False)
    try:
        with pair.using(adapted):
            for _ in range(steps):
                inputs = torch.cat([soft.to(request.dtype), request, wanted])[None]
                logits = model(inputs_embeds=inputs).logits[0, -len(goal) - 1 : -1].float()
                optimizer.zero_grad()
                F.cross_entropy(logits, goal).backward()
                optimizer.step()
            with torch.no_grad():
                inputs = torch.cat([soft.to(request.dtype), request])[None]
                out = model.generate(
                    inputs_embeds=inputs,
                    attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long, device=model.device),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen[name])
    ids = [token for token in out[0].tolist() if token not in (tokenizer.pad_token_id, tokenizer.eos_token_id)]
    return Answer(ids, tokenizer.decode(ids, skip_special_tokens=True))
