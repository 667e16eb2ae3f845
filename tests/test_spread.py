import torch

from cbgui.objectives import reroute_cosine, reroute_spread


def test_spread_costs_a_collapsed_state_and_not_an_orthogonal_one():
    frozen = torch.zeros(4, 8)
    frozen[:, 7] = 1.0
    collapsed = torch.zeros(4, 8)
    collapsed[:, 0] = 2.0
    orthogonal = torch.eye(4, 8) * 2
    assert reroute_cosine(collapsed, frozen).sum() == 0
    assert torch.allclose(reroute_spread(collapsed, frozen), torch.ones(4))
    assert reroute_spread(orthogonal, frozen).sum() == 0
    assert torch.allclose(reroute_spread(frozen[:1], frozen[:1]), torch.ones(1))
