"""What happens between two steps: events, validation, sample answers, checkpoints, pause and stop."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from cbgui import hardware
from cbgui.data.examples import Example
from cbgui.modeling.batch import Encoded
from cbgui.runs.run import Run
from cbgui.training import diagnostics
from cbgui.training.controller import goal_met
from cbgui.training.trials import AT, FEWEST_STEPS, Next, Trial, as_it_is

if TYPE_CHECKING:
    from cbgui.training.trainer import RerouteTrainer

GOAL_MET, STUCK = "goal met", "stuck"
KEPT_CHECKPOINTS = 2


class RunCallback(TrainerCallback):
    """Writes events, validates, shows sample answers, marks and rotates checkpoints, obeys pause and stop."""

    def __init__(self, run: Run, held_out: list[Encoded]) -> None:
        self.run, self.held_out = run, held_out
        self.validated_on = "held out"  # or "training", or "partly held out"
        self.trainer: RerouteTrainer | None = None
        self.previewed: list[Example] = []  # examples whose answers are shown during training
        self.tried: list[Example] = []  # examples that trials count
        self.ended_by: str | None = None  # "paused", "stopped" or "stuck"
        self.may_restart = False  # a run whose layers do not turn ends as "stuck"
        self.validations: list[diagnostics.Validation] = []
        self.warned: set[str] = set()
        self.trained_seconds = 0.0  # of all steps so far

    def resume_after(self, step: int) -> None:
        """Continue with the validations up to `step`, as if the run had never been interrupted."""
        events = [event for event in self.run.events()[0] if event.get("step", 0) <= step]
        self.validations = [event for event in events if event["kind"] == "validation"]
        self.trained_seconds = sum(event["seconds"] for event in events if event["kind"] == "step")

    def _validate(self, step: int, steps: int) -> None:
        trainer = self.trainer
        if not self.held_out:
            return
        values = trainer.validate(self.held_out)
        self.run.append_event("validation", step=step, examples=self.validated_on, **values)
        self.validations.append({"step": step, **values})
        for kind, text in diagnostics.warnings(self.validations, steps, trainer.config).items():
            self._warn(kind, step, text)

    def try_out(self, step: int, next_strength: Next = as_it_is) -> dict[float, Trial]:
        """Trials of the adapter as it is now, by strength; empty where they are not possible. They only inform, so the
        run goes on and says why when they fail."""
        trainer = self.trainer
        wanted = trainer.config.training.trials and trainer.config.training.steps >= FEWEST_STEPS
        if trainer.trial is None or not wanted or not self.tried or not self.run.writes:
            return {}
        self.run.append_event("status", state="training", text="Trying the model on held-out questions")
        try:
            trials = trainer.trial(trainer.truncated, trainer.source, trainer.config, self.tried, next_strength)
        except Exception as error:
            traceback.print_exc()
            self.run.append_event("status", state="training", text=f"No trial ({type(error).__name__})")
            hardware.free_cached_memory()
            return {}
        if trials is None:
            self._warn("no trial", step, "No memory to spare for a trial: test the model after the run.")
            return {}
        for strength, trial in trials.items():
            self.run.append_event("trial", step=step, strength=strength, **trial.event())
        return trials

    def _warn(self, kind: str, step: int, text: str) -> None:
        """Write a warning, each kind once in a run."""
        if kind not in self.warned:
            self.warned.add(kind)
            self.run.append_event("warning", step=step, trouble=kind, text=text)

    def _preview(self, step: int) -> None:
        """Answers to look at. They only help the user, so the run goes on and says why when they fail."""
        trainer = self.trainer
        try:
            answers = trainer.preview(trainer.truncated, trainer.source, trainer.config, self.previewed)
        except Exception as error:
            traceback.print_exc()
            self.run.append_event("status", state="training", text=f"No sample answers ({type(error).__name__})")
            hardware.free_cached_memory()
            return
        if answers is None:
            self.run.append_event("status", state="training", text="No memory to spare for sample answers")
        else:
            self.run.append_event("samples", step=step, answers=answers)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer, training = self.trainer, self.trainer.config.training
        seconds = time.perf_counter() - trainer.step_started  # with the optimizer's step
        self.trained_seconds += seconds
        self.run.append_event(
            "step",
            step=state.global_step,
            steps=state.max_steps,
            learning_rate=kwargs["lr_scheduler"].get_last_lr()[0],
            memory_bytes=hardware.step_memory(),
            seconds=seconds,
            trained_seconds=self.trained_seconds,
            tokens_per_second=trainer.tokens / seconds,
            **trainer.last,
        )
        last = state.global_step >= state.max_steps
        met = stuck = False
        if last or state.global_step % training.validate_every == 0:
            self._validate(state.global_step, state.max_steps)
            met = goal_met(self.validations, training.stop_when)
            stuck = self.may_restart and diagnostics.is_stuck(self.validations, state.max_steps)
        every = training.sample_every
        shows = every and self.previewed and trainer.preview is not None and self.run.writes
        if shows and (last or state.global_step % every == 0):
            self._preview(state.global_step)
        if not last and state.global_step in {round(share * state.max_steps) for share in AT}:
            for trial in self.try_out(state.global_step).values():
                self.run.append_event("status", state="training", text=f"So far {trial.sentence()}")
        # The first process decides for all of them.
        (request,) = broadcast_object_list([GOAL_MET if met else STUCK if stuck else self.run.request()])
        if last:
            return
        if request == GOAL_MET:
            self.run.append_event("status", state="training", text="training.stop_when is met; finishing early")
            control.should_training_stop = True
        elif request == STUCK:
            self.ended_by = STUCK
            control.should_training_stop = True
        elif request in ("pause", "stop"):
            self.ended_by = {"pause": "paused", "stop": "stopped"}[request]
            control.should_save = control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.run.mark_complete(state.global_step)
        # By step: after a change of the clock, rotating by time could delete the newest.
        rotate_checkpoints(str(self.run.checkpoints_folder), KEPT_CHECKPOINTS, use_mtime=False)
        path = self.run.checkpoint(state.global_step).relative_to(self.run.path)
        self.run.append_event("checkpoint", step=state.global_step, path=path.as_posix())
