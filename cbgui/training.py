"""The training process: `python -m cbgui.training RUN_DIR`. A transformers Trainer with the losses of objectives.py."""

from __future__ import annotations

import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from cbgui import hardware
from cbgui.config import InputError, RunConfig
from cbgui.data.batches import Batch, Encoded, PairedSteps, collate, encode, micro_batches
from cbgui.models import Trunk, add_lora, load_tokenizer, load_trunk, resolve_model, save_adapter
from cbgui.objectives import REROUTE, RETAIN, coefficients
from cbgui.runs import Run, open_run


@dataclass
class Losses:
    """Sums over one pass, already divided by the step's token counts; tensors keep their graph."""

    reroute: torch.Tensor
    retain: torch.Tensor
    cosine: dict[int, float] = field(default_factory=dict)  # per target layer, without the ReLU


def pass_losses(trunk: Trunk, batch: Batch, config: RunConfig, break_tokens: int, retain_tokens: int) -> Losses:
    """Both losses from one joint frozen pass and one joint adapted pass.

    `break_tokens` and `retain_tokens` are the whole step's counts, so that the sum over micro-batches is the step's
    mean over tokens and layers, however it is cut.
    """
    mask = batch.break_mask | batch.retain_mask
    is_break = batch.break_mask[mask]
    model = trunk.model
    training = model.training
    with torch.no_grad(), model.disable_adapter():
        model.eval()
        frozen = trunk.hidden_states(batch.input_ids, batch.attention_mask, mask)
    model.train(training)
    adapted = trunk.hidden_states(batch.input_ids, batch.attention_mask, mask)

    objective = config.objective
    zero = next(iter(adapted.values())).new_zeros((), dtype=torch.float32)
    losses = Losses(zero, zero)
    with torch.autocast(mask.device.type, enabled=False):
        for layer in trunk.target_layers:
            a, f = (trunk.read(layer, states[layer][is_break].float()) for states in (adapted, frozen))
            per_layer = max(break_tokens, 1) * len(trunk.target_layers)
            losses.reroute = losses.reroute + REROUTE[objective.reroute](a, f).sum() / per_layer
            with torch.no_grad():
                cosine = torch.cosine_similarity(a.detach().float(), f.float(), dim=-1)
            losses.cosine[layer] = (cosine.sum() / max(break_tokens, 1)).item()
        for layer in trunk.retain_layers:
            a, f = (trunk.read(layer, states[layer][~is_break].float()) for states in (adapted, frozen))
            per_layer = max(retain_tokens, 1) * len(trunk.retain_layers)
            losses.retain = losses.retain + RETAIN[objective.retain](a, f).sum() / per_layer
    return losses


class RerouteTrainer(Trainer):
    """One dataset item is one optimizer step: its break and retain examples. Micro-batches are cut here."""

    def __init__(self, trunk: Trunk, config: RunConfig, run: Run, **kwargs: Any) -> None:
        super().__init__(model=trunk.model, **kwargs)
        self.trunk, self.config, self.run = trunk, config, run
        self.last: dict[str, Any] = {}

    def get_train_dataloader(self) -> DataLoader:
        # Steps were shuffled when they were planned; items are steps, so nothing is split or padded here.
        return DataLoader(self.train_dataset, batch_size=1, shuffle=False, collate_fn=lambda items: items[0])

    def training_step(
        self, model: torch.nn.Module, inputs: list[Encoded], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        started = time.perf_counter()
        model.train()
        c_reroute, c_retain = coefficients(self.config.objective, self.state.global_step, self.state.max_steps)
        break_tokens = sum(e.loss_tokens for e in inputs if e.is_break)
        retain_tokens = sum(e.loss_tokens for e in inputs if not e.is_break)
        reroute = retain = 0.0
        cosine = dict.fromkeys(self.trunk.target_layers, 0.0)
        total = torch.zeros((), device=self.args.device)
        for part in micro_batches(inputs, self.config.training.micro_batch_size):
            batch = collate(part, self.processing_class.pad_token_id).to(self.args.device)
            with self.compute_loss_context_manager():
                losses = pass_losses(self.trunk, batch, self.config, break_tokens, retain_tokens)
                loss = c_reroute * losses.reroute + c_retain * losses.retain
            self.accelerator.backward(loss)
            total += loss.detach()
            reroute += losses.reroute.item()
            retain += losses.retain.item()
            for layer, value in losses.cosine.items():
                cosine[layer] += value
        if not torch.isfinite(total):
            raise InputError(
                f"the loss is {total.item()} at step {self.state.global_step + 1}; lower training.learning_rate or "
                "check the model's weights."
            )
        seconds = time.perf_counter() - started
        self.last = {
            "reroute_loss": reroute,
            "retain_loss": retain,
            "cosine": {str(layer): value for layer, value in cosine.items()},
            "coefficients": {"reroute": c_reroute, "retain": c_retain},
            "tokens_per_second": sum(len(e.ids) for e in inputs) / seconds,
            "seconds": seconds,
        }
        return total


@torch.no_grad()
def probe(trunk: Trunk, examples: list[Encoded], config: RunConfig, pad_token_id: int) -> dict[str, Any]:
    """The step's losses on held-out examples."""
    trunk.model.eval()
    break_tokens = sum(e.loss_tokens for e in examples if e.is_break)
    retain_tokens = sum(e.loss_tokens for e in examples if not e.is_break)
    device = next(trunk.model.parameters()).device
    reroute = retain = 0.0
    cosine = dict.fromkeys(trunk.target_layers, 0.0)
    for part in micro_batches(examples, config.training.micro_batch_size):
        batch = collate(part, pad_token_id).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=trunk.model.dtype == torch.bfloat16):
            losses = pass_losses(trunk, batch, config, break_tokens, retain_tokens)
        reroute, retain = reroute + losses.reroute.item(), retain + losses.retain.item()
        for layer, value in losses.cosine.items():
            cosine[layer] += value
    return {"reroute_loss": reroute, "retain_loss": retain, "cosine": {str(k): v for k, v in cosine.items()}}


