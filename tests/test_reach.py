"""How far a network looks: counted by hand, whatever the weights are, and never less than a perturbation shows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_sr.errors import ConfigError
from edge_sr.networks import create_network
from edge_sr.reach import measure_reach


class Chain(nn.Module):
    """Layers one after the other, then four times as many channels as a picture of scale 2 wants."""

    scale = 2
    tile_multiple = 1

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.up = nn.Conv2d(3, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pixel_shuffle(self.up(self.layers(x)), 2)


def conv(kernel: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(3, 3, kernel, padding=kernel // 2 * dilation, dilation=dilation)


@pytest.mark.parametrize(
    ("layers", "reach"),
    [
        ((conv(1), nn.ReLU()), 0),
        ((conv(3),), 1),
        ((conv(3), nn.ReLU(), conv(5)), 3),
        ((conv(3, dilation=3), conv(7, dilation=2)), 9),
        ((nn.AvgPool2d(3, stride=1, padding=1), nn.Sigmoid()), 1),
    ],
)
def test_reach_is_the_sum_of_half_kernels_times_dilation(layers: tuple[nn.Module, ...], reach: int) -> None:
    found = measure_reach(Chain(*layers))
    assert found.reach_px == reach
    assert found.exact_overlap == 2 * reach
    assert (found.whole_input, found.phased) == ((), ())


def test_each_layer_is_listed_with_what_it_adds() -> None:
    found = measure_reach(Chain(conv(3), nn.ReLU(), conv(1), conv(5, dilation=2)))
    assert [(layer.name, layer.growth_px, layer.reach_px) for layer in found.layers] == [
        ("layers.0", 1, 1),
        ("layers.3", 4, 5),
    ]
    # Overlap 4 leaves two pixels around every kept one: enough for the first layer only.
    assert found.beyond(4) == ("layers.3",)
    assert found.beyond(10) == ()


def test_weights_of_zero_hide_nothing() -> None:
    network = Chain(conv(3), conv(3))
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    assert measure_reach(network).reach_px == 2


class MeanAdded(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + x.mean((2, 3), keepdim=True))


def test_statistics_of_the_image_reach_everywhere() -> None:
    found = measure_reach(MeanAdded(conv(3)))
    assert found.reach_px is None
    assert found.exact_overlap is None
    assert found.whole_input == ("mean",)
    # What comes behind sees everything too, whatever overlap the tiles have.
    assert found.beyond(1000) == ("mean", "layers.0")


def test_windows_and_grids_are_named() -> None:
    found = measure_reach(create_network("idsa_net", 2, blocks=1, channels=8, distilled=4, hidden=8).deployed())
    growth = {layer.name: layer.growth_px for layer in found.layers}
    # A window of eight pixels reaches seven from its corner; a grid takes pixels from the whole tile.
    windows = [name for name in found.phased if growth[name] == 7]
    assert len(windows) == 1
    assert len(found.whole_input) == 1
    assert {*windows, *found.whole_input} == set(found.phased)
    assert all("bmm" in name for name in found.phased)
    assert found.exact_overlap is None


@pytest.mark.parametrize("blocks", [1, 4])
def test_idsa_net_mobile_reaches_what_it_declares(blocks: int) -> None:
    network = create_network("idsa_net_mobile", 4, blocks=blocks, channels=8, distilled=4).deployed()
    assert measure_reach(network).reach_px == network.context


def test_no_pixel_beyond_the_reach_changes_the_result() -> None:
    torch.manual_seed(0)
    network = Chain(conv(3), nn.ReLU(), conv(3, dilation=2)).double()
    reach = measure_reach(network.float()).reach_px
    network.double()
    assert reach == 3
    x = torch.rand(1, 3, 15, 15, dtype=torch.float64)
    felt = []
    for distance in range(8):
        changed = x.clone()
        changed[..., 7 + distance, 7] += 1
        difference = network(changed) - network(x)
        felt.append(bool((difference[..., 14:16, 14:16] != 0).any()))
    assert felt == [True] * 4 + [False] * 4


def test_quantized_arithmetic_is_refused() -> None:
    class Rounding(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nan_to_num(super().forward(x))

    with pytest.raises(ConfigError, match="float arithmetic"):
        measure_reach(Rounding(conv(3)))


def test_measuring_leaves_the_network_and_the_settings_alone() -> None:
    network = Chain(conv(3))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    enabled = torch.backends.mkldnn.enabled
    measure_reach(network)
    assert torch.backends.mkldnn.enabled == enabled
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
