"""idsa_net_mobile: its size, its two forms, what it looks at, and its statistics."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from edge_sr.errors import ConfigError
from edge_sr.networks import create_network
from edge_sr.networks.mobile import HybridAttention, IDSANetMobile


def network(scale: int = 4, **config: int) -> IDSANetMobile:
    """A network with lively weights and statistics, so that no part of it is idle."""
    torch.manual_seed(0)
    net = create_network("idsa_net_mobile", scale, **config)
    assert isinstance(net, IDSANetMobile)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    net.hybrid.mean.normal_()
    net.hybrid.std.uniform_(0.5, 2.0)
    return net.eval()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_deployed_form_has_at_most_100k_parameters(scale: int) -> None:
    deployed = network(scale).deployed()
    learned = sum(p.numel() for name, p in deployed.named_parameters() if not name.startswith("base"))
    assert learned <= 100_000


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (9, 20)])
def test_deployed_form_equals_training_form(scale: int, size: tuple[int, int]) -> None:
    net = network(scale)
    x = torch.rand(2, 3, *size)
    expected = net(x)
    assert expected.shape == (2, 3, size[0] * scale, size[1] * scale)
    assert expected.abs().max() > 0.1
    assert (net.deployed()(x) - expected).abs().max() < 1e-5


def test_deployed_form_is_new_and_leaves_the_network_trainable() -> None:
    net = network()
    before = net.state_dict()["gather.weight"].clone()
    deployed = net.deployed()
    assert not any(p.requires_grad for p in deployed.parameters())
    assert all(p.requires_grad for p in net.parameters())
    assert torch.equal(before, net.state_dict()["gather.weight"])
    shared = {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in deployed.parameters()}
    assert not shared


def test_without_its_tail_it_is_nearest_neighbour_upsampling() -> None:
    net = network()
    nn.init.zeros_(net.up.weight)
    assert net.up.bias is not None
    nn.init.zeros_(net.up.bias)
    x = torch.rand(1, 3, 5, 7)
    expected = functional.interpolate(x, scale_factor=4.0, mode="nearest")
    assert torch.equal(net(x), expected)
    assert torch.equal(net.deployed()(x), expected)


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_context_is_how_far_it_looks(blocks: int) -> None:
    deployed = network(2, blocks=blocks).deployed().double()
    side = 2 * deployed.context + 5
    x = torch.rand(1, 3, side, side, dtype=torch.float64)
    middle = side // 2

    def reaches(distance: int) -> bool:
        changed = x.clone()
        changed[0, :, middle + distance, middle] += 1.0
        difference = (deployed(changed) - deployed(x))[0, :, 2 * middle : 2 * middle + 2, 2 * middle]
        return bool(difference.abs().max() > 0)

    assert reaches(deployed.context)
    assert not reaches(deployed.context + 1)


def test_unfrozen_statistics_normalise_each_image_as_torch_does() -> None:
    torch.manual_seed(1)
    module = HybridAttention(8).train()
    seen: list[Tensor] = []
    module.squeeze.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    u = torch.randn(3, 8, 6, 6) * 3 + 1
    module(u)
    assert torch.allclose(seen[0], functional.instance_norm(u, eps=1e-3), atol=1e-5)


def test_running_statistics_come_to_the_mean_over_images() -> None:
    torch.manual_seed(1)
    module = HybridAttention(4).train()
    batch = torch.randn(8, 4, 16, 16) * 2 + 5
    for _ in range(1000):
        module(batch)
    assert torch.allclose(module.mean, batch.mean((0, 2, 3)), atol=1e-2)
    assert torch.allclose(module.std, batch.std((2, 3), correction=0).mean(0), atol=1e-2)


def test_frozen_statistics_are_constants_in_training_and_evaluation() -> None:
    net = network()
    net.train()
    net.freeze_statistics()
    mean = net.hybrid.mean.clone()
    x = torch.rand(2, 3, 12, 12)
    trained = net(x)
    assert torch.equal(mean, net.hybrid.mean)
    assert torch.equal(trained, net.eval()(x))


def test_a_tile_gives_what_the_whole_image_gives_away_from_its_edges() -> None:
    net = network(2, blocks=2).deployed()
    x = torch.rand(1, 3, 40, 40)
    reach = net.context
    tile = net(x[:, :, : 2 * reach + 4, : 2 * reach + 4])[:, :, : 2 * (reach + 4), : 2 * (reach + 4)]
    assert (tile - net(x)[:, :, : 2 * (reach + 4), : 2 * (reach + 4)]).abs().max() < 1e-5


def test_gradients_reach_every_parameter() -> None:
    net = network().train()
    net(torch.rand(1, 3, 16, 16)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 0}, "channels must be at least 2, got 0"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
        ({"distilled": 64}, "distilled must be 1..32"),
        ({"width": 3}, "got 'width'"),
        ({"channels": 32.0}, "must be of type int"),
        ({"blocks": True}, "must be of type int"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_network("idsa_net_mobile", 4, **change)


def test_unknown_network_and_scale_are_named() -> None:
    with pytest.raises(ConfigError, match="model must be one of idsa_net, idsa_net_mobile, got 'nosuch'"):
        create_network("nosuch", 4)
    with pytest.raises(ConfigError, match="scale must be one of 2, 3, 4, got 5"):
        create_network("idsa_net_mobile", 5)
