"""The white-box attack: input embeddings, optimised by gradient, that make the model begin the break response.

Section 4.1 of the paper (arXiv 2406.04313) calls it the embedding attack. Circuit breakers are weakest against it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.metrics import Answer, ModelPair
from cbgui.modeling.chat_format import response_ids

SOFT_TOKENS = 8  # embeddings that are optimised, put in front of the prompt
GOAL_TOKENS = 20  # of the response, whose probability is maximised
STEPS = 30
STEP_SIZE = 0.1  # of Adam, relative to the size of one component of an embedding


def soft_prompt_answer(
    pair: ModelPair, attempt: Attempt, response: str, *, adapted: bool, max_new_tokens: int, steps: int = STEPS
) -> Answer:
    """Optimise SOFT_TOKENS embeddings in front of the prompt, then return the greedy answer.

    The objective is the log-probability of the first GOAL_TOKENS tokens of `response`.
    """
    model, tokenizer = pair.model, pair.tokenizer
    prompt_tokens = torch.tensor(pair.prompt_ids(attempt), device=model.device)
    goal_tokens = torch.tensor(response_ids(tokenizer, response)[:GOAL_TOKENS], device=model.device)
    embed = model.get_input_embeddings()
    with torch.no_grad():
        prompt, goal = embed(prompt_tokens), embed(goal_tokens)
        norm = prompt.float().norm(dim=-1).mean()
        start = embed(prompt_tokens[torch.arange(SOFT_TOKENS) % len(prompt_tokens)]).float()
    soft = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([soft], lr=STEP_SIZE * norm.item() / soft.shape[-1] ** 0.5)
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.requires_grad_(False)
    try:
        with pair.using(adapted):
            for _ in range(steps):
                inputs = torch.cat([soft.to(prompt.dtype), prompt, goal])[None]
                logits = model(inputs_embeds=inputs).logits[0, -len(goal) - 1 : -1].float()
                optimizer.zero_grad()
                F.cross_entropy(logits, goal_tokens).backward()
                optimizer.step()
            with torch.no_grad():
                inputs = torch.cat([soft.to(prompt.dtype), prompt])[None]
                out = model.generate(
                    inputs_embeds=inputs,
                    attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long, device=model.device),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trainable[name])
    ids = [token for token in out[0].tolist() if token not in (tokenizer.pad_token_id, tokenizer.eos_token_id)]
    return Answer(ids, tokenizer.decode(ids, skip_special_tokens=True))
