import functools
import json
import platform
import subprocess
import sys

import pytest
import torch
from cli_process import cbgui

from cbgui import hardware
from cbgui.config import ModelConfig, RunConfig, override
from cbgui.errors import InputError
from cbgui.hardware import CUDA_BUILD, GIB
from cbgui.modeling.batch import PAD_TO
from cbgui.modeling.cpu import allocator
from cbgui.modeling.full import full_model_in_words
from cbgui.runs.folder import create_run
from cbgui.training import measure, trainer
from cbgui.training.memory import estimate_memory
from cbgui.training.named_architectures import architecture
from cbgui.training.session import build_trainer, train


def test_large_machines_get_the_fastest_settings():
    chosen = estimate_memory(architecture("llama-3.2-1b"), RunConfig(), 80 * GIB, "cuda").config
    assert chosen.model.quantization == "none"
    assert chosen.training.micro_batch_size == 16 and chosen.training.gradient_checkpointing is False


@pytest.mark.parametrize(("name", "gigabytes"), [("llama-3-8b", 6), ("llama-3-70b", 24), ("qwen2.5-7b", 6)])
def test_large_models_fit_the_cards_that_people_own(name, gigabytes):
    config = RunConfig()
    if name == "llama-3-70b":  # half of its layers, as in docs/gpus.md
        config.objective.target_layers = [0.25, 0.5]
    result = estimate_memory(architecture(name), config, gigabytes * 10**9, "cuda")
    assert result.config.model.quantization == "nf4"
    assert result.total <= gigabytes * 10**9
    assert {part.name for part in result.parts} >= {
        "truncated model",
        "embedding",
        "adapter",
        "optimizer",
        "activations",
    }
    assert any("nf4" in reason for reason in result.reasons)


def test_an_estimate_leaves_alone_the_precision_in_which_other_threads_compute(monkeypatch):
    """The app estimates while its model writes: the default belongs to the process, not to a thread."""
    changed = []
    monkeypatch.setattr(torch, "set_default_dtype", changed.append)
    config = override(RunConfig(), ["objective.reroute=refusal", "model.dtype=bfloat16"])
    estimate_memory(architecture("llama-3.2-1b"), config, 8 * GIB, "cuda")
    full_model_in_words(architecture("llama-3.2-1b"), config.model, 8 * GIB, "cuda")
    assert not changed


def test_a_card_that_is_not_here_computes_in_bfloat16(monkeypatch):
    # As on a machine without a GPU whose processor does not compute in bfloat16.
    monkeypatch.setattr(hardware, "memory_kind", lambda: "cpu")
    monkeypatch.setattr(hardware, "fast_dtype", lambda: torch.float32)
    config = RunConfig(model=ModelConfig(dtype="bfloat16"))
    model = architecture("llama-3-8b")
    assert (
        estimate_memory(model, RunConfig(), 24 * GIB, "cuda").parts
        == estimate_memory(model, config, 24 * GIB, "cuda").parts
    )


H200 = {  # MiB measured on an H200 (docs/gpus.md), by model, quantization, embedding_on_cpu, size, checkpointing
    ("llama-3-8b", "nf4", True, 8, True): 5399,
    ("llama-3-8b", "nf4", True, 16, True): 7159,
    ("llama-3-8b", "nf4", False, 2, False): 8531,
    ("llama-3-8b", "nf4", False, 16, True): 8133,
    ("llama-3-8b", "none", False, 4, False): 18565,
    ("llama-3-70b", "nf4", True, 4, True): 22235,
    ("gemma-2-9b", "nf4", True, 8, True): 6365,
    ("qwen2.5-7b", "nf4", False, 1, False): 6545,
    ("llama-3.2-1b", "none", False, 16, False): 11393,
}


@pytest.mark.parametrize(("settings", "peak"), H200.items())
def test_the_estimate_lies_just_above_the_peaks_measured_on_a_gpu(settings, peak):
    name, quantization, embedding_on_cpu, size, checkpointing = settings
    config = RunConfig()
    config.model = ModelConfig(dtype="bfloat16", quantization=quantization, embedding_on_cpu=embedding_on_cpu)
    config.training.micro_batch_size, config.training.gradient_checkpointing = size, checkpointing
    if name == "llama-3-70b":  # half of its layers
        config.objective.target_layers = [0.25, 0.5]
    total = estimate_memory(architecture(name), config, 80 * GIB, "cuda", with_data=False).total / 2**20
    assert peak <= total <= 1.15 * peak


