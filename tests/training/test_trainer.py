import json
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, TrainerCallback

from cbgui.config import override
from cbgui.errors import InputError
from cbgui.export.merge import export_run
from cbgui.inference.chat import load_chat_model
from cbgui.modeling.chat_format import load_tokenizer
from cbgui.modeling.lora import add_lora
from cbgui.modeling.truncated import load_truncated_model
from cbgui.runs.folder import create_run
from cbgui.training import trainer as training
from cbgui.training.measure import micro_batch_losses
from cbgui.training.reference_states import ReferenceStates
from cbgui.training.steps import PairedSteps


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.2)
    raise AssertionError("waited in vain")


def steps_of(run):
    return [event["step"] for event in run.events()[0] if event["kind"] == "step"]


def test_events_say_what_design_promises(trained):
    events, _ = trained.events()
    step = next(event for event in events if event["kind"] == "step")
    wanted = (
        "step steps reroute_loss retain_loss cosine coefficients learning_rate tokens_per_second memory_bytes seconds"
    )
    assert set(wanted.split()) <= set(step)
    assert steps_of(trained) == [1, 2, 3, 4]
    assert [event["step"] for event in events if event["kind"] == "validation"] == [2, 4]
    assert trained.state() == "done"


def test_losses_do_not_depend_on_the_micro_batches(demo, short_config, tmp_path):
    config = override(short_config, ["model.dtype=float32", "lora.init_std=0.05", "objective.retain_layers=all"])
    tokenizer = load_tokenizer(demo)
    truncated = load_truncated_model(demo, config)
    add_lora(truncated, config.lora, seed=0)
    from cbgui.runs.run import read_data

    sets = read_data(config.data)
    step = PairedSteps(
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
    counts = [sum(e.loss_tokens for e in step if e.is_break is side) for side in (True, False)]
    gradients, reference_states = [], None
    for size, budget in ((6, 0), (2, 0), (2, 2**30), (3, 2**30)):
        # Without a budget every frozen state is computed anew, with one the last round finds all of them kept.
        reference_states = (
            ReferenceStates(truncated, tokenizer.pad_token_id, tmp_path, budget) if size != 3 else reference_states
        )
        truncated.model.zero_grad()
        total = 0.0
        for part in truncated.micro_batches(step, size):
            losses = micro_batch_losses(truncated, part, config, reference_states, *counts)
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
def test_kill_and_resume_and_pause(short_config, tmp_path):
    run = create_run(tmp_path / "run", override(short_config, ["training.steps=30"]))
    run.start()
    with pytest.raises(InputError, match="running already"):
        run.start()
    wait_for(lambda: run.last_checkpoint() and steps_of(run)[-1] >= 3)
    os.kill(run.process().pid, signal.SIGKILL)
    wait_for(lambda: run.process() is None)
    assert run.state() == "interrupted"
    resumed_at = int(run.last_checkpoint().name.split("-")[1])
    before = len(steps_of(run))
    run.start()
    wait_for(lambda: len(steps_of(run)) > before)
    assert steps_of(run)[before] == resumed_at + 1
    run.ask("pause")
    wait_for(lambda: run.state() == "paused")
    paused_at = steps_of(run)[-1]
    assert int(run.last_checkpoint().name.split("-")[1]) == paused_at < 30
    run.start()
    wait_for(lambda: steps_of(run)[-1] > paused_at)
    run.ask("stop")
    wait_for(lambda: run.state() == "stopped")
    assert (run.adapter / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_8bit"])
def test_a_resumed_run_ends_where_an_unbroken_one_does(short_config, tmp_path, optim):
    from cbgui.training.session import train

    config = override(short_config, [f"training.optim={optim}"])
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


def test_a_steps_seconds_hold_the_optimizers_part(short_config, tmp_path, monkeypatch):
    """By a clock that stands still but for the optimizer."""
    clock = [0.0]
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    config = override(short_config, ["training.steps=1"])
    run = create_run(tmp_path / "run", config)
    trainer = training.build_trainer(run, config)

    class TakesFiveSeconds(TrainerCallback):
        def on_pre_optimizer_step(self, *arguments, **more):
            clock[0] += 5

    trainer.add_callback(TakesFiveSeconds())
    trainer.train()
    (step,) = [event for event in run.events()[0] if event["kind"] == "step"]
    assert step["seconds"] == 5
    assert step["tokens_per_second"] == sum(len(e.ids) for e in trainer.train_dataset[0]) / 5


def test_half_an_event_line_is_passed_over(short_config, tmp_path):
    run = create_run(tmp_path / "run", short_config)
    run.append_event("status", state="training", text="x")
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"kind": "st')
    assert len(run.events()[0]) == 1
    run.append_event("step", step=1)
    assert [event["kind"] for event in run.events()[0]] == ["status", "step"]


def test_a_foreign_pid_is_not_taken_for_the_run(short_config, tmp_path):
    run = create_run(tmp_path / "run", short_config)
    (run.path / "process.json").write_text(json.dumps({"pid": os.getpid(), "start_time": 1.0}))
    assert run.process() is None
    run.record_process(os.getpid())
    assert run.process() is not None


@pytest.mark.slow
def test_merged_equals_base_and_adapter(trained, demo, tmp_path):
    """Sharded and whole; the adapter as PEFT loads it answers what the merged model answers."""
    export_run(trained, tmp_path / "whole")
    export_run(trained, tmp_path / "shards", max_shard_size="100MB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    with pytest.raises(InputError, match="exists already"):
        export_run(trained, tmp_path / "whole")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    sharded = AutoModelForCausalLM.from_pretrained(tmp_path / "shards")
    for (name, a), (other, b) in zip(merged.state_dict().items(), sharded.state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b)
    base = AutoModelForCausalLM.from_pretrained(demo.path)
    assert torch.equal(base.model.layers[29].mlp.up_proj.weight, merged.model.layers[29].mlp.up_proj.weight)
    assert not torch.equal(base.model.layers[5].mlp.up_proj.weight, merged.model.layers[5].mlp.up_proj.weight)
    adapted = PeftModel.from_pretrained(base.float(), trained.adapter).merge_and_unload()
    weights = [model.model.layers[5].mlp.up_proj.weight.float() for model in (adapted, merged)]
    assert torch.allclose(*weights, atol=1e-2, rtol=1e-2)


def test_both_answers_from_one_set_of_weights(trained, demo):
    chat = load_chat_model(trained)
    pairs = list(chat.stream([{"role": "user", "content": "What is the capital of France?"}], max_new_tokens=12))
    assert len(pairs) > 1
    tokenizer = load_tokenizer(demo)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad(), chat.model.disable_adapter():
        plain = chat.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    answer = tokenizer.decode(plain[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert pairs[-1].base[:20] == answer[:20]
    assert pairs[-1].short_circuited != ""
