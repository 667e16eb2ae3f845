"""One training from start to end: load the model, plan the steps, train, save the adapter, say how it ended."""

from __future__ import annotations

import gc
import os
import re
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list, gather_object
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase, set_seed

from cbgui import hardware
from cbgui.config import RunConfig
from cbgui.data.examples import Example
from cbgui.errors import InputError, error_sentence, is_disk_full
from cbgui.modeling.adapter_io import checkpoint_adapter, save_adapter
from cbgui.modeling.architecture import read_model_config, refusal_layer
from cbgui.modeling.batch import shared_tokens
from cbgui.modeling.chat_format import encode, load_tokenizer, refuse_unfit, refuse_unknown_tokens
from cbgui.modeling.cpu import allocator
from cbgui.modeling.decoder import depth
from cbgui.modeling.hub import ModelSource, resolve_model, version_of
from cbgui.modeling.lora import INIT_STD, add_lora, multiply_adapter
from cbgui.modeling.thinking import thinks
from cbgui.modeling.thoughts import split_thought
from cbgui.modeling.truncated import load_truncated_model
from cbgui.runs.adapter import ADAPTER_WEIGHTS, read_lora_settings
from cbgui.runs.run import Run
from cbgui.training.callbacks import STUCK
from cbgui.training.diagnostics import stronger
from cbgui.training.memory import estimate_memory
from cbgui.training.refusal_rows import RefusalSteps, validation_row
from cbgui.training.refusal_states import refusal_states, sentences_of
from cbgui.training.steps import PairedSteps
from cbgui.training.trainer import Preview, RerouteTrainer, make_trainer
from cbgui.training.trials import Try, as_it_is, best, next_strength, tried_examples

NO_LOOK_ALIKES = (
    "There are no look-alikes among the examples to keep: harmless questions about the same subject may break too. Let "
    "them be suggested (python -m cbgui suggest, or the button on the Topic page), read them, and train again."
)
NO_THOUGHTS = (
    "The model thinks (model.thinking), but no answer that must stop has a thought in it: what it thinks stays as it "
    "is, and only its answers are turned away. To stop both, put thoughts before the answers, between <think> and "
    "</think>."
)
MOST_RESTARTS = 2
VALIDATION_EXAMPLES = 8  # of each side
PREVIEWED_BREAK, PREVIEWED_RETAIN = 2, 1


@dataclass(frozen=True)
class Watch:
    """What needs the full model. Without it a run trains on its own examples, and nobody sees answers on the way."""

    add_general_keep: Callable[[Run], None] = lambda run: None
    preview: Preview | None = None
    trial: Try | None = None