# MiB measured in bfloat16 on two Xeon cores with PyTorch's CUDA build and the package datasets, by examples a side,
# tokens, settings.
AMX = {
    (2, 256, ()): 1635,
    (4, 256, ()): 1838,
    (2, 512, ()): 1886,
    (8, 96, ()): 1844,
    (2, 256, ("model.quantization=nf4",)): 1544,
    (4, 256, ("model.quantization=nf4",)): 1733,
    (4, 256, ("training.gradient_checkpointing=true",)): 1197,
    (4, 256, ("model.quantization=nf4", "training.gradient_checkpointing=true")): 1106,
}


@pytest.mark.parametrize(("measured", "peak"), AMX.items())
def test_the_estimate_lies_just_above_the_peaks_measured_in_bfloat16(measured, peak, monkeypatch):
    """With PyTorch's CPU build too, where the libraries take less and the margin is smaller."""
    examples, tokens, settings = measured
    sizes = [f"training.{side}_batch_size={examples}" for side in ("break", "retain")]
    config = override(RunConfig(), [*sizes, f"data.max_tokens={tokens}", "model.dtype=bfloat16", *settings])
    monkeypatch.setattr(hardware, "has_datasets", lambda: True)
    for build, resident in (("13.0", 0), (None, CUDA_BUILD / 2**20)):
        monkeypatch.setattr(torch.version, "cuda", build)
        total = estimate_memory(architecture("smollm2-135m"), config, 64 * GIB, "cpu", with_data=False).total / 2**20
        assert peak - resident <= total <= 1.15 * (peak - resident)


def test_large_micro_batches_with_checkpointing_come_before_single_examples_without():
    config = RunConfig(model=ModelConfig(dtype="bfloat16", quantization="nf4"))
    chosen = estimate_memory(architecture("llama-3-8b"), config, 8 * 10**9, "cuda").config.training
    assert chosen.gradient_checkpointing and chosen.micro_batch_size == 16
    config.training.gradient_checkpointing = False  # one example would have fitted
    assert estimate_memory(architecture("llama-3-8b"), config, 8 * 10**9, "cuda").config.training.micro_batch_size == 1


def test_eight_bit_adam_is_chosen_only_where_nothing_else_fits():
    config = RunConfig(model=ModelConfig(dtype="bfloat16"))
    config.objective.target_layers = [46]
    roomy = estimate_memory(architecture("llama-3-70b"), config, 48 * GIB, "cuda")
    tight = estimate_memory(architecture("llama-3-70b"), config, 24 * 10**9, "cuda")
    assert roomy.config.training.optim == "adamw_torch" and tight.config.training.optim == "adamw_8bit"
    assert any("adamw_8bit" in reason for reason in tight.reasons)


def test_the_refusal_names_the_nearest_settings_that_fit():
    with pytest.raises(InputError, match=r"needs .* GiB even with quantization nf4.*smaller model"):
        estimate_memory(architecture("llama-3-70b"), RunConfig(), 6 * 10**9, "cuda")


def test_less_memory_means_smaller_micro_batches_not_another_result():
    model_config = architecture("smollm2-135m")
    config = override(RunConfig(), ["model.dtype=float32"])
    whole = estimate_memory(model_config, config, 64 * GIB, "cpu")
    tight = estimate_memory(model_config, config, int(0.6 * whole.total), "cpu")
    assert tight.config.training.micro_batch_size < whole.config.training.micro_batch_size == 16
    assert tight.config.training.break_batch_size == whole.config.training.break_batch_size


def test_the_longest_example_counts_with_its_padding():
    """In a model whose examples are not packed."""
    config = override(RunConfig(), ["model.dtype=bfloat16", "training.gradient_checkpointing=false"])
    totals = [
        estimate_memory(architecture("gemma-2-9b"), config, 512 * GIB, "cpu", steps=[[30] * 4, [longest] * 4]).total
        for longest in (PAD_TO, PAD_TO + 1, 2 * PAD_TO)
    ]
    assert totals[0] < totals[1] == totals[2]


def test_a_shared_beginning_counts_once_and_a_step_by_its_longest_micro_batch():
    config = override(RunConfig(), ["model.dtype=float32", "training.gradient_checkpointing=false"])

    def activations(steps: list[list[int]], shared: int = 0) -> int:
        parts = estimate_memory(architecture("smollm2-135m"), config, 64 * GIB, "cpu", steps=steps, shared=shared).parts
        return next(part.bytes for part in parts if part.name == "activations")

    assert activations([[100] * 8], shared=20) < activations([[100] * 8])
    assert activations([[256] * 12]) == activations([[256] * 16])  # the longest micro-batch holds six of them in both


