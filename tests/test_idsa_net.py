"""idsa_net: its size, deployment form, attention and statistics, and that three toolchains take it whole."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from apps.lint.reader import read_operators
from converters.lowering import Lowered, LoweringJob
from edge_sr.checkpoints import bundled_checkpoint, load_checkpoint, save_checkpoint
from edge_sr.errors import ConfigError, DataError, ShapeError
from edge_sr.networks import create_network
from edge_sr.networks.attention import (
    AttentionMatrix,
    attend,
    grid_pixels,
    grid_tokens,
    relative_offsets,
    window_pixels,
    window_tokens,
)
from edge_sr.networks.idsa import IDSANet, IDSANetConfig, mirror_to_multiple
from edge_sr.networks.idsa_blocks import LCIPB
from edge_sr.networks.inam import INAM
from quantization import calibrate, prepare

SMALL: dict[str, Any] = {
    "blocks": 1,
    "channels": 16,
    "distilled": 8,
    "attention_dim": 8,
    "hidden": 16,
    "purified": 8,
    "gate_channels": 8,
}


def small_network(scale: int = 4, **changes: Any) -> IDSANet:
    """A network in which every part matters: a fresh one's details are too small to tell a broken part from a whole."""
    torch.manual_seed(7)
    network = IDSANet(IDSANetConfig(scale=scale, **{**SMALL, **changes}))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("near.bias", "far.bias")):
                parameter.normal_()
            if name.endswith(("query.weight", "key.weight", "channel.weight", "expand.weight", "local.weight")):
                parameter.mul_(4)
        network.up.weight.mul_(20)
        for module in network.modules():
            if isinstance(module, INAM):
                module.mean.normal_()
                module.variance.uniform_(0.2, 3)
                module.pooled.uniform_(0, 1)
    return network.eval()


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# ------------------------------------------------------------------------------------------------- size and settings
def test_default_network_has_the_papers_752k_parameters_at_x4_within_half_a_percent() -> None:
    assert count(create_network("idsa_net", 4)) == pytest.approx(752_000, rel=0.005)