def build_trainer(run: Run, config: RunConfig, watch: Watch = Watch()) -> RerouteTrainer:
    """Load the tokenizer, the truncated model and LoRA, and plan the steps. Raises InputError when it does not fit.

    Writes the chosen settings to run.yaml and to the events, and sets how freed memory is handled.
    """
    source = resolve_model(config.model.name, version=config.model.version)
    config = config.model_copy(deep=True)
    config.model.version = version_of(config.model.name, source)
    run.append_event("status", state="loading", text=f"Loading {source.label}")
    model_config = read_model_config(source)
    tokenizer = load_tokenizer(source, config.model)
    training = config.training
    breaks, retains, held_out = (run.examples(name) for name in ("break", "retain", "held_out"))
    retains += run.examples("general")
    if tokenizer.chat_template is None:
        words = f"{source.label} has no chat template; its questions are plain lines of text"
        run.append_event("status", state="loading", text=words)
    refuse_unfit(tokenizer, [*breaks, *retains, *held_out])
    sentences = sentences_of(tokenizer, config)
    settings = {
        "steps": training.steps,
        "break_batch_size": training.break_batch_size,
        "retain_batch_size": training.retain_batch_size,
        "max_tokens": config.data.max_tokens,
        "without_prompt": config.objective.without_prompt,
        "seed": training.seed,
        "rephrased": config.data.rephrased,
    }
    if sentences:
        refusal_layer(config.objective, depth(model_config))
        steps = RefusalSteps(tokenizer, breaks, retains, sentences=sentences, **settings)
    else:
        steps = PairedSteps(tokenizer, breaks, retains, **settings)
    # Without held-out examples, some of the training examples are validated, so that no run goes unwatched.
    sides = [e for e in held_out if e.kind == "break"] or breaks, [e for e in held_out if e.kind != "break"] or retains
    shown = [e for side in sides for e in side[:VALIDATION_EXAMPLES]]
    validated = [encode(tokenizer, e, config.data.max_tokens, answer_only=bool(sentences)) for e in shown]
    refuse_unknown_tokens(tokenizer, model_config, [*validated, *(e for step in steps for e in step)])
    if sentences:
        validated = [validation_row(row) if row.is_break else row for row in validated]
    choice = estimate_memory(
        model_config,
        config,
        _smallest_memory(),
        hardware.memory_kind(),
        steps=[[len(e.ids) for e in step] for step in steps],
        shared=shared_tokens([e for step in steps for e in step]),
    )
    config = _decided_by_the_first(choice.config)
    if config.lora.init_std == "auto":  # a pull has a gradient from the first step, and noise must be unlearned
        config.lora.init_std = 0.0 if sentences else INIT_STD
    if run.writes:
        run.write_config(config)
    if not any(example.kind == "near_miss" for example in retains):
        run.append_event("warning", step=0, text=NO_LOOK_ALIKES)
    if thinks(tokenizer) and not sentences and not any(split_thought(e.response)[0] for e in breaks):
        run.append_event("warning", step=0, text=NO_THOUGHTS)
    if lacking := _without_held_out(held_out):
        words = f"No held-out {lacking}; some of the training examples are validated"
        run.append_event("status", state="loading", text=words)
    if choice.reasons:
        run.append_event("status", state="loading", text="Chosen: " + "; ".join(choice.reasons))
    if config.training.gradient_checkpointing:  # what each layer frees would stay with the process otherwise
        allocator.return_freed_memory()
    else:
        allocator.keep_freed_memory()
    refusal = _refusal_vectors(run, config, source, tokenizer, breaks) if sentences else None
    set_seed(training.seed)
    truncated = load_truncated_model(source, config)
    add_lora(truncated, config.lora, training.seed)
    trainer = make_trainer(run, config, truncated, steps, validated, tokenizer.pad_token_id)
    trainer.refusal = None if refusal is None else refusal.to(truncated.device)
    trainer.source, trainer.preview, trainer.trial = source, watch.preview, watch.trial
    trainer.run_callback.validated_on = {"": "held out", "examples": "training"}.get(lacking, "partly held out")
    trainer.run_callback.tried = tried_examples(held_out, [*breaks, *retains])
    trainer.run_callback.previewed = [*sides[0][:PREVIEWED_BREAK], *sides[1][:PREVIEWED_RETAIN]]
    return trainer


class _Asked(Exception):
    """The user asked for a pause or a stop before the first step."""


def _refusal_vectors(
    run: Run, config: RunConfig, source: ModelSource, tokenizer: PreTrainedTokenizerBase, breaks: list[Example]
) -> torch.Tensor:
    """The states that say the run's refusal, (beginnings, hidden_size). Raises _Asked."""

    def tell(words: str) -> None:
        run.append_event("status", state="loading", text=words)
        if run.request() in ("pause", "stop"):
            raise _Asked

    layer = refusal_layer(config.objective, depth(read_model_config(source)))
    states = refusal_states(source, config, tokenizer, breaks, layer, tell)
    if warning := states.warning():
        run.append_event("warning", step=0, text=warning)
    return states.vectors


def _is_one_of_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def _smallest_memory() -> int:
    """Bytes that every process may use: those of the one that has least, as all train with the same settings."""
    memory = hardware.memory_for_training()
    return min(gather_object([memory])) if _is_one_of_several() else memory


def _decided_by_the_first(config: RunConfig) -> RunConfig:
    """The first process's settings. Free memory differs from moment to moment, so another might choose otherwise."""
    return broadcast_object_list([config])[0] if _is_one_of_several() else config


def _without_held_out(held_out: list[Example]) -> str:
    """Which examples are not held out, in words; "" where both sides are."""
    sides = {example.kind == "break" for example in held_out}
    return {(): "examples", (True,): "must-keep examples", (False,): "must-stop examples"}.get(tuple(sides), "")


