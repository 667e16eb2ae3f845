"""The training process: `python -m cbgui.training RUN_DIR`. A transformers Trainer with the losses of objectives.py."""

from __future__ import annotations

import os
import shutil
import sys
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from cbgui import hardware, norms, watch
from cbgui.config import InputError, RunConfig
from cbgui.data.batches import Encoded, PairedSteps, encode, shared_tokens
from cbgui.data.examples import Example
from cbgui.estimate import estimate
from cbgui.frozen import FrozenStates
from cbgui.models import (
    add_lora,
    load_tokenizer,
    load_trunk,
    read_model_config,
    resolve_model,
    save_adapter,
)
from cbgui.objectives import REROUTE, RETAIN, coefficients, retain_relative
from cbgui.runs import Run, open_run
from cbgui.samples import room_for_samples, sample_answers
from cbgui.trunk import Trunk

PROBED = 8  # examples a side in a probe
PROBE_SIZE = 4  # examples in one of its passes: without gradients small ones cost little, and they bound the memory
FUSED = {"adamw_torch": "adamw_torch_fused"}  # the same values, sooner (docs/benchmarks.md)


@dataclass
class Losses:
    """Sums over one pass, already divided by the step's token counts; tensors keep their graph."""

    reroute: torch.Tensor
    retain: torch.Tensor
    drift: float = 0.0  # `retain_relative`, whatever the objective
    cosine: dict[int, float] = field(default_factory=dict)  # per target layer, without the ReLU


def pass_losses(
    trunk: Trunk,
    examples: list[Encoded],
    config: RunConfig,
    frozen_states: FrozenStates,
    break_tokens: int,
    retain_tokens: int,
) -> Losses:
    """Both losses from one joint frozen pass and one joint adapted pass over `examples`.

    `break_tokens` and `retain_tokens` are the whole step's counts, so that the sum over micro-batches is the step's
    mean over tokens and layers, however it is cut.
    """
    device = trunk.device
    batch = trunk.batch(examples, frozen_states.pad_token_id)
    counts = ([e.loss_tokens for e in examples if e.is_break is side] for side in (True, False))
    example_of_break, example_of_retain = (
        torch.arange(len(side)).repeat_interleave(torch.tensor(side, dtype=torch.long)).to(device) for side in counts
    )
    frozen_break, frozen_retain = frozen_states(examples)
    adapted_break, adapted_retain = trunk.hidden_states(batch)

    objective = config.objective
    zero = torch.zeros((), device=device)
    losses = Losses(zero, zero, cosine=dict.fromkeys(trunk.target_layers, 0.0))
    with torch.autocast(device.type, enabled=False):
        for layer, frozen in frozen_break.items():
            a, f = (trunk.read(layer, states.float()) for states in (adapted_break[layer], frozen))
            per_layer = max(break_tokens, 1) * len(trunk.target_layers)
            losses.reroute = losses.reroute + REROUTE[objective.reroute](a, f, example_of_break).sum() / per_layer
            with torch.no_grad():
                cosine = torch.cosine_similarity(a.detach().float(), f.float(), dim=-1)
            losses.cosine[layer] = (cosine.sum() / max(break_tokens, 1)).item()
        for layer, frozen in frozen_retain.items():
            a, f = (trunk.read(layer, states.float()) for states in (adapted_retain[layer], frozen))
            per_layer = max(retain_tokens, 1) * len(trunk.retain_layers)
            losses.retain = losses.retain + RETAIN[objective.retain](a, f, example_of_retain).sum() / per_layer
            losses.drift += retain_relative(a.detach(), f, example_of_retain).sum().item() / per_layer
    return losses


