import errno
import functools
import json
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from made_runs import step_event
from transformers import TrainerCallback
from waiting import wait_until

from cbgui.config import load_config, override
from cbgui.errors import InputError
from cbgui.modeling.chat_format import load_tokenizer
from cbgui.modeling.hub import resolve_model
from cbgui.modeling.lora import add_lora
from cbgui.modeling.truncated import load_truncated_model
from cbgui.runs import disk
from cbgui.runs.folder import create_run
from cbgui.runs.run import Run, read_data
from cbgui.settings import StopWhen
from cbgui.training import callbacks, session, trainer
from cbgui.training.controller import goal_met, retain_share
from cbgui.training.measure import Totals, micro_batch_losses
from cbgui.training.reference_states import ReferenceStates
from cbgui.training.refusal_rows import RefusalSteps
from cbgui.training.refusal_states import numbered, sentences_of
from cbgui.training.session import build_trainer, run_training, train
from cbgui.training.steps import PairedSteps
from cbgui.ui.pages import train as train_page


def steps_of(run):
    return [event["step"] for event in run.events()[0] if event["kind"] == "step"]


def test_events_have_the_promised_values(trained):
    events, _ = trained.events()
    step = next(event for event in events if event["kind"] == "step")
    wanted = (
        "step steps reroute_loss retain_loss cosine coefficients learning_rate tokens_per_second memory_bytes seconds"
    )
    assert set(wanted.split()) <= set(step)
    assert steps_of(trained) == [1, 2, 3, 4]
    assert [event["step"] for event in events if event["kind"] == "validation"] == [2, 4]
    assert trained.state() == "done"