def test_the_command_line_prints_each_part(cli):
    done = cli("estimate", "demo", "--model", "llama-3-8b", "--memory", "6GB", "--device", "cuda")
    assert done.returncode == 0, done.stderr
    assert "activations" in done.stdout and "it fits" in done.stdout
    done = cli("estimate", "demo", "--model", "llama-3-70b", "--memory", "6GB", "--device", "cuda")
    assert done.returncode == 2 and "smaller model" in done.stderr
    done = cli("estimate", "demo", "--memory", "six")
    assert done.returncode == 2 and "--memory 'six'" in done.stderr


def test_running_out_of_memory_halves_the_micro_batches(trained, short_config, tmp_path, monkeypatch):
    """With the allocator's own error for more than two examples; the losses stay the same."""
    run = create_run(tmp_path / "tight", short_config)
    real = measure.micro_batch_losses

    def fails(truncated, examples, *rest):
        if len(examples) > 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: tried to get 1 byte")
        return real(truncated, examples, *rest)

    monkeypatch.setattr(trainer, "micro_batch_losses", fails)
    monkeypatch.setattr(measure, "micro_batch_losses", fails)  # in validation too
    train(run)
    assert run.state() == "done"
    warnings = [event["text"] for event in run.events()[0] if event["kind"] == "warning"]
    assert any("micro_batch_size 2" in text for text in warnings)
    assert _reroute_losses(run) == pytest.approx(_reroute_losses(trained), rel=0.02)


def _reroute_losses(run):
    return [event["reroute_loss"] for event in run.events()[0] if event["kind"] == "step"][:2]


def test_running_out_of_memory_with_one_example_turns_on_gradient_checkpointing(
    trained, short_config, tmp_path, monkeypatch
):
    settings = ["training.micro_batch_size=1", "training.gradient_checkpointing=false"]
    run = create_run(tmp_path / "tight", override(short_config, settings))
    real = measure.micro_batch_losses

    def fails(truncated, *rest):
        if torch.is_grad_enabled() and not truncated.gradient_checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(truncated, *rest)

    monkeypatch.setattr(trainer, "micro_batch_losses", fails)
    train(run)
    assert run.state() == "done"
    warnings = [event["text"] for event in run.events()[0] if event["kind"] == "warning"]
    assert any("gradient_checkpointing true" in text for text in warnings)
    assert _reroute_losses(run) == pytest.approx(_reroute_losses(trained), rel=0.02)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_training_returns_freed_memory_only_with_checkpointing(short_config, tmp_path, monkeypatch, checkpointing):
    """The bench measures the peaks; this checks that training does what the bench does."""
    calls = []
    for name in ("return_freed_memory", "keep_freed_memory"):
        monkeypatch.setattr(allocator, name, functools.partial(calls.append, name))
    config = override(short_config, [f"training.gradient_checkpointing={str(checkpointing).lower()}"])
    build_trainer(create_run(tmp_path / "run", config), config)
    assert calls == ["return_freed_memory" if checkpointing else "keep_freed_memory"]


FAULTS_OF_A_STEP = """
import resource, torch
from cbgui.modeling.cpu import allocator

def step():
    blocks = [torch.ones(10**6) for _ in range(40)]

allocator.return_freed_memory()  # glibc's own behaviour depends on what else is in the heap
if {keep}:
    allocator.keep_freed_memory()
for _ in range(3):  # until the heap has its shape
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_kept_memory_serves_the_next_step():
    faults = {}
    for keep in (True, False):
        code = FAULTS_OF_A_STEP.format(keep=keep)
        faults[keep] = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert faults[True] < faults[False] / 10, faults


CHECKPOINTED = ["--batch", "4", "--tokens", "128", "--set", "training.gradient_checkpointing=true"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["--batch", "4", "--tokens", "200", "--set", "lora.first_layer=0.5"],  # more than one micro-batch
        ["--batch", "2", "--tokens", "160", "--set", "model.quantization=nf4"],
        [*CHECKPOINTED, "--set", "model.quantization=nf4"],
    ],
)
def test_bench_measures_what_the_estimate_says(settings):
    # With checkpointing, freed memory goes back to the system, so a second, slow step would add only some 2%.
    steps = "1" if settings[: len(CHECKPOINTED)] == CHECKPOINTED else "2"
    done = cbgui("bench", "smollm2-135m", "--steps", steps, "--set", "model.dtype=float32", *settings)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout[done.stdout.index("{") :])
    assert result["layers_run"] == 19 and result["seconds_per_step"] > 0
    assert result["peak_mib"] <= result["estimate_mib"] <= 1.15 * result["peak_mib"], result


def test_bench_under_a_cap_says_what_does_not_fit(cli):
    done = cli("bench", "smollm2-135m", "--memory", "500MB", "--steps", "1")
    assert done.returncode == 2 and "GiB" in done.stderr
