"""The hidden states from which the frozen upper layers say a refusal, solved once and cached.

Not in the paper, which only says that states may be rerouted to a refusal (section 3.1). There is one state for each
beginning of the refusal, the empty one included: from the state of the empty beginning the upper layers say the first
token, whatever the context. Training then needs neither these layers nor the head.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from cbgui import hardware
from cbgui.config import CACHE, RunConfig
from cbgui.data.examples import Example
from cbgui.errors import InputError
from cbgui.modeling.batch import Encoded, collate
from cbgui.modeling.chat_format import encode, end_of_turn, refusal_ids
from cbgui.modeling.hub import ModelSource, version_of
from cbgui.modeling.truncated import TruncatedModel, load_truncated_model
from cbgui.modeling.upper import UpperModel, load_upper_model

STEPS, ROWS = 45, 6  # of Adam; contexts in a step
MOST_ROUNDS = 4  # of so many steps, as long as the sentence does not come out whole
CONTEXTS, UNSEEN = 24, 8  # break examples that are solved on, and others that check the result
CONTEXT_ANSWER = 40  # tokens of a context's answer
NOISE, CHECKED_NOISE = 0.8, 0.3  # of a state's norm; trained states only come near the solved ones
IN_ANSWER = 0.7  # share of the rows whose answer tokens before the refusal hold the first state too
NEAR = 0.5  # weight of the distance between a refusal token's state and its natural one
LEARNING_RATE = 0.1  # of a channel's size
WHOLE = 0.9  # of the unseen contexts must give the whole sentence
FEWEST, LONGEST = 3, 60  # tokens of a sentence

Beginning = tuple[int, ...]


@dataclass(frozen=True)
class RefusalStates:
    """The states of all beginnings of the sentences. Number 0 is the empty beginning."""

    sentences: list[Beginning]
    vectors: torch.Tensor  # (beginnings, hidden_size) in float32
    whole: float  # share of unseen contexts in which the sentence comes out whole

    def warning(self) -> str | None:
        """A sentence with a remedy if the refusal does not come out whole often enough."""
        if self.whole >= WHOLE:
            return None
        return (
            f"The refusal comes out whole in {self.whole:.0%} of the contexts that it was not solved for (wanted: "
            f"{WHOLE:.0%}): choose a shorter sentence in objective.refusal, or a higher objective.target_layers."
        )


def numbered(sentences: Iterable[Beginning]) -> dict[Beginning, int]:
    """Every beginning of the sentences and its number; that of the empty one is 0."""
    found = sorted({sentence[:length] for sentence in sentences for length in range(len(sentence) + 1)})
    return {beginning: number for number, beginning in enumerate(found)}


def sentences_of(tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> list[Beginning]:
    """The token ids of the run's refusals; [] where answers fall apart instead.

    Raises InputError for a sentence that is too short or too long.
    """
    if config.objective.reroute != "refusal":
        return []
    found = []
    for sentence in config.objective.refusal:
        ids = tuple(refusal_ids(tokenizer, sentence))
        if not FEWEST <= len(ids) <= LONGEST:
            raise InputError(
                f"objective.refusal = {sentence!r} has {len(ids)} tokens; write a sentence of {FEWEST} to {LONGEST}."
            )
        found.append(ids)
    return list(dict.fromkeys(found))


def refusal_states(
    source: ModelSource,
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    breaks: list[Example],
    layer: int,
    tell: Callable[[str], None] = lambda words: None,
) -> RefusalStates:
    """The refusal's states at `layer`, the highest target: from the cache, or solved with the upper layers.

    `tell` is called with the progress in words; what it raises ends the work.
    """
    sentences = sentences_of(tokenizer, config)
    parts = [version_of(config.model.name, source), str(source.path), config.model.quantization, config.model.dtype]
    parts += [layer, config.model.thinking, sentences, [(e.messages, e.response) for e in breaks]]
    cache = CACHE / "refusals" / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}.safetensors"
    try:
        with safe_open(cache, "pt") as file:
            return RefusalStates(sentences, file.get_tensor("vectors"), float(file.metadata()["whole"]))
    except (OSError, SafetensorError, KeyError, ValueError):
        pass  # it is solved for the first time
    with torch.random.fork_rng():
        torch.manual_seed(0)
        contexts = _read_contexts(source, config, tokenizer, breaks, sentences, layer, tell)
        upper = load_upper_model(source, config.model, layer)
        solver = Solver(upper, contexts, sentences, end_of_turn(tokenizer))
        whole = 0.0
        for turn in range(1, MOST_ROUNDS + 1):
            for step in range(STEPS):
                if step % 5 == 0:
                    again = f", round {turn} of at most {MOST_ROUNDS}" if turn > 1 else ", once for each topic"
                    tell(f"Preparing the sentence that the model will say{again} ({step / STEPS:.0%})")
                solver.step(1 - step / STEPS)
            if (whole := solver.share_whole()) >= WHOLE:
                break
        states = RefusalStates(sentences, solver.vectors().detach(), whole)
    del upper, solver
    hardware.free_cached_memory()
    _keep(states, cache)
    return states


def _keep(states: RefusalStates, cache: Path) -> None:
    """Write them for the next run. A full or read-only disk only means that they are solved again."""
    scratch = cache.with_suffix(f".{os.getpid()}.part")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_file({"vectors": states.vectors.contiguous()}, scratch, metadata={"whole": str(states.whole)})
        scratch.replace(cache)
    except (OSError, SafetensorError):
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


@dataclass
class Contexts:
    """What the solver starts from. The last UNSEEN contexts, or the last third of few, are for the check."""

    examples: list[Encoded]  # prompt and the beginning of its answer
    states: list[torch.Tensor]  # (tokens, hidden_size) of each at the target layer, in float32
    natural: torch.Tensor  # (beginnings, hidden_size): a refusal token's mean state; 0 for the empty beginning

    @property
    def solved_on(self) -> int:
        return max(1, len(self.examples) - min(UNSEEN, len(self.examples) // 3))


@torch.no_grad()
def _read_contexts(
    source: ModelSource,
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    breaks: list[Example],
    sentences: list[Beginning],
    layer: int,
    tell: Callable[[str], None],
) -> Contexts:
    """Reads them with the truncated model, which is freed before the upper layers are loaded."""
    tell("Reading the questions that must stop")
    shuffle = random.Random(0)
    chosen = shuffle.sample(breaks, min(len(breaks), CONTEXTS + UNSEEN))
    whole = [encode(tokenizer, e, config.data.max_tokens, answer_only=True) for e in chosen]
    contexts = [Encoded(e.ids[: e.loss_start + CONTEXT_ANSWER], e.loss_start, True) for e in whole]
    truncated = load_truncated_model(source, config)
    truncated.set_training(False)
    read = functools.partial(_states, truncated, layer, tokenizer.pad_token_id)
    states = [one for start in range(0, len(contexts), 8) for one in read(contexts[start : start + 8])]
    numbers = numbered(sentences)
    sums, counts = torch.zeros(len(numbers), states[0].shape[1]), torch.zeros(len(numbers), 1)
    for sentence in sentences:
        cut = [(e, shuffle.randint(0, e.loss_tokens)) for e in contexts[:8]]
        said = [Encoded(e.ids[: e.loss_start + k] + sentence, e.loss_start + k, True) for e, k in cut]
        for example, found in zip(said, read(said), strict=True):
            for length in range(1, len(sentence) + 1):
                number = numbers[sentence[:length]]
                sums[number] += found[example.loss_start + length - 1]
                counts[number] += 1
    del truncated, read
    hardware.free_cached_memory()
    return Contexts(contexts, states, sums / counts.clamp_min(1))


def _states(truncated: TruncatedModel, layer: int, pad_token_id: int, examples: list[Encoded]) -> list[torch.Tensor]:
    """The states of all tokens of each example at `layer`, in float32 on the CPU."""
    batch = collate([Encoded(e.ids, 0, True) for e in examples], pad_token_id).to(truncated.device)
    states, _ = truncated.hidden_states(batch)
    return list(states[layer].float().cpu().split([len(e.ids) for e in examples]))


class Solver:
    """Finds the states by gradient descent through the frozen upper layers.

    The loss: cross-entropy of the refusal and the end of the turn after contexts whose last state, or whose whole
    answer, is replaced; ReLU of the cosine between the first state and natural answer states, so that reaching it is
    rerouting; and the distance of the other states from natural ones.
    """

    def __init__(self, upper: UpperModel, contexts: Contexts, sentences: list[Beginning], end: int) -> None:
        self.upper, self.contexts, self.sentences, self.end = upper, contexts, sentences, end
        self.numbers = numbered(sentences)
        self.shuffle = random.Random(0)
        self.at_once = ROWS  # rows in one pass; fewer where memory runs out
        pairs = zip(contexts.examples, contexts.states, strict=True)
        self.answers = torch.cat([states[e.loss_start :] for e, states in pairs])
        self.norm = self.answers.norm(dim=-1).median()
        self.channel = self.norm / self.answers.shape[1] ** 0.5
        start = contexts.natural.clone()
        start[0] = torch.randn(start.shape[1]) * self.channel
        self.lengths = start.norm(dim=-1, keepdim=True)
        self.weight = torch.nn.Parameter(start)
        self.optimizer = torch.optim.Adam([self.weight], lr=LEARNING_RATE * self.channel.item())

    def vectors(self) -> torch.Tensor:
        """(beginnings, hidden_size): each as long as its token's state naturally is."""
        return F.normalize(self.weight, dim=-1) * self.lengths

    def step(self, rate: float) -> None:
        """One step of Adam, at `rate` of the learning rate; in smaller passes where memory runs out."""
        drawn = self.shuffle.getstate()
        while True:
            try:
                return self._step(rate)
            except (RuntimeError, MemoryError) as error:
                if not hardware.is_out_of_memory(error) or self.at_once == 1:
                    raise
            self.at_once //= 2  # after the except block, because the exception holds on to the failed tensors
            self.shuffle.setstate(drawn)
            hardware.free_cached_memory()

    def _step(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * self.channel.item() * rate
        vectors, shuffle = self.vectors(), self.shuffle
        rows = []
        for _ in range(ROWS):
            cut = shuffle.choice((0, 0, shuffle.randint(1, CONTEXT_ANSWER)))
            sentence, context = shuffle.choice(self.sentences), shuffle.randrange(self.contexts.solved_on)
            rows.append(self._row(context, cut, sentence, vectors, shuffle.random() < IN_ANSWER, None))
        self.optimizer.zero_grad()
        tokens = sum(len(row[3]) for row in rows)
        for start in range(0, ROWS, self.at_once):
            logits, wanted = self._read(rows[start : start + self.at_once])
            (F.cross_entropy(logits, wanted, reduction="sum") / tokens).backward(retain_graph=True)
        turned = torch.relu(F.cosine_similarity(vectors[:1], self.answers, dim=-1)).mean()
        far = ((vectors - self.contexts.natural).square().sum(-1) / self.lengths[:, 0].square())[1:].mean()
        (turned + NEAR * far).backward()
        self.optimizer.step()

    @torch.no_grad()
    def share_whole(self) -> float:
        """The share of unseen contexts, plain and with a begun answer, after which the whole sentence comes."""
        vectors, right = self.vectors(), []
        for context in range(self.contexts.solved_on, len(self.contexts.examples)) or [0]:
            rows = [
                self._row(context, cut, sentence, vectors, in_answer, CHECKED_NOISE)
                for cut in (0, CONTEXT_ANSWER // 2)
                for in_answer in (False, True)
                for sentence in self.sentences
            ]
            logits, wanted = self._read(rows)
            hits = (logits.argmax(-1) == wanted).cpu().split([len(row[2]) for row in rows])
            right += [bool(hit.all()) for hit in hits]
        return sum(right) / len(right)

    def _row(
        self, context: int, cut: int, sentence: Beginning, vectors: torch.Tensor, in_answer: bool, noise: float | None
    ) -> tuple[Beginning, torch.Tensor, list[int], list[int]]:
        """(ids, states, positions, wanted tokens) of a context cut after `cut` answer tokens, then the refusal.

        The state before the refusal, and with `in_answer` those of all answer tokens, are those of the empty beginning.
        """
        example, states = self.contexts.examples[context], self.contexts.states[context]
        start, cut = example.loss_start, min(cut, example.loss_tokens)
        end = start + cut
        first = start if cut and in_answer else end - 1  # of the replaced states
        dense = end - 1 - first
        own = [self.numbers[sentence[:length]] for length in range(len(sentence) + 1)]
        states = torch.cat([states[:first], vectors[[0] * dense + own]])
        sigma = torch.zeros(len(states), 1)
        sigma[first:] = NOISE * torch.rand(len(states) - first, 1) if noise is None else noise
        states = states + sigma * self.channel * torch.randn_like(states)
        wanted = [sentence[0]] * dense + [*sentence, self.end]
        positions = list(range(first, end + len(sentence)))
        return example.ids[:end] + sentence, states, positions, wanted

    def _read(self, rows: list[tuple[Beginning, torch.Tensor, list[int], list[int]]]) -> tuple[torch.Tensor, ...]:
        """Logits, (positions of all rows, vocabulary), and the tokens that are wanted there."""
        longest = max(len(ids) for ids, *_ in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for number, (own, *_) in enumerate(rows):
            ids[number, : len(own)] = torch.tensor(own)
        states = torch.stack([F.pad(own, (0, 0, 0, longest - len(own))) for _, own, _, _ in rows])
        positions = torch.tensor([row * longest + p for row, (*_, own, _) in enumerate(rows) for p in own])
        logits = self.upper.logits(ids, states, positions)
        return logits, torch.tensor([token for *_, own in rows for token in own], device=logits.device)