@pytest.mark.parametrize("reroute", ["spread", "refusal"])
def test_losses_do_not_depend_on_the_micro_batches(small_config, tmp_path, reroute):
    settings = ["model.dtype=float32", "lora.init_std=0.05", "objective.retain_layers=all"]
    config = override(small_config, [*settings, f"objective.reroute={reroute}"])
    source = resolve_model(config.model.name)
    tokenizer, truncated = load_tokenizer(source), load_truncated_model(source, config)
    add_lora(truncated, config.lora, seed=0)
    sets = read_data(config.data)
    sentences = sentences_of(tokenizer, config)
    kind = functools.partial(RefusalSteps, sentences=sentences) if sentences else PairedSteps
    step = kind(
        tokenizer,
        sets["break"],
        sets["retain"],
        steps=1,
        break_batch_size=3,
        retain_batch_size=3,
        max_tokens=64,
        without_prompt=0.5,
        seed=0,
    )[0]
    vectors = torch.randn(len(numbered(sentences)), truncated.model.config.hidden_size) if sentences else None
    gradients, reference_states = [], None
    for size, budget in ((6, 0), (2, 0), (2, 2**30), (3, 2**30)):
        # Without a budget all reference states are computed again; with one, the last round finds them all.
        reference_states = (
            ReferenceStates(truncated, tokenizer.pad_token_id, tmp_path, budget) if size != 3 else reference_states
        )
        truncated.model.zero_grad()
        total = 0.0
        for part in truncated.micro_batches(step, size):
            losses = micro_batch_losses(truncated, part, config, reference_states, Totals.of(step), vectors)
            loss = 3 * losses.reroute + losses.retain
            loss.backward()
            total += loss.item()
        gradients.append(
            (total, torch.cat([p.grad.flatten() for p in truncated.model.parameters() if p.grad is not None]))
        )
    assert len(reference_states.kept) == 6
    for example, (_, form) in reference_states.kept.items():
        assert len(form) == len(truncated.target_layers if example.is_break else truncated.retain_layers)
    for total, gradient in gradients[1:]:
        assert total == pytest.approx(gradients[0][0], rel=1e-4)
        assert torch.allclose(gradient, gradients[0][1], rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_kill_and_resume_and_pause(small_config, tmp_path):
    run = create_run(tmp_path / "run", override(small_config, ["training.steps=3000"]))
    run.start()
    with pytest.raises(InputError, match="running already"):
        run.start()
    wait_until(lambda: run.complete_checkpoints() and steps_of(run)[-1] >= 3)
    os.kill(run.training.pid(), signal.SIGKILL)
    wait_until(lambda: not run.training.is_running())
    assert run.state() == "interrupted"
    resumed_at = max(run.complete_checkpoints())
    run.start()
    wait_until(lambda: steps_of(run)[-1] > resumed_at)
    assert steps_of(run) == list(range(1, len(steps_of(run)) + 1))  # no step is there twice
    run.ask("pause")
    wait_until(lambda: run.state() == "paused")
    paused_at = steps_of(run)[-1]
    assert max(run.complete_checkpoints()) == paused_at < 3000
    run.ask("stop")
    train(run)
    assert steps_of(run)[-1] == paused_at + 1 and run.state() == "stopped"
    assert run.adapter_file.is_file()


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_8bit"])
def test_a_resumed_run_ends_like_an_uninterrupted_one(small_config, tmp_path, optim):
    config = override(small_config, [f"training.optim={optim}"])
    whole = create_run(tmp_path / "whole", config)
    train(whole)
    cut = create_run(tmp_path / "cut", config)
    cut.ask("pause")
    train(cut)
    assert steps_of(cut) == [1]
    cut.ask("run")
    train(cut)
    last = [[e for e in run.events()[0] if e["kind"] == "step"][-1] for run in (whole, cut)]
    assert last[0]["step"] == last[1]["step"] == 4
    assert last[0]["retain_loss"] == pytest.approx(last[1]["retain_loss"], rel=0.05)


def test_a_steps_seconds_include_the_optimizer(small_config, tmp_path, monkeypatch):
    """With a clock that only the optimizer moves."""
    clock = [0.0]
    for module in (trainer, callbacks):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    config = override(small_config, ["training.steps=1"])
    run = create_run(tmp_path / "run", config)
    built = build_trainer(run, config)

    class TakesFiveSeconds(TrainerCallback):
        def on_pre_optimizer_step(self, *arguments, **more):
            clock[0] += 5

    built.add_callback(TakesFiveSeconds())
    built.train()
    (step,) = [event for event in run.events()[0] if event["kind"] == "step"]
    assert step["seconds"] == 5
    assert step["tokens_per_second"] == sum(len(e.ids) for e in built.train_dataset[0]) / 5


@pytest.mark.parametrize(("adapt", "share"), [("true", 1 / 4), ("false", 1)])
def test_the_retain_weight_is_adapted_only_where_the_setting_says_so(small_config, tmp_path, adapt, share):
    """As in the published recipe, which has no such rule."""
    settings = [f"objective.adapt_retain={adapt}", "objective.schedule=constant", "objective.retain_coefficient=8"]
    config = override(small_config, [*settings, "training.steps=1", "data.held_out_file=null"])
    run = create_run(tmp_path / "run", config)
    built = build_trainer(run, config)
    built.run_callback.validations = [{"step": 20, "cosine": {"10": 0.99}, "drift": 0.01}]
    built.train()
    (step,) = [event for event in run.events()[0] if event["kind"] == "step"]
    assert step["coefficients"]["retain"] == 8 * share
    assert load_config("published").objective.adapt_retain is False


def test_half_an_event_line_is_skipped(short_config, tmp_path):
    run = create_run(tmp_path / "run", short_config)
    run.append_event("status", state="training", text="x")
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"kind": "st')
    assert len(run.events()[0]) == 1
    run.append_event("warning", step=1, text="y")
    assert [event["kind"] for event in run.events()[0]] == ["status", "warning"]


def test_a_damaged_checkpoint_is_told_and_an_older_one_is_used(small_config, tmp_path):
    run = create_run(tmp_path / "run", override(small_config, ["training.validate_every=1"]))
    run.ask("pause")
    train(run)  # stops after the first step, with a checkpoint
    run.ask("run")
    train(run)
    assert list(run.complete_checkpoints()) == [2, 4]
    optimizer = run.checkpoint(4) / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-100] + bytes(100))  # damaged, but of the same size
    train(run)
    events = run.events()[0]
    assert any(
        "checkpoint of step 4 is incomplete or damaged; going on from step 2" in e.get("text", "") for e in events
    )
    assert steps_of(run) == [1, 2, 3, 4] and run.state() == "done"
    assert [e["step"] for e in events if e["kind"] == "validation"] == [1, 2, 3, 4]
    for step in (2, 4):
        (run.checkpoint(step) / "optimizer.pt").unlink()
    assert run.complete_checkpoints() == {}
    train(run)
    assert any("starting over" in e.get("text", "") for e in run.events()[0]) and steps_of(run) == [1, 2, 3, 4]


def test_a_resumed_run_counts_what_precedes_its_checkpoint(tmp_path):
    """For training.stop_when, the keep weight and the seconds: later steps are measured again."""
    run = Run(tmp_path)
    for step in (20, 30, 40):
        held = {"drift": 0.01, "cosine": {"10": 1.0}}
        run.append_event("validation", step=step, reroute_loss=1.0, retain_loss=0.1, **held)
        event = step_event(step, 60)
        run.append_event(**{key: value for key, value in event.items() if key != "time"})
    callback = callbacks.RunCallback(run, [])
    callback.resume_after(20)
    assert [validation["step"] for validation in callback.validations] == [20] and callback.trained_seconds == 2
    assert retain_share(callback.validations) == 1 / 4
    assert not goal_met(callback.validations, StopWhen(cosine=1.0, drift=1.0, validations=2))


