"""Baseline: representation rerouting done the way the published recipe does it, written from its description.

Every example is padded to 1,024 tokens; each step runs four separate full forward passes (frozen and adapted,
retain and circuit-breaker batch), all through the language-model head, with every hidden state kept.
Prints one JSON line: seconds per step, peak resident memory, losses. CPU or CUDA, full precision or NF4.

    python reference_rr.py --model DIR --data FILE.jsonl --steps 4 --batch 2 [--qlora] [--pad 1024]

FILE.jsonl: one object a line with "split" ("break" or "retain"), "prompt" and "response".
"""

import argparse
import json
import resource
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load(args, device):
    quant = None
    if args.qlora:
        quant = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model = AutoModelForCausalLM.from_pretrained(
        args.model, quantization_config=quant, dtype=args.torch_dtype, device_map={"": device}
    )
    keep = max(args.layers) + 1
    if args.drop_layers:
        model.model.layers = model.model.layers[:keep]
        model.config.num_hidden_layers = keep
    lora = LoraConfig(
        r=16, lora_alpha=16, lora_dropout=0.05, target_modules=TARGETS, layers_to_transform=list(range(keep))
    )
    return get_peft_model(model, lora)


def encode(tok, rows, pad):
    """[request | response] padded to pad/2 + pad/2 for the break set, to pad for the retain set."""
    half = pad // 2
    ids, mask, loss_mask = [], [], []
    for row in rows:
        if row["split"] == "break":
            tok.padding_side = "left"
            a = tok(row["prompt"], max_length=half, padding="max_length", truncation=True, add_special_tokens=False)
            tok.padding_side = "right"
            b = tok(row["response"], max_length=half, padding="max_length", truncation=True, add_special_tokens=False)
            ids.append(a.input_ids + b.input_ids)
            mask.append(a.attention_mask + b.attention_mask)
            loss_mask.append([0] * half + b.attention_mask)
        else:
            tok.padding_side = "right"
            c = tok(
                row["prompt"] + row["response"],
                max_length=pad,
                padding="max_length",
                truncation=True,
                add_special_tokens=False,
            )
            ids.append(c.input_ids), mask.append(c.attention_mask), loss_mask.append(c.attention_mask)
    return [torch.tensor(x) for x in (ids, mask, loss_mask)]


def step_loss(model, retain, broken, layers, progress, alpha=10.0):
    c_retain, c_break = alpha * progress, alpha * (1 - progress)
    r_ids, r_mask, _ = retain
    b_ids, b_mask, b_loss = broken
    with model.disable_adapter(), torch.no_grad():
        model.eval()
        r0 = torch.stack(model(input_ids=r_ids, attention_mask=r_mask, output_hidden_states=True).hidden_states)
        r0 = r0 * r_mask[None, :, :, None]
        hs = model(input_ids=b_ids, attention_mask=b_mask, output_hidden_states=True).hidden_states
        b0 = torch.stack([hs[i] for i in layers])
    model.train()
    r1 = torch.stack(model(input_ids=r_ids, attention_mask=r_mask, output_hidden_states=True).hidden_states)
    retain_loss = torch.norm(r1 * r_mask[None, :, :, None] - r0, dim=-1, p=2, dtype=torch.float).nanmean()
    hs = model(input_ids=b_ids, attention_mask=b_mask, output_hidden_states=True).hidden_states
    b1 = torch.stack([hs[i] for i in layers])
    m = b_loss[None, :, :, None].expand(len(layers), -1, -1, -1)
    cos = (
        (b1 / b1.norm(dim=-1, keepdim=True, dtype=torch.float))
        * (b0 / b0.norm(dim=-1, keepdim=True, dtype=torch.float))
        * m
    )
    break_loss = torch.relu(cos.sum(-1)).nansum() / m.sum()
    return c_retain * retain_loss + c_break * break_loss, retain_loss.item(), break_loss.item()


def pick(rows, first, count):
    return [rows[(first + k) % len(rows)] for k in range(count)]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", required=True)
    ap.add_argument("--data", required=True)
    ap.add_argument("--steps", type=int, default=4)
    ap.add_argument("--batch", type=int, default=2)
    ap.add_argument("--pad", type=int, default=1024)
    ap.add_argument("--layers", type=int, nargs="+", default=[10, 20])
    ap.add_argument("--qlora", action="store_true")
    ap.add_argument("--dtype", default="float32")
    ap.add_argument("--drop-layers", action="store_true", default=True)
    ap.add_argument("--out")
    args = ap.parse_args()
    args.torch_dtype = getattr(torch, args.dtype)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tok = AutoTokenizer.from_pretrained(args.model)
    tok.pad_token = tok.pad_token or tok.eos_token
    rows = [json.loads(x) for x in open(args.data)]
    br, rt = [r for r in rows if r["split"] == "break"], [r for r in rows if r["split"] == "retain"]
    model = load(args, device)
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0)
    times, log = [], []
    for s in range(args.steps):
        i = s * args.batch
        retain = [t.to(device) for t in encode(tok, pick(rt, i, args.batch), args.pad)]
        broken = [t.to(device) for t in encode(tok, pick(br, i, args.batch), args.pad)]
        t0 = time.perf_counter()
        loss, lr_, lb_ = step_loss(model, retain, broken, args.layers, min(1.0, (s + 1) / max(2 * args.steps, 1)))
        loss.backward()
        opt.step()
        opt.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - t0)
        log.append([round(lr_, 4), round(lb_, 4)])
    times.sort()
    peak = (
        torch.cuda.max_memory_allocated() / 2**20
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    print(
        json.dumps({"s_per_step": times[len(times) // 2], "peak_mib": round(peak), "losses": log[-1], "first": log[0]})
    )
    if args.out:
        model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
