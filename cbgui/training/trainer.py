"""The transformers Trainer with the losses of objectives.py."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments

from cbgui import hardware
from cbgui.config import RunConfig
from cbgui.data.examples import Example
from cbgui.errors import InputError
from cbgui.modeling.batch import Encoded
from cbgui.modeling.cpu import allocator, fused_norm
from cbgui.modeling.hub import ModelSource
from cbgui.modeling.truncated import TruncatedModel
from cbgui.runs.run import Run
from cbgui.training.callbacks import RunCallback
from cbgui.training.controller import retain_share
from cbgui.training.measure import Totals, micro_batch_losses, validate
from cbgui.training.objectives import coefficients
from cbgui.training.reference_states import ReferenceStates
from cbgui.training.trials import Try

VALIDATION_MICRO_BATCH = 4  # examples; small ones limit the memory and cost little without gradients
FUSED = {"adamw_torch": "adamw_torch_fused"}  # the same values in less time
# Both models' answers to a few examples while a run trains; None where memory does not allow it.
Preview = Callable[[TruncatedModel, ModelSource, RunConfig, list[Example]], list[dict[str, str]] | None]


class RerouteTrainer(Trainer):
    """One dataset item is one optimizer step: its break and retain examples. Micro-batches are cut here."""

    run_callback: RunCallback
    source: ModelSource | None = None
    preview: Preview | None = None
    trial: Try | None = None
    refusal: torch.Tensor | None = None  # (beginnings, hidden_size): the states of `reroute: refusal`

    def __init__(
        self, truncated: TruncatedModel, config: RunConfig, run: Run, pad_token_id: int, **kwargs: Any
    ) -> None:
        super().__init__(model=truncated.model, **kwargs)
        self.truncated, self.config, self.run = truncated, config, run
        self.micro_batch_size = config.training.micro_batch_size
        self.validation_micro_batch = VALIDATION_MICRO_BATCH
        budget = shutil.disk_usage(run.path).free // 4
        self.reference_states = ReferenceStates(truncated, pad_token_id, run.path, budget)
        self.trainable = [parameter for parameter in truncated.model.parameters() if parameter.requires_grad]
        self.step_started, self.tokens = 0.0, 0  # the current step's start, and the tokens of its examples
        self.last: dict[str, Any] = {}  # the values of the step's event

    def get_train_dataloader(self) -> DataLoader:
        # The steps were shuffled when they were planned. Items are whole steps, so nothing is split or padded here.
        return DataLoader(self.train_dataset, batch_size=1, shuffle=False, collate_fn=lambda items: items[0])

    def training_step(
        self, model: torch.nn.Module, inputs: list[Encoded], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Gradients of one step; returns its loss. Raises InputError when the loss is not finite."""
        self.step_started = time.perf_counter()
        if not self.truncated.model.training:
            self.truncated.set_training(True)
        c_reroute, c_retain = coefficients(self.config.objective, self.state.global_step, self.state.max_steps)
        if self.config.objective.adapt_retain:
            c_retain *= retain_share(self.run_callback.validations)
        sums = None
        while sums is None:
            try:
                sums = self._accumulate(inputs, c_reroute, c_retain)
            except (RuntimeError, MemoryError) as error:
                smallest = self.micro_batch_size == 1 and self.truncated.gradient_checkpointing
                if not hardware.is_out_of_memory(error) or smallest:
                    raise
            if sums is None:  # after the except block, because the exception holds on to the failed tensors
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
            "cosine": {str(layer): value for layer, value in zip(self.truncated.target_layers, cosine, strict=True)},
            "coefficients": {"reroute": c_reroute, "retain": c_retain},
        }
        self.tokens = sum(len(e.ids) for e in inputs)
        return total

    def _accumulate(self, step: list[Encoded], c_reroute: float, c_retain: float) -> torch.Tensor:
        """Gradients of this process's share of the step; returns its reroute loss, retain loss and layers' cosines."""
        pulled_alone = self.refusal is not None and len(self.truncated.target_layers) == 1
        totals = Totals.of(step, compare_one=pulled_alone)
        # Each process divides by the whole step's counts, so the processes' sums add up to one mean.
        share = step[self.accelerator.process_index :: self.accelerator.num_processes]
        for parameter in self.trainable:  # allocate gradients first so that they don't fragment activation memory
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        sums = torch.zeros(2 + len(self.truncated.target_layers), dtype=torch.float64)
        for part in self.truncated.micro_batches(share, self.micro_batch_size):
            with self.compute_loss_context_manager():
                losses = micro_batch_losses(
                    self.truncated, part, self.config, self.reference_states, totals, self.refusal
                )
                loss = c_reroute * losses.reroute + c_retain * losses.retain
            self.accelerator.backward(loss)
            sums += torch.tensor([losses.reroute.item(), losses.retain.item(), *losses.cosine.values()]).double()
        return sums

    def _take_less_memory(self) -> None:
        """Prepare to repeat the step with micro-batches of half the size, or, at one example, with gradient
        checkpointing. Losses and gradients stay the same."""
        if self.micro_batch_size > 1:
            self.micro_batch_size = max(1, min(self.micro_batch_size, self.config.training.batch_size) // 2)
            change = f"training.micro_batch_size {self.micro_batch_size}"
        else:
            self.truncated.enable_gradient_checkpointing()
            allocator.return_freed_memory()
            change = "training.gradient_checkpointing true"
        self.model.zero_grad(set_to_none=True)
        hardware.free_cached_memory()
        self.run.append_event(
            "warning",
            step=self.state.global_step + 1,
            text=f"Memory ran out; going on with {change}. The result is the same, but a step takes longer.",
        )

    def validate(self, examples: list[Encoded]) -> dict[str, Any]:
        """`measure.validate`, in smaller micro-batches where memory runs out."""
        while True:
            size = self.validation_micro_batch
            try:
                return validate(self.truncated, examples, self.config, self.reference_states, size, self.refusal)
            except (RuntimeError, MemoryError) as error:
                if not hardware.is_out_of_memory(error) or size == 1:
                    raise
            self.validation_micro_batch = size // 2  # after the except block, as above
            hardware.free_cached_memory()

    def _sum_over_processes(self, sums: torch.Tensor) -> torch.Tensor:
        """Add up the gradients of all processes, and `sums`. With one process there is nothing to do."""
        if self.accelerator.num_processes == 1:
            return sums
        for parameter in self.trainable:
            torch.distributed.all_reduce(parameter.grad)
        sums = sums.to(self.args.device, torch.float32)
        torch.distributed.all_reduce(sums)
        return sums.cpu()


def make_trainer(
    run: Run, config: RunConfig, truncated: TruncatedModel, steps: Dataset, held_out: list[Encoded], pad_token_id: int
) -> RerouteTrainer:
    """The trainer of a truncated model with LoRA. Each item of `steps` is one step's break and retain examples.

    Switches the model to packed attention and, on a CPU in bfloat16, to fused norms.
    """
    training = config.training
    truncated.use_packing()
    if truncated.device.type == "cpu" and truncated.model.dtype == torch.bfloat16:  # in float32 it saves nothing
        fused_norm.fuse_norms(truncated.model)
    arguments = TrainingArguments(
        output_dir=str(run.checkpoints_folder),
        max_steps=training.steps,
        per_device_train_batch_size=1,
        learning_rate=training.learning_rate,
        warmup_steps=training.warmup_steps,
        lr_scheduler_type=training.lr_scheduler,
        weight_decay=0.0,
        optim=FUSED.get(training.optim, training.optim),
        bf16=truncated.model.dtype == torch.bfloat16,
        use_cpu=hardware.device().type == "cpu",
        activation_checkpointing=training.gradient_checkpointing,
        save_steps=training.checkpoint_every,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=training.seed,
    )
    callback = RunCallback(run, held_out)
    trainer = RerouteTrainer(
        truncated, config, run, pad_token_id, args=arguments, train_dataset=steps, callbacks=[callback]
    )
    trainer.remove_callback(PrinterCallback)  # its summary is in the events
    callback.trainer = trainer
    trainer.run_callback = callback
    return trainer