def test_settings_changed_since_the_checkpoint_are_told_before_the_model_is_loaded(trained, tmp_path):
    run = Run(tmp_path / "run")
    shutil.copytree(trained.path, run.path, ignore=shutil.ignore_patterns("merged", "report"))
    config = run.config()
    config.lora.r = 8
    run.write_config(config)
    assert run_training(run) == 1
    last = run.newest("status")["status"]
    assert "run.yaml: lora.r = 8, but the checkpoint of step 4 was trained with 16; set it back" in last["text"]
    assert last["state"] == "failed" and last["resume"] is False
    assert not any("Loading" in event.get("text", "") for event in run.events(trained.events()[1])[0])
    config.lora.r, config.objective.target_layers = 16, [5]
    run.write_config(config)
    assert run_training(run) == 1
    told = run.newest("status")["status"]["text"]
    assert "lora.first_layer or model.name was changed: layers 0 to 4 would be adapted" in told
    assert "checkpoint-4 has 0 to 19" in told
    config.objective.target_layers = trained.config().objective.target_layers
    run.write_config(config)
    assert run_training(run) == 0 and run.state() == "done"


def test_a_full_disk_is_told_although_no_event_can_be_written(trained, tmp_path, monkeypatch, capsys):
    run = Run(tmp_path / "run")
    shutil.copytree(trained.path, run.path, ignore=shutil.ignore_patterns("merged", "report"))
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    step = next(event for event in trained.events()[0] if event["kind"] == "step")
    run.events_file.write_text(json.dumps(step) + "\n", "utf-8")
    shutil.copytree(run.checkpoint(4), run.checkpoint(5))
    (run.checkpoint(5) / "complete").unlink()

    def full(one, kind, **values):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "append_event", full)
        patch.setattr(session, "train", lambda run, preview: run.append_event("status"))
        assert run_training(run) == 1
    assert "The disk is full: free some space, then resume" in capsys.readouterr().out
    assert list(run.checkpoints()) == [2, 4]  # the unfinished one made room
    assert run.state() == "interrupted" and "without an error message" in train_page._refresh("run", None)[0]
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=5))
    assert "The disk is full; free some space. Press **Resume**" in train_page._refresh("run", None)[0]


def test_the_published_recipe_is_trained_as_published(short_config, tmp_path):
    """Dropout with packed rows, weights that are exchanged linearly and never relieved, a constant learning rate; and a
    held-out set without a must-stop example borrows the training's."""
    config = load_config("published")
    config.model, config.data = short_config.model, short_config.data
    config.model.dtype = "bfloat16"  # in which PEFT's own forward, that dropout needs, relies on autocast
    config.data.held_out_file = config.data.retain_file
    config.objective.target_layers = [0.3125, 0.625]  # 10 and 20 of 32
    sizes = {"steps": 3, "break_batch_size": 2, "retain_batch_size": 2, "validate_every": 1, "sample_every": 0}
    for name, value in sizes.items():
        setattr(config.training, name, value)
    run = create_run(tmp_path / "run", config)
    built = build_trainer(run, config)
    assert built.truncated.packed
    dropouts = [module.p for module in built.model.modules() if isinstance(module, torch.nn.Dropout)]
    assert dropouts and set(dropouts) == {0.05}
    # What would relieve the keep weight, if anything could.
    built.run_callback.validations = [{"step": 20, "cosine": {"10": 0.99}, "drift": 0.01}]
    built.train()
    steps = [event for event in run.events()[0] if event["kind"] == "step"]
    assert [event["coefficients"]["reroute"] for event in steps] == pytest.approx([10 * (1 - n / 6) for n in (1, 2, 3)])
    assert [event["coefficients"]["retain"] for event in steps] == pytest.approx([10 * n / 6 for n in (1, 2, 3)])
    assert {event["learning_rate"] for event in steps} == {1e-4}
    assert all(0 < event["cosine"][layer] < 1.001 for event in steps for layer in event["cosine"])  # of bfloat16
    texts = [event["text"] for event in run.events()[0] if "text" in event]
    assert "No held-out must-stop examples; some of the training examples are validated" in texts
    validations = [event for event in run.events()[0] if event["kind"] == "validation"]
    assert {event["examples"] for event in validations} == {"partly held out"}
    assert all(min(event["cosine"].values()) > 0.5 for event in validations)  # measured, not 0.0 for want of examples


def test_checkpoints_are_rotated_by_their_steps_whatever_the_clock_says(short_config, tmp_path):
    run = create_run(tmp_path / "run", short_config)
    for age, step in enumerate((2, 4, 6)):  # the newest was written while the clock was far behind
        run.checkpoint(step).mkdir(parents=True)
        os.utime(run.checkpoint(step), (2e9 - 1e8 * age,) * 2)
    state = SimpleNamespace(global_step=6, is_world_process_zero=True)
    callbacks.RunCallback(run, []).on_save(None, state, None)
    assert list(run.checkpoints()) == [4, 6]