def test_other_scales_differ_by_the_up_convolution_only() -> None:
    sizes = {scale: count(create_network("idsa_net", scale)) for scale in (2, 3, 4)}
    per_output = 48 * 9 + 1  # a 3x3 filter over 48 channels and its bias
    assert sizes[4] - sizes[3] == per_output * 3 * (16 - 9)
    assert sizes[3] - sizes[2] == per_output * 3 * (9 - 4)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("scale", 5, "scale must be one of 2, 3, 4, got 5"),
        ("blocks", 0, "blocks must be at least 1, got 0"),
        ("channels", 46, "channels must be a multiple of 4, got 46"),
        ("distilled", 7, "distilled must be even"),
        ("distilled", 48, "distilled must be even and less than channels"),
        ("statistics", "batch", "statistics must be one of image, frozen, got 'batch'"),
    ],
)
def test_a_setting_out_of_range_is_named_with_what_is_allowed(setting: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IDSANetConfig(**{setting: value})


@pytest.mark.parametrize(("switch", "kind"), [("share_attention", AttentionMatrix), ("lcipb", LCIPB), ("inam", INAM)])
def test_each_module_can_be_removed(switch: str, kind: type[nn.Module]) -> None:
    whole, without = small_network(blocks=2), small_network(blocks=2, **{switch: False})
    counts = [sum(isinstance(module, kind) for module in network.modules()) for network in (whole, without)]
    assert counts == ([2, 4] if switch == "share_attention" else [2, 0])  # a pair for all, or a pair per block
    x = torch.rand(1, 3, 16, 16)
    assert not torch.equal(whole(x), without(x))
    torch.testing.assert_close(without.deployed()(x), without(x), atol=1e-5, rtol=0)


def test_checkpoint_round_trip_keeps_weights_and_statistics(tmp_path: Path) -> None:
    network = small_network(scale=3)
    save_checkpoint(tmp_path / "net.safetensors", network, {})
    loaded = load_checkpoint(tmp_path / "net.safetensors", expect_model="idsa_net").network
    x = torch.rand(1, 3, 16, 8)
    assert torch.equal(loaded(x), network(x))


# ------------------------------------------------------------------------------------------------------- deployed form
@pytest.mark.parametrize("statistics", ["image", "frozen"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_deployed_form_equals_training_form(scale: int, statistics: str) -> None:
    network = small_network(scale, statistics=statistics, blocks=2)
    deployed = network.deployed()
    for size in ((8, 8), (16, 40), (32, 24)):
        x = torch.rand(1, 3, *size)
        expected = network(x)
        assert expected.shape == (1, 3, scale * size[0], scale * size[1])
        torch.testing.assert_close(deployed(x), expected, atol=1e-5, rtol=0)
    x = torch.rand(3, 3, 16, 16)  # quantization-aware training feeds the deployed form batches
    torch.testing.assert_close(deployed(x), network(x), atol=1e-5, rtol=0)


def test_deployed_form_of_the_default_network_equals_training_form() -> None:
    torch.manual_seed(0)
    network = create_network("idsa_net", 4).eval()
    assert isinstance(network, IDSANet)
    x = torch.rand(1, 3, 16, 24)
    torch.testing.assert_close(network.deployed()(x), network(x), atol=1e-5, rtol=0)


def test_deployed_form_is_new_and_carries_what_an_artifact_records() -> None:
    network = small_network(scale=2)
    deployed = network.deployed()
    own = {parameter.data_ptr() for parameter in network.parameters()}
    assert not own & {parameter.data_ptr() for parameter in deployed.parameters()}
    assert not deployed.training
    assert (deployed.model_name, deployed.scale, deployed.tile_multiple) == ("idsa_net", 2, 8)
    assert (deployed.config, deployed.context) == (network.config, network.context)


def test_large_kernel_block_adds_a_bounded_amount_in_both_forms() -> None:
    torch.manual_seed(1)
    block = LCIPB(16, 8).eval()
    with torch.no_grad():
        block.mix.weight.mul_(5)  # both bounds are reached, and both left alone somewhere
    # screened values within 8, reweighted by at most 2, then a 1x1 whose rows sum up to so much
    assert block.expand.bias is not None
    bound = 16 * block.expand.weight.abs().sum((1, 2, 3)) + block.expand.bias.abs()
    for size in (1.0, 10.0, 1000.0):
        x = size * torch.randn(2, 16, 24, 32)
        rounding = 1e-5 if size < 1000 else 1e-3  # values of 4,000 lie 0.0005 apart in float32
        torch.testing.assert_close(block.deployed()(x), block(x), atol=rounding, rtol=0)
        assert ((block(x) - x).abs().amax((0, 2, 3)) <= bound + rounding).all()


def test_bundled_weights_show_one_pixel_patterns_and_noise_of_two_values_sharper_than_bicubic() -> None:
    network = load_checkpoint(bundled_checkpoint("idsa_net", 4)).network
    checks = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(1, 3, 64, 64)
    lines = (torch.arange(64) % 2).float().expand(1, 3, 64, 64)
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for pattern in (checks, lines, lines.mT, noise.round(), noise[:, :1].round().expand(1, 3, 64, 64)):
        with torch.no_grad():
            picture = network(pattern)
        # A picture is 0..1. Photos hold nothing like these, so contours overshoot, but nothing runs away (without
        # clipping: 1e16), and what is shown is the pattern: bicubic makes grey of it.
        assert picture.abs().max() < 100
        pixels = functional.interpolate(pattern, scale_factor=4.0, mode="nearest")
        bicubic = functional.interpolate(pattern, scale_factor=4.0, mode="bicubic")
        error, bicubic_error = (functional.mse_loss(shown.clamp(0, 1), pixels) for shown in (picture, bicubic))
        assert error < bicubic_error


def test_deployed_form_is_traceable_for_any_size() -> None:
    deployed = small_network().deployed()
    traced = torch.fx.symbolic_trace(deployed)
    for size in ((8, 16), (24, 24)):
        x = torch.rand(1, 3, *size)
        assert torch.equal(traced(x), deployed(x))


def test_no_depthwise_kernel_of_the_deployed_form_has_more_than_25_taps() -> None:
    depthwise = [m for m in small_network().deployed().modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert sorted(m.weight[0, 0].numel() for m in depthwise) == [8, 20, 21, 25]


def test_frozen_statistics_leave_nothing_global_in_the_deployed_form() -> None:
    # with the grid's matrix out of play, what is far away must not matter at all
    network = small_network()
    with torch.no_grad():
        network.blocks[0].hidden.weight[:, 24:].zero_()
    deployed = network.deployed()
    x = torch.rand(1, 3, 64, 64)
    changed = x.clone()
    changed[..., 48:] = 0
    difference = (deployed(x) - deployed(changed)).abs().amax((0, 1, 2))
    assert difference[: 4 * 8].max() == 0
    assert difference[4 * 56 :].max() > 0


# ----------------------------------------------------------------------------------------------------------- any input
@pytest.mark.parametrize("size", [(1, 1), (7, 8), (9, 13), (3, 30)])
def test_training_form_takes_any_size(size: tuple[int, int]) -> None:
    assert small_network(scale=3)(torch.rand(2, 3, *size)).shape == (2, 3, 3 * size[0], 3 * size[1])


def test_sizes_are_completed_by_mirroring_as_numpy_does() -> None:
    x = torch.rand(2, 3, 5, 11)
    expected = functional.pad(x, (0, 5, 0, 3), mode="replicate")
    expected[..., 5:, :11] = x.flip(2)[:, :, :3]
    expected[..., 11:] = expected[..., :11].flip(3)[..., :5]
    assert torch.equal(mirror_to_multiple(x, 8), expected)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 3, 0, 8)])
def test_what_is_not_a_batch_of_images_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="expected"):
        mirror_to_multiple(torch.zeros(shape), 8)