class RerouteTrainer(Trainer):
    """One dataset item is one optimizer step: its break and retain examples. Micro-batches are cut here."""

    def __init__(self, trunk: Trunk, config: RunConfig, run: Run, pad_token_id: int, **kwargs: Any) -> None:
        super().__init__(model=trunk.model, **kwargs)
        self.trunk, self.config, self.run = trunk, config, run
        self.micro_batch_size = config.training.micro_batch_size
        self.frozen_states = FrozenStates(trunk, pad_token_id, run.path, shutil.disk_usage(run.path).free // 4)
        self.trainable = [parameter for parameter in trunk.model.parameters() if parameter.requires_grad]
        self.step_started, self.tokens = 0.0, 0  # of the step that runs: its clock, and the tokens of its examples
        self.last: dict[str, Any] = {}

    def get_train_dataloader(self) -> DataLoader:
        # Steps were shuffled when they were planned; items are steps, so nothing is split or padded here.
        return DataLoader(self.train_dataset, batch_size=1, shuffle=False, collate_fn=lambda items: items[0])

    def training_step(
        self, model: torch.nn.Module, inputs: list[Encoded], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        self.step_started = time.perf_counter()
        if not self.trunk.model.training:
            self.trunk.set_training(True)
        c_reroute, c_retain = coefficients(self.config.objective, self.state.global_step, self.state.max_steps)
        c_retain *= watch.retain_share(self.event_callback.probes)
        break_tokens = sum(e.loss_tokens for e in inputs if e.is_break)
        retain_tokens = sum(e.loss_tokens for e in inputs if not e.is_break)
        # On several processes each takes its share of the step; sums over the whole step's counts add up to one mean.
        share = inputs[self.accelerator.process_index :: self.accelerator.num_processes]

        def accumulate() -> torch.Tensor:
            """Gradients of the share, and its reroute loss, retain loss and cosine per layer."""
            for parameter in self.trainable:  # before the activations, so that they do not lie among them and stay
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            sums = torch.zeros(2 + len(self.trunk.target_layers), dtype=torch.float64)
            for part in self.trunk.micro_batches(share, self.micro_batch_size):
                with self.compute_loss_context_manager():
                    losses = pass_losses(self.trunk, part, self.config, self.frozen_states, break_tokens, retain_tokens)
                    loss = c_reroute * losses.reroute + c_retain * losses.retain
                self.accelerator.backward(loss)
                sums += torch.tensor([losses.reroute.item(), losses.retain.item(), *losses.cosine.values()]).double()
            return sums

        sums = None
        while sums is None:
            try:
                sums = accumulate()
            except (RuntimeError, MemoryError) as error:
                smallest = self.micro_batch_size == 1 and self.trunk.gradient_checkpointing
                if not hardware.is_out_of_memory(error) or smallest:
                    raise
            if sums is None:  # outside the handler, which keeps the failed pass's tensors alive
                self._take_less_memory()
        reroute, retain, *cosine = self._sum_over_processes(sums).tolist()
        total = torch.tensor(c_reroute * reroute + c_retain * retain, device=self.args.device)
        if not torch.isfinite(total):
            raise InputError(
                f"the loss is {total.item()} at step {self.state.global_step + 1}; lower training.learning_rate or "
                "check the model's weights."
            )
        self.last = {
            "reroute_loss": reroute,
            "retain_loss": retain,
            "cosine": {str(layer): value for layer, value in zip(self.trunk.target_layers, cosine, strict=True)},
            "coefficients": {"reroute": c_reroute, "retain": c_retain},
        }
        self.tokens = sum(len(e.ids) for e in inputs)
        return total

    def _take_less_memory(self) -> None:
        """The step begins again with half as many examples in a pass, and where there was one, with gradient
        checkpointing; its losses and gradients stay the same."""
        if self.micro_batch_size > 1:
            self.micro_batch_size = max(1, min(self.micro_batch_size, self.config.training.batch_size) // 2)
            change = f"training.micro_batch_size {self.micro_batch_size}"
        else:
            self.trunk.enable_gradient_checkpointing()
            hardware.return_freed_memory()
            change = "training.gradient_checkpointing true"
        self.model.zero_grad(set_to_none=True)
        hardware.free_cached_memory()
        self.run.append_event(
            "warning",
            step=self.state.global_step + 1,
            text=f"Memory ran out; going on with {change}. The result is the same, a step takes longer.",
        )

    def _sum_over_processes(self, sums: torch.Tensor) -> torch.Tensor:
        """Add the gradients of all processes, and `sums`; with one process, nothing to do."""
        if self.accelerator.num_processes == 1:
            return sums
        for parameter in self.trainable:
            torch.distributed.all_reduce(parameter.grad)
        sums = sums.to(self.args.device, torch.float32)
        torch.distributed.all_reduce(sums)
        return sums.cpu()


@torch.no_grad()
def probe(trunk: Trunk, examples: list[Encoded], config: RunConfig, frozen_states: FrozenStates) -> dict[str, Any]:
    """The step's losses on held-out examples."""
    trunk.set_training(False)
    break_tokens = sum(e.loss_tokens for e in examples if e.is_break)
    retain_tokens = sum(e.loss_tokens for e in examples if not e.is_break)
    device = trunk.device
    reroute = retain = drift = 0.0
    cosine = dict.fromkeys(trunk.target_layers, 0.0)
    for part in trunk.micro_batches(examples, PROBE_SIZE):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=trunk.model.dtype == torch.bfloat16):
            losses = pass_losses(trunk, part, config, frozen_states, break_tokens, retain_tokens)
        reroute, retain = reroute + losses.reroute.item(), retain + losses.retain.item()
        drift += losses.drift
        for layer, value in losses.cosine.items():
            cosine[layer] += value
    return {
        "reroute_loss": reroute,
        "retain_loss": retain,
        "drift": drift,
        "cosine": {str(layer): value for layer, value in cosine.items()},
    }


class EventCallback(TrainerCallback):
    """Writes events.jsonl, obeys request.json, marks complete checkpoints."""

    def __init__(self, run: Run, held_out: list[Encoded]) -> None:
        self.run, self.held_out = run, held_out
        self.source = "held out" if (run.path / "data" / "held_out.jsonl").is_file() else "training"
        self.trainer: RerouteTrainer | None = None
        self.sampled: list[Example] = []
        self.ended_by: str | None = None
        # A resumed run goes on with the probes it had.
        self.probes = [event for event in run.events()[0] if event["kind"] == "probe"]
        self.warned: set[str] = set()

    def _probe(self, step: int, steps: int) -> None:
        trainer = self.trainer
        if not self.held_out:
            return
        values = probe(trainer.trunk, self.held_out, trainer.config, trainer.frozen_states)
        self.run.append_event("probe", step=step, examples=self.source, **values)
        self.probes.append({"step": step, **values})
        for kind, text in watch.warnings(self.probes, steps, trainer.config).items():
            if kind not in self.warned:
                self.warned.add(kind)
                self.run.append_event("warning", step=step, text=text)

    def _sample(self, step: int) -> None:
        """Answers to look at. They are a help, not the run: where they fail, the run goes on and says why."""
        trainer = self.trainer
        try:
            if not room_for_samples(trainer.source, trainer.config):
                self.run.append_event("status", state="training", text="No memory to spare for sample answers")
                return
            answers = sample_answers(trainer.trunk, trainer.source, trainer.config, self.sampled)
            self.run.append_event("samples", step=step, answers=answers)
        except Exception as error:
            traceback.print_exc()
            self.run.append_event("status", state="training", text=f"No sample answers ({type(error).__name__})")
            hardware.free_cached_memory()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        trainer = self.trainer
        seconds = time.perf_counter() - trainer.step_started  # the optimizer's part too
        rate = kwargs["lr_scheduler"].get_last_lr()[0]
        self.run.append_event(
            "step",
            step=state.global_step,
            steps=state.max_steps,
            learning_rate=rate,
            memory_bytes=hardware.memory_in_use(),
            seconds=seconds,
            tokens_per_second=trainer.tokens / seconds,
            **trainer.last,
        )
        last = state.global_step >= state.max_steps
        met = False
        if last or state.global_step % trainer.config.training.probe_every == 0:
            self._probe(state.global_step, state.max_steps)
            met = watch.target_met(self.probes, trainer.config.training.stop_when)
        every = trainer.config.training.sample_every
        if every and self.sampled and self.run.writes and (last or state.global_step % every == 0):
            self._sample(state.global_step)
        (request,) = broadcast_object_list(["met" if met else self.run.request()])  # the first process decides for all
        if last:
            return
        if request == "met":
            self.run.append_event("status", state="training", text="training.stop_when is met; finishing early")
            control.should_training_stop = True
        elif request in ("pause", "stop"):
            self.ended_by = {"pause": "paused", "stop": "stopped"}[request]
            control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs) -> None:
        if not state.is_world_process_zero:
            return
        folder = self.run.path / "checkpoints" / f"checkpoint-{state.global_step}"
        (folder / "complete").touch()
        self.run.append_event("checkpoint", step=state.global_step, path=f"checkpoints/{folder.name}")


def build_trainer(run: Run, config: RunConfig) -> RerouteTrainer:
    """Load tokenizer, trunk and LoRA, and lay out the steps."""
    source = resolve_model(config.model.name)
    run.append_event("status", state="loading", text=f"Loading {source.label}")
    tokenizer = load_tokenizer(source)
    training = config.training
    breaks, retains, held_out = (run.examples(name) for name in ("break", "retain", "held_out"))
    steps = PairedSteps(
        tokenizer,
        breaks,
        retains,
        steps=training.steps,
        break_batch_size=training.break_batch_size,
        retain_batch_size=training.retain_batch_size,
        max_tokens=config.data.max_tokens,
        without_request=config.objective.without_request,
        seed=training.seed,
    )
    # Without held-out examples a few of the training ones are probed, so that no run goes unwatched.
    sample = [e for e in held_out if e.kind == "break"] or breaks, [e for e in held_out if e.kind != "break"] or retains
    encoded = [encode(tokenizer, e, config.data.max_tokens) for side in sample for e in side[:PROBED]]
    choice = estimate(
        read_model_config(source),
        config,
        hardware.memory_for_training(),
        hardware.kind(),
        steps=[[len(e.ids) for e in step] for step in steps],
        shared=shared_tokens([e for step in steps for e in step]),
    )
    config = choice.config
    if run.writes:
        run.write_config(config)
    if not held_out:
        run.append_event("status", state="loading", text="No held-out examples; probing some of the training ones")
    if choice.reasons:
        run.append_event("status", state="loading", text="Chosen: " + "; ".join(choice.reasons))
    if config.training.gradient_checkpointing:  # or what each layer frees would stay with the process, on a CPU
        hardware.return_freed_memory()
    else:
        hardware.keep_freed_memory()
    set_seed(training.seed)
    trunk = load_trunk(source, config)
    add_lora(trunk, config.lora, training.seed)
    trainer = make_trainer(run, config, trunk, steps, encoded, tokenizer.pad_token_id)
    trainer.source = source
    trainer.event_callback.sampled = [*sample[0][:2], *sample[1][:1]]
    return trainer


def make_trainer(
    run: Run, config: RunConfig, trunk: Trunk, steps: Dataset, held_out: list[Encoded], pad_token_id: int
) -> RerouteTrainer:
    """The trainer of a trunk with LoRA; each item of `steps` is one step's break and retain examples."""
    training = config.training
    trunk.use_fast_attention()
    if trunk.device.type == "cpu" and trunk.model.dtype == torch.bfloat16:  # in float32 it saves nothing
        norms.fuse(trunk.model)
    arguments = TrainingArguments(
        output_dir=str(run.path / "checkpoints"),
        max_steps=training.steps,
        per_device_train_batch_size=1,
        learning_rate=training.learning_rate,
        warmup_steps=training.warmup_steps,
        lr_scheduler_type=training.lr_scheduler,
        weight_decay=0.0,
        optim=FUSED.get(training.optim, training.optim),
        bf16=trunk.model.dtype == torch.bfloat16,
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
    callback = EventCallback(run, held_out)
    trainer = RerouteTrainer(
        trunk, config, run, pad_token_id, args=arguments, train_dataset=steps, callbacks=[callback]
    )
    trainer.remove_callback(PrinterCallback)  # its summary is in the events
    callback.trainer = trainer
    trainer.event_callback = callback
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
    if ended_by != "paused" and trainer.is_world_process_zero():
        save_adapter(trainer.trunk, trainer.source, config.model.name, run.adapter)
    if ended_by is None:
        run.append_event("done", step=trainer.state.global_step)
    words = {"paused": "Paused; resume when you like", "stopped": "Stopped; the adapter so far is kept"}
    run.append_event("status", state=ended_by or "done", text=words.get(ended_by, "Done"))


def main(argument: str) -> int:
    """Train the run in this process; under `accelerate launch`, in each of them, and the first one writes."""
    run = replace(open_run(Path(argument)), writes=int(os.environ.get("RANK", 0)) == 0)
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
    if hardware.is_out_of_memory(error):
        return (
            "Out of memory with one example at a time and gradient checkpointing: set model.quantization to nf4 or a "
            "smaller data.max_tokens; the last checkpoint is kept."
        )
    if isinstance(error, OSError) and error.errno == 28:
        return "The disk is full: free some space, then resume; the last checkpoint is kept."
    return f"Training failed ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); see log.txt."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
