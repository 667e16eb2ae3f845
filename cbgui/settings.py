"""The parts of a RunConfig: every setting with its title, its limits and what it means."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# The most that a setting may be, far above what is of use: a form and a file may come from anyone.
MOST_STEPS, MOST_EXAMPLES, MOST_TOKENS, MOST_LAYERS = 1_000_000, 4096, 1_048_576, 1000
# Names of settings in run directories of earlier versions.
FORMER_NAMES = {
    "without_request": "without_prompt",
    "probe_every": "validate_every",
    "probes": "validations",
    "hurried": "rephrased",
}


def setting(default: Any, title: str, description: str, published: str | None = None, **limits: Any) -> Any:
    """A field; `published` is the value of the paper's recipe."""
    return Field(default, title=title, description=description, json_schema_extra={"published": published}, **limits)


Sentence = Annotated[str, Field(min_length=1, max_length=400)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {FORMER_NAMES.get(name, name) if name not in cls.model_fields else name: v for name, v in values.items()}


class ModelConfig(Part):
    name: str = setting("demo", "Model", 'a hub id, a folder, or "demo" for SmolLM2-135M-Instruct', max_length=4096)
    version: str | None = setting(
        None, "Version", "NAME@COMMIT, or NAME@CHECKSUM of a folder; written when training starts", max_length=8192
    )
    quantization: Literal["none", "nf4", "auto"] = setting(
        "auto",
        "Weights",
        "nf4 stores the layers' weights in 4 bits; auto does so only if unquantized weights do not fit",
    )
    embedding_on_cpu: bool | Literal["auto"] = setting(
        "auto", "Embedding in RAM", "leaves more GPU memory for the layers; auto does so only if it is needed"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Precision", "auto is bfloat16 if the device computes in it, otherwise float32"
    )
    thinking: bool = setting(
        False,
        "Thinks",
        "a model that can write a thought before its answer does so, and the report judges what follows the thought; "
        "otherwise it answers at once",
    )
    system_turn: Literal["keep", "merge", "leave_out"] = setting(
        "keep",
        "System turn",
        "merge puts it before the first question, leave_out drops it: for chat templates that refuse one",
    )


class DataConfig(Part):
    break_file: str = setting(
        "demo/break.jsonl", "Must stop", "file of break examples; looked up among the presets if it is not found here"
    )
    retain_file: str = setting("demo/retain.jsonl", "Must keep", "file of retain examples")
    held_out_file: str | None = setting(
        "demo/held_out.jsonl", "Held out", "file of examples that are never trained on; validation and reports use them"
    )
    break_answer: Literal["chosen", "rejected"] | None = setting(
        None, "Answer that must stop", "for a break file of preference pairs: which of the two answers must stop"
    )
    general_keep: int = setting(
        100,
        "Everyday questions",
        "how many of cbgui's own everyday questions, with the model's answers, are kept in addition; 0: none",
        "0",
        ge=0,
        le=2000,
    )
    rephrased: float = setting(
        0.3,
        "Asked in other ways",
        "share of all examples whose question is put as a story, in a role, in keywords or typed in a hurry",
        "0",
        ge=0,
        le=1,
    )
    max_tokens: int = setting(
        512,
        "Longest example",
        "in tokens, prompt and response together; longer examples are cut",
        "1024",
        ge=16,
        le=MOST_TOKENS,
    )


class ObjectiveConfig(Part):
    """The losses and their weights (docs/architecture.md, "Objective"; section 3 of the paper)."""

    reroute: Literal["cosine", "spread", "refusal"] = setting(
        "spread",
        "Break loss",
        "what becomes of must-stop answers. refusal: the model says objective.refusal; spread: they fall apart; "
        "cosine: as spread, but may end in one repeated word",
        "cosine",
    )
    refusal: list[Sentence] = setting(
        ["Sorry, I can't help with that."],
        "Refusal",
        "what the model says instead, with `reroute: refusal`: one sentence, or up to eight, in any language",
        min_length=1,
        max_length=8,
    )
    retain: Literal["relative", "absolute", "huber"] = setting(
        "huber",
        "Keep loss",
        "distance between hidden states: absolute, relative to their length, or huber (relative; squared if small)",
        "absolute",
    )
    target_layers: list[float] = setting(
        [0.3125, 0.625],
        "Target layers",
        "where the hidden states of break examples are turned away: layer numbers, or fractions of the depth below 1",
        "10, 20 of 32",
        min_length=1,
        max_length=MOST_LAYERS,
    )
    retain_layers: Literal["targets", "all"] = setting(
        "targets",
        "Keep layers",
        "whose states the keep loss compares: the target layers, or all layers up to one above the highest target",
        "all",
    )
    read: Literal["residual", "normed"] = setting(
        "residual",
        "Reading",
        "residual: hidden states as they are; normed: after the next layer's input norm",
        "residual",
    )
    reroute_coefficient: float = setting(
        10.0, "Weight of the break loss", "its maximum during the run", "10", ge=0, le=1e6
    )
    retain_coefficient: float = setting(
        200.0,
        "Weight of the keep loss",
        "its maximum during the run; a higher one preserves more and derails less",
        "10",
        ge=0,
        le=1e6,
    )
    schedule: Literal["linear", "full", "constant", "rise", "late"] = setting(
        "rise",
        "Weights over time",
        "linear: break 1 to 1/2, keep 0 to 1/2; full: break 1 to 0, keep 0 to 1; constant: both 1; rise: break 1, keep "
        "1/4 to 1 over the first half of the run; late: break 1, keep 1/25 to 1 over the first 60%",
        "linear",
    )
    adapt_retain: bool = setting(
        True,
        "Adapt the keep weight",
        "lower it to a quarter if it stops break examples from turning away, and raise it again later",
        "false",
    )
    without_prompt: float = setting(
        0.5,
        "Break examples without prompt",
        "share that is trained without its prompt, so that the response alone derails",
        "0.5",
        ge=0,
        le=1,
    )

    @field_validator("refusal", mode="before")
    @classmethod
    def _one_sentence_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _refusal_reads_residual(self) -> ObjectiveConfig:
        if self.reroute == "refusal" and self.read != "residual":
            raise ValueError("reroute: refusal pulls hidden states as they are; set objective.read to residual")
        return self


class LoraConfig(Part):
    r: int = setting(16, "Rank (r)", "rank of the LoRA matrices", "16", ge=1, le=4096)
    lora_alpha: int = setting(16, "lora_alpha", "the adapter's scale is lora_alpha / r", "16", ge=1, le=65_536)
    lora_dropout: float = setting(0.0, "Dropout", "dropout on the adapter's input", "0.05", ge=0, lt=1)
    init_std: Annotated[float, Field(ge=0, le=10)] | Literal["auto"] = setting(
        "auto",
        "Initial spread of B",
        "standard deviation of LoRA's B at the start; auto: 0 with `reroute: refusal`, otherwise 0.04, because the "
        "other break losses have no gradient at 0",
        "0",
    )
    first_layer: float = setting(
        0.0,
        "First adapted layer",
        "as a share of the highest target layer, below 1: 0 adapts all layers, 0.5 the upper half, which takes less "
        "time and memory",
        "0",
        ge=0,
        lt=1,
    )


class StopWhen(Part):
    """Finish early once several validations in a row have met both limits."""

    cosine: float = setting(0.0, "Break cosine", "at most this on every target layer", ge=-1, le=1)
    drift: float = setting(
        0.03, "Drift", "the states of retain examples have moved by at most this share of their length", ge=0, le=1e6
    )
    validations: int = setting(3, "Validations", "how many in a row", ge=1, le=MOST_STEPS)


class TrainingConfig(Part):
    steps: int = setting(
        150, "Steps", "training steps; each uses break and retain examples", "150", ge=1, le=MOST_STEPS
    )
    break_batch_size: int = setting(
        8, "Break examples in a step", "more are slower but steadier", "16", ge=1, le=MOST_EXAMPLES
    )
    retain_batch_size: int = setting(
        8, "Keep examples in a step", "more are slower but preserve more", "16", ge=1, le=MOST_EXAMPLES
    )
    micro_batch_size: Annotated[int, Field(ge=1, le=MOST_EXAMPLES)] | Literal["auto"] = setting(
        "auto",
        "Examples at once",
        "examples computed at once; does not change the result; auto: the fastest number that fits",
    )
    learning_rate: float = setting(3e-3, "Learning rate", "too high derails everything", "1e-4", gt=0, le=100)
    warmup_steps: int = setting(
        2, "Warm-up steps", "steps over which the learning rate rises", "0", ge=0, le=MOST_STEPS
    )
    lr_scheduler: Literal["constant", "linear", "cosine", "constant_with_warmup"] = setting(
        "cosine", "Learning rate over time", "how the learning rate changes after the warm-up", "constant"
    )
    gradient_checkpointing: bool | Literal["auto"] = setting(
        "auto", "Compute activations twice", "slower, with much less memory; auto: only if memory requires it"
    )
    optim: Literal["adamw_torch", "adamw_8bit", "auto"] = setting(
        "auto", "Optimizer", "adamw_8bit is bitsandbytes' 8-bit AdamW; auto: only if nothing else fits"
    )
    checkpoint_every: int = setting(
        20, "Checkpoint every", "number of steps; a killed run continues from its last checkpoint", ge=1, le=MOST_STEPS
    )
    validate_every: int = setting(10, "Validate every", "number of steps between two validations", ge=1, le=MOST_STEPS)
    sample_every: int = setting(
        50, "Sample answers every", "number of steps between two sets of sample answers; 0: never", ge=0, le=MOST_STEPS
    )
    trials: bool = setting(
        True,
        "Try it out on the way",
        "at half, three quarters and the end of the run, count the held-out questions that are blocked and harmed",
    )
    calibrate: bool = setting(
        True,
        "Choose the strength",
        "at the end, try the adapter weaker and stronger, and keep what blocks most without harming more",
    )
    restart_if_stuck: bool = setting(
        True,
        "Start again if stuck",
        "with stronger settings, at most twice, if a target layer has not turned after a third of the steps",
    )
    stop_when: StopWhen | None = setting(
        None,
        "Finish early",
        "stop once the held-out cosine and the drift (how far must-keep states have moved, as a share of their length) "
        "are at or below `cosine` and `drift` in `validations` validations in a row; null: never",
    )
    seed: int = setting(0, "Seed", "the same seed repeats the run", ge=0, lt=2**32)

    @property
    def batch_size(self) -> int:
        """Examples in one step, break and retain together."""
        return self.break_batch_size + self.retain_batch_size