def test_each_image_of_a_batch_is_treated_by_itself() -> None:
    network = small_network(statistics="image")
    x = torch.rand(2, 3, 16, 24)
    torch.testing.assert_close(network(x), torch.cat([network(x[:1]), network(x[1:])]), atol=1e-5, rtol=0)


def test_fresh_network_starts_close_to_nearest_neighbour_upscaling() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        difference = create_network("idsa_net", 4)(x) - functional.interpolate(x, scale_factor=4, mode="nearest")
    assert difference.std() < 0.1


# ----------------------------------------------------------------------------------------------------------- attention
def test_a_window_holds_neighbours_and_a_grid_holds_evenly_spread_pixels() -> None:
    batch, height, width = 2, 16, 24
    index = torch.arange(batch * height * width).reshape(batch, height, width, 1)
    windows, grids = window_tokens(index, 8)[..., 0], grid_tokens(index, 8)[..., 0]
    at = 4  # second row, second column of windows in the first image
    assert windows[at].tolist() == index[0, 8:16, 8:16, 0].flatten().tolist()
    at = (2 * 2 + 1) * 2 + 1  # column offset 2 of 3, row offset 1 of 2, second image; tokens go by column
    assert grids[at].tolist() == index[1, 1::2, 2::3, 0].t().flatten().tolist()
    assert torch.equal(window_pixels(windows[..., None], index, 8), index)
    assert torch.equal(grid_pixels(grids[..., None], index, 8), index)