def train(run: Run, watch: Watch = Watch()) -> None:
    """Train or resume `run` until it ends, is paused or stopped; saves the adapter unless it was paused.

    A run whose layers do not turn starts again with stronger settings, at most MOST_RESTARTS times.
    """
    run.append_event("status", state="starting", text=f"Starting on {hardware.describe()}")
    if run.writes:
        watch.add_general_keep(run)
    if _is_one_of_several():  # the others read what the first one wrote
        broadcast_object_list([None])
    restarts = sum("restart" in event for event in run.events()[0])
    try:
        while _train_once(run, watch, may_restart=restarts < MOST_RESTARTS) == STUCK:
            restarts += 1
            _start_again(run, restarts)
    except _Asked:
        words = "Paused before the first step; resume when you like, or discard the run"
        run.append_event("status", state="paused", text=words)


def _start_again(run: Run, restart: int) -> None:
    """Forget the steps so far and make the settings stronger."""
    config = stronger(run.config())
    if run.writes:
        run.delete_checkpoints_after(0)
        run.forget_after(0)
        run.write_config(config)
    words = (
        f"The layers are not turning away: starting again, {restart} of at most {MOST_RESTARTS} times, with "
        f"training.learning_rate {config.training.learning_rate:g}, lora.init_std {config.lora.init_std:g} and "
        f"objective.retain_coefficient {config.objective.retain_coefficient:g}"
    )
    run.append_event("status", state="loading", text=words, restart=restart)
    hardware.free_cached_memory()


def _train_once(run: Run, watch: Watch, *, may_restart: bool) -> str | None:
    """Train from the newest checkpoint or from the start; returns what ended it early: paused, stopped or STUCK."""
    config = run.config()
    step, checkpoint = _prepare_resume(run)
    if checkpoint:
        run.need_same_lora(read_lora_settings(checkpoint), f"the checkpoint of step {step} was")
    trainer = build_trainer(run, config, watch)
    if checkpoint:
        _need_same_layers(run, trainer, checkpoint)
    trainer.run_callback.resume_after(step)
    trainer.run_callback.may_restart = may_restart and config.training.restart_if_stuck
    words = f"Resuming from {checkpoint.name}" if checkpoint else "Training"
    run.append_event("status", state="training", text=words, model=trainer.source.label)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    ended_by = trainer.run_callback.ended_by
    if ended_by == STUCK:
        return STUCK
    found = ""
    if ended_by != "paused" and trainer.is_world_process_zero():
        if ended_by != "stopped":  # who stops a run does not want to wait
            found = _choose_strength(trainer)
        save_adapter(trainer.truncated, trainer.source, config.model.name, run.adapter_folder)
    words = {"paused": "Paused; resume when you like", "stopped": "Stopped; the adapter so far is kept"}
    text = words.get(ended_by, "Done") + (f": {found}" if found else "")
    run.append_event("status", state=ended_by or "done", text=text)
    return ended_by


def _choose_strength(trainer: RerouteTrainer) -> str:
    """Try the finished adapter, give it the best strength, and return what it does, in words."""
    callback, step = trainer.run_callback, trainer.state.global_step
    trials = callback.try_out(step, next_strength if trainer.config.training.calibrate else as_it_is)
    if not trials:
        return ""
    strength = best(trials)
    if strength != 1.0:
        multiply_adapter(trainer.truncated.model, strength)
        words = f"The adapter was made {strength:g} times as strong: {trials[strength].sentence()}"
        callback.run.append_event("status", state="training", text=f"{words} (before: {trials[1.0].sentence()})")
    callback.run.append_event("trial", step=step, strength=strength, chosen=True, **trials[strength].event())
    if warning := trials[strength].warning():
        callback.run.append_event("warning", step=step, text=warning)
    return trials[strength].sentence()


