"""Model folders and adapters of random weights, written piece by piece; their tokenizer is the demo's."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig

from cbgui.modeling.chat_format import load_tokenizer
from cbgui.modeling.hub import resolve_model

# Settings of two layers for tests that need a model's form alone.
TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "head_dim": 16,
    "pad_token_id": 0,
    "max_position_embeddings": 128,
}


FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "smollm3", "olmo2", "gpt_neox"]
PROJECTIONS = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


def random_sharded_model(folder: Path, *, layers: int, hidden_size: int, intermediate_size: int, shard_layers: int):
    """A Llama with tied embeddings in bfloat16, a shard for every `shard_layers` layers. Returns its bytes."""
    demo = resolve_model("demo").path
    folder.mkdir(parents=True)
    for path in demo.glob("*.json*"):
        shutil.copyfile(path, folder / path.name)
    for path in demo.glob("*.jinja"):
        shutil.copyfile(path, folder / path.name)
    config = AutoConfig.from_pretrained(demo)
    heads = hidden_size // 64
    config.update(
        {
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": 64,
        }
    )
    config.save_pretrained(folder)

    def weight(rows: int, columns: int) -> torch.Tensor:
        return torch.empty(rows, columns, dtype=torch.bfloat16).normal_(0, columns**-0.5)

    shards = [range(first, min(first + shard_layers, layers)) for first in range(0, layers, shard_layers)]
    weight_map, total = {}, 0
    for number, shard in enumerate(shards, 1):
        tensors = {}
        if number == 1:
            tensors["model.embed_tokens.weight"] = weight(config.vocab_size, hidden_size)
            tensors["model.norm.weight"] = torch.ones(hidden_size, dtype=torch.bfloat16)
        for layer in shard:
            name = f"model.layers.{layer}"
            for norm in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{name}.{norm}.weight"] = torch.ones(hidden_size, dtype=torch.bfloat16)
            for projection in PROJECTIONS["self_attn"]:
                tensors[f"{name}.self_attn.{projection}.weight"] = weight(hidden_size, hidden_size)
            for projection in PROJECTIONS["mlp"]:
                shape = (
                    (hidden_size, intermediate_size) if projection == "down_proj" else (intermediate_size, hidden_size)
                )
                tensors[f"{name}.mlp.{projection}.weight"] = weight(*shape)
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return total


def random_adapter(folder: Path, model: Path, *, layers: int, r: int = 16) -> None:
    """A PEFT adapter on all linear layers of the first `layers` decoder layers of a Llama folder."""
    config = AutoConfig.from_pretrained(model)
    hidden, intermediate = config.hidden_size, config.intermediate_size
    tensors = {}
    for layer in range(layers):
        for part, projections in PROJECTIONS.items():
            for projection in projections:
                columns = intermediate if projection == "down_proj" else hidden
                rows = intermediate if projection in ("gate_proj", "up_proj") else hidden
                name = f"base_model.model.model.layers.{layer}.{part}.{projection}"
                tensors[f"{name}.lora_A.weight"] = torch.randn(r, columns) * columns**-0.5
                tensors[f"{name}.lora_B.weight"] = torch.randn(rows, r) * 0.05
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": r,
        "lora_alpha": r,
        "target_modules": [name for names in PROJECTIONS.values() for name in names],
        "layers_to_transform": list(range(layers)),
        "layers_pattern": "layers",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings), "utf-8")


def head(folder, demo, labels: list[str]):
    """A BERT with the demo's tokenizer; its bias makes it find label 1 every time."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(demo)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        model.classifier.bias[1] += 10
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