def test_matrix_is_softmax_of_scaled_products_with_the_offsets_bias() -> None:
    torch.manual_seed(0)
    matrix = AttentionMatrix(6, 4, 2, grid=False)
    nn.init.normal_(matrix.bias)
    x = torch.randn(1, 6, 2, 2)
    pixels = x[0].flatten(1).t()  # (4, 6): one window of 2x2 tokens
    query = pixels @ matrix.query.weight[:, :, 0, 0].t() + matrix.query.bias
    key = pixels @ matrix.key.weight[:, :, 0, 0].t()
    table = matrix.bias.detach().reshape(3, 3)
    bias = torch.tensor([[table[1 + i // 2 - j // 2, 1 + i % 2 - j % 2] for j in range(4)] for i in range(4)])
    expected = torch.softmax(query @ key.t() / 2 + bias, dim=1)
    torch.testing.assert_close(matrix(x)[0], expected)
    torch.testing.assert_close(matrix.deployed()(x)[0], expected)


def test_tokens_of_equal_offset_share_a_bias() -> None:
    offsets = relative_offsets(8)
    assert offsets.unique().numel() == 15 * 15
    assert offsets[0, 9] == offsets[9, 18] == offsets[54, 63]


@pytest.mark.parametrize("grid", [False, True])
def test_the_bias_is_that_of_the_offset_in_rows_and_columns(grid: bool) -> None:
    matrix = AttentionMatrix(4, 4, 8, grid=grid)
    nn.init.zeros_(matrix.query.weight)
    nn.init.zeros_(matrix.query.bias)
    nn.init.normal_(matrix.bias)
    index = torch.arange(16 * 24).reshape(1, 16, 24, 1)
    tokens = (grid_tokens if grid else window_tokens)(index, 8)[5, :, 0]
    rows, columns = tokens // 24, tokens % 24
    if grid:  # in steps of the grid: every second row, every third column
        rows, columns = rows // 2, columns // 3
    table = matrix.bias.detach().reshape(15, 15)
    bias = table[rows[:, None] - rows[None, :] + 7, columns[:, None] - columns[None, :] + 7]
    torch.testing.assert_close(matrix(torch.rand(1, 4, 16, 24))[5], torch.softmax(bias, dim=1))


def test_identity_matrices_attend_to_themselves() -> None:
    near, far = torch.rand(2, 1, 16, 16, 4)
    identity = torch.eye(64).expand(4, 64, 64)
    attended = attend(near, far, (identity, identity), 8)
    assert torch.equal(attended[0], near)
    assert torch.equal(attended[1], far)


# ---------------------------------------------------------------------------------------------------------- statistics
def test_statistics_are_tracked_in_training_and_constant_once_frozen() -> None:
    torch.manual_seed(0)
    inam = INAM(4, 4, statistics="frozen").train()
    x = torch.randn(3, 4, 8, 8) * 2 + 5
    for _ in range(600):  # (1 - 0.01)**600 of the start is left
        inam(x)
    torch.testing.assert_close(inam.mean.flatten(), x.mean((0, 2, 3)), atol=0.02, rtol=0)
    torch.testing.assert_close(inam.variance.flatten(), x.var((2, 3), correction=0).mean(0), atol=0.02, rtol=0)
    inam.frozen = True
    before = inam.mean.clone()
    inam(torch.randn(1, 4, 8, 8))
    assert torch.equal(inam.mean, before)
    assert torch.equal(inam(x), inam.eval()(x))


def test_image_statistics_undo_a_change_of_contrast_and_brightness() -> None:
    torch.manual_seed(0)
    inam = INAM(4, 4, statistics="image").eval()
    x = torch.randn(1, 4, 16, 16)
    changed = 3 * x + 2
    # the weights, output over input, depend on the normalised input only
    torch.testing.assert_close(inam(x) / x, inam(changed) / changed, atol=1e-4, rtol=1e-4)


def test_calibrated_constants_are_the_images_own_where_all_images_are_the_same() -> None:
    network = small_network(statistics="image", blocks=2)
    x = torch.rand(1, 3, 16, 16)
    frozen = network.with_frozen_statistics([x, x.repeat(2, 1, 1, 1)])
    assert frozen.config == dataclasses.replace(network.config, statistics="frozen")
    torch.testing.assert_close(frozen(x), network(x), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(frozen(x * 0.3), network(x * 0.3), atol=1e-3)


def test_calibration_needs_images_and_an_inam() -> None:
    with pytest.raises(DataError, match="at least one batch"):
        small_network().with_frozen_statistics([])
    with pytest.raises(ConfigError, match="inam=False"):
        small_network(inam=False).with_frozen_statistics([torch.rand(1, 3, 8, 8)])


# ------------------------------------------------------------------------------------------------------------ training
def _loss_after(steps: int, dtype: torch.dtype) -> tuple[float, float]:
    torch.manual_seed(0)
    network = IDSANet(IDSANetConfig(scale=2, **SMALL)).train()
    hr = functional.interpolate(torch.rand(2, 3, 8, 8), scale_factor=4, mode="bicubic").clamp(0, 1)
    lr = functional.avg_pool2d(hr, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            sr = network(lr)
        loss = functional.l1_loss(sr.float(), hr)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_thirty_steps_on_one_batch_halve_the_loss(dtype: torch.dtype) -> None:
    first, last = _loss_after(30, dtype)
    assert last < 0.5 * first


# ---------------------------------------------------------------------------------------------------------- toolchains
def _lower(network: nn.Module, scheme: str, target: str, folder: Path) -> Lowered:
    job = LoweringJob(network=network, scheme=scheme, model="idsa_net", scale=4, tile=(16, 16), work_dir=folder)
    lowered = importlib.import_module(f"converters.to_{target}").lower(job)
    assert isinstance(lowered, Lowered)
    return lowered


def _tiles(number: int) -> list[Tensor]:
    return list(torch.rand(number, 1, 3, 16, 16, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("batch", [1, 3])
def test_no_tensor_has_more_than_the_four_axes_that_gpus_take(batch: int) -> None:
    traced = torch.fx.symbolic_trace(small_network(blocks=2).deployed())
    ShapeProp(traced).propagate(torch.rand(batch, 3, 16, 24))
    shapes = [
        node.meta["tensor_meta"].shape for node in traced.graph.nodes if hasattr(node.meta.get("tensor_meta"), "shape")
    ]
    assert max(map(len, shapes)) == 4


def test_no_tensor_of_the_tflite_file_has_more_than_four_axes(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    lowered = _lower(small_network().deployed(), "fp32", "tflite", tmp_path)
    graph = read_operators(tmp_path / lowered.main_file, "tflite")
    assert max(tensor.rank for op in graph.ops for tensor in op.tensors) == 4


@pytest.mark.parametrize(
    ("target", "tool"), [("tflite", "litert_torch"), ("executorch", "executorch"), ("coreml", "coremltools")]
)
def test_float_network_is_taken_whole(target: str, tool: str, tmp_path: Path) -> None:
    pytest.importorskip(tool)
    delegation = _lower(small_network().deployed(), "fp32", target, tmp_path).delegation
    assert delegation.ops_outside == {}
    assert delegation.delegates == (None if target == "coreml" else 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "target", "tool"),
    [
        ("w8a8", "tflite", "litert_torch"),
        ("w8a8", "executorch", "executorch"),
        ("w8a8_mixed", "executorch", "executorch"),
    ],
)
def test_int8_network_is_taken_whole_with_attention_in_float(
    scheme: str, target: str, tool: str, tmp_path: Path
) -> None:
    pytest.importorskip(tool)
    quantized = prepare(small_network().deployed(), scheme)
    calibrate(quantized, _tiles(2))
    delegation = _lower(quantized, scheme, target, tmp_path).delegation
    assert (delegation.delegates, delegation.ops_outside) == (1, {})