def keep_checkpoint(run: Run) -> None:
    """End a run that is paused or was interrupted: the adapter of its newest checkpoint becomes the run's adapter.

    Raises InputError when it has no checkpoint.
    """
    whole = run.complete_checkpoints()
    if not whole:
        raise InputError(f"run {run.name!r} has no checkpoint to keep; resume it, or discard it.")
    config = run.config()
    source = resolve_model(config.model.name)
    checkpoint_adapter(whole[max(whole)], source, config.model.name, run.adapter_folder)
    run.append_event("status", state="stopped", text=f"Stopped; the adapter of step {max(whole)} is kept")


def _prepare_resume(run: Run) -> tuple[int, Path | None]:
    """The newest checkpoint that can be read, and its step; (0, None) to begin at the start.

    Incomplete and damaged ones are deleted, together with the events of their steps; a warning says so.
    """
    whole = run.complete_checkpoints()
    readable = [(step, path) for step, path in reversed(whole.items()) if _can_be_read(path)]
    step, checkpoint = readable[0] if readable else (0, None)
    if run.writes:
        newest = max(run.checkpoints(), default=0)
        if newest > step:
            words = f"going on from step {step}" if step else "starting over"
            run.append_event(
                "warning", step=step, text=f"The checkpoint of step {newest} is incomplete or damaged; {words}."
            )
        run.delete_checkpoints_after(step)
        run.forget_after(step)
    return step, checkpoint


def _need_same_layers(run: Run, trainer: RerouteTrainer, checkpoint: Path) -> None:
    """Raises InputError when the checkpoint was trained on other layers, or on another model."""
    with safe_open(checkpoint / ADAPTER_WEIGHTS, "pt") as file:
        trained = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    now = {name: tuple(part.shape) for name, part in get_peft_model_state_dict(trainer.truncated.model).items()}
    if trained != now:
        raise InputError(
            f"{run.config_file}: objective.target_layers, lora.first_layer or model.name was changed: layers "
            f"{_layers(now)} would be adapted, and {checkpoint.name} has {_layers(trained)}; set it back, or start a "
            "new run."
        )


def _layers(names: Iterable[str]) -> str:
    """The layers of an adapter's weights, such as "10 to 19"; the lowest layer of a model is 0."""
    numbers = sorted({int(found[1]) for name in names if (found := re.search(r"\.(\d+)\.", name))})
    return f"{numbers[0]} to {numbers[-1]}" if numbers else "of other names"


def _can_be_read(checkpoint: Path) -> bool:
    """Whether the adapter and the optimizer's state are intact."""
    try:
        load_file(checkpoint / ADAPTER_WEIGHTS)
        torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
    except Exception:  # whatever a damaged file makes the readers raise
        traceback.print_exc()
        return False
    return True


def run_training(run: Run, watch: Watch = Watch()) -> int:
    """Train `run` in this process and return the exit code; an error goes to the log, and as a sentence to the events.

    Under `accelerate launch` every process calls this, and the first one writes.
    """
    run = replace(run, writes=int(os.environ.get("RANK", 0)) == 0)
    try:
        train(run, watch)
    except Exception as error:
        _say_why(run, error)
        return 1
    return 0


def _say_why(run: Run, error: Exception) -> None:
    """Write the error to the log and to the events, also on a disk that is full."""
    with suppress(OSError):
        traceback.print_exc()
    sentence = _sentence(error)
    if is_disk_full(error):  # what the failed step leaves behind makes room for the sentence
        traceback.clear_frames(error.__traceback__)
        gc.collect()  # closes the file of the reference states
        if run.writes:
            run.delete_checkpoints_after(max(run.complete_checkpoints(), default=0))
    with suppress(OSError):
        print(sentence, flush=True)
    with suppress(OSError):  # whoever finds the run interrupted sees that the disk is full
        run.append_event("error", text=sentence)
        # An InputError names something to change first.
        run.append_event("status", state="failed", text=sentence, resume=not isinstance(error, InputError))


def _sentence(error: Exception) -> str:
    if hardware.is_out_of_memory(error):
        return (
            "Out of memory with one example at a time and gradient checkpointing: in the run's run.yaml, set "
            "model.quantization to nf4 or choose a smaller data.max_tokens, then resume; the last checkpoint is kept."
        )
    if is_disk_full(error):
        return "The disk is full: free some space, then resume; training goes on from the last checkpoint."
    return error_sentence(error)