class EventCallback(TrainerCallback):
    """Writes events.jsonl, obeys request.json, marks complete checkpoints."""

    def __init__(self, run: Run, held_out: list[Encoded]) -> None:
        self.run, self.held_out = run, held_out
        self.trainer: RerouteTrainer | None = None
        self.ended_by: str | None = None

    def _probe(self, step: int) -> None:
        trainer = self.trainer
        if self.held_out:
            pad = trainer.processing_class.pad_token_id
            values = probe(trainer.trunk, self.held_out, trainer.config, pad)
            self.run.append_event("probe", step=step, **values)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        trainer = self.trainer
        rate = kwargs["lr_scheduler"].get_last_lr()[0]
        self.run.append_event(
            "step",
            step=state.global_step,
            steps=state.max_steps,
            learning_rate=rate,
            memory_bytes=hardware.memory_in_use(),
            **trainer.last,
        )
        last = state.global_step >= state.max_steps
        if last or state.global_step % trainer.config.training.probe_every == 0:
            self._probe(state.global_step)
        request = self.run.request()
        if request in ("pause", "stop") and not last:
            self.ended_by = {"pause": "paused", "stop": "stopped"}[request]
            control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs) -> None:
        folder = self.run.path / "checkpoints" / f"checkpoint-{state.global_step}"
        (folder / "complete").touch()
        self.run.append_event("checkpoint", step=state.global_step, path=f"checkpoints/{folder.name}")


def build_trainer(run: Run, config: RunConfig) -> RerouteTrainer:
    """Load tokenizer, trunk and LoRA, and lay out the steps."""
    source = resolve_model(config.model.name)
    run.append_event("status", state="loading", text=f"Loading {source.label}")
    tokenizer = load_tokenizer(source)
    training = config.training
    set_seed(training.seed)
    trunk = load_trunk(source, config)
    add_lora(trunk, config.lora, training.seed)
    steps = PairedSteps(
        tokenizer,
        run.examples("break"),
        run.examples("retain"),
        steps=training.steps,
        break_batch_size=training.break_batch_size,
        retain_batch_size=training.retain_batch_size,
        max_tokens=config.data.max_tokens,
        without_request=config.objective.without_request,
        seed=training.seed,
    )
    held_out = run.examples("held_out")
    sample = [e for e in held_out if e.kind == "break"][:8] + [e for e in held_out if e.kind != "break"][:8]
    bf16 = trunk.model.dtype == torch.bfloat16
    arguments = TrainingArguments(
        output_dir=str(run.path / "checkpoints"),
        max_steps=training.steps,
        per_device_train_batch_size=1,
        learning_rate=training.learning_rate,
        warmup_steps=training.warmup_steps,
        lr_scheduler_type=training.lr_scheduler,
        weight_decay=0.0,
        bf16=bf16,
        use_cpu=hardware.device().type == "cpu",
        activation_checkpointing=training.gradient_checkpointing,
        save_steps=training.checkpoint_every,
        save_total_limit=2,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=training.seed,
    )
    callback = EventCallback(run, [encode(tokenizer, e, config.data.max_tokens) for e in sample])
    trainer = RerouteTrainer(
        trunk, config, run, args=arguments, train_dataset=steps, processing_class=tokenizer, callbacks=[callback]
    )
    callback.trainer = trainer
    trainer.event_callback = callback
    trainer.source = source
    return trainer


def train(run: Run) -> None:
    """Train (or resume) `run` to its end, a pause or a stop; leaves adapter/ behind unless paused."""
    config = run.config()
    run.append_event("status", state="starting", text=f"Starting on {hardware.describe()}")
    trainer = build_trainer(run, config)
    checkpoint = run.last_checkpoint()
    words = f"Resuming from {checkpoint.name}" if checkpoint else "Training"
    run.append_event("status", state="training", text=words, model=trainer.source.label)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    ended_by = trainer.event_callback.ended_by
    if ended_by != "paused":
        save_adapter(trainer.trunk, trainer.source, config.model.name, run.adapter)
    if ended_by is None:
        run.append_event("done", step=trainer.state.global_step)
    words = {"paused": "Paused; resume when you like", "stopped": "Stopped; the adapter so far is kept"}
    run.append_event("status", state=ended_by or "done", text=words.get(ended_by, "Done"))


def main(argument: str) -> int:
    run = open_run(Path(argument))
    try:
        train(run)
    except Exception as error:  # the last line of defence: traceback to the log, a sentence to the user
        traceback.print_exc()
        sentence = _sentence(error)
        run.append_event("error", text=sentence)
        run.append_event("status", state="failed", text=sentence)
        return 1
    return 0


def _sentence(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "Out of memory: lower training.micro_batch_size or set model.quantization to nf4, then resume."
    if isinstance(error, OSError) and error.errno == 28:
        return "The disk is full: free some space, then resume; the last checkpoint is kept."
    return f"Training failed ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); see log.txt."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
