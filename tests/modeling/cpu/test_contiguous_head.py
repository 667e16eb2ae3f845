import torch
from tiny_models import VOCABULARY, tiny_model

from cbgui.modeling.cpu.contiguous_head import read_contiguous


def test_the_head_reads_contiguous_states_and_gives_the_same_logits(monkeypatch):
    model = tiny_model("llama").eval()
    ids = torch.randint(1, VOCABULARY, (3, 5))
    read = []
    model.lm_head.register_forward_pre_hook(lambda head, arguments: read.append(arguments[0].is_contiguous()))
    monkeypatch.setenv("CBGUI_CPU_TRICKS", "0")
    read_contiguous(model)
    with torch.no_grad():
        before = model(input_ids=ids, logits_to_keep=1).logits
    monkeypatch.setenv("CBGUI_CPU_TRICKS", "1")
    model.lm_head._forward_pre_hooks.clear()
    read_contiguous(model)
    model.lm_head.register_forward_pre_hook(lambda head, arguments: read.append(arguments[0].is_contiguous()))
    with torch.no_grad():
        after = model(input_ids=ids, logits_to_keep=1).logits
    assert read == [False, True]
    torch.testing.assert_close(after, before)
