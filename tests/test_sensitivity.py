"""Sensitivity: errors whose size arithmetic tells, planted culprits that must come first, times given to parts."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor, nn

from apps.cli import main
from apps.profiling.layer_results import OPERATOR_PROFILE, PREFIXES, LayerCost, LayerProfile
from apps.profiling.part_latency import OUTSIDE, latency_by_part
from edge_sr.checkpoints import save_checkpoint, sha256_file
from edge_sr.errors import ConfigError
from edge_sr.images import write_image
from edge_sr.networks import create_network
from edge_sr.runner import to_float
from quantization import Mode, QuantizedNetwork, calibrate, prepare, save_quantized
from quantization.places import BLOCK, OP, ROLE, find_parts, find_places
from quantization.sensitivity import Sensitivity, measure_sensitivity, measure_whole

Image = NDArray[np.uint8]


class Gated(nn.Module):
    """x4: head, a gate of its own module, a skip; every kind of operator once or twice."""

    scale, tile_multiple = 4, 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.head = nn.Conv2d(3, 12, 3, padding=1)
        self.gate = nn.Conv2d(12, 12, 3, padding=1)
        self.body = nn.Conv2d(12, 12, 3, padding=1)
        self.up = nn.Conv2d(12, 48, 1)
        with torch.no_grad():
            self.up.weight.mul_(0.2)
            self.up.bias.fill_(0.5)  # in the middle of [0, 1], so that nothing is clamped

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        z = torch.relu(self.body(y)) * torch.sigmoid(self.gate(y))
        return F.pixel_shuffle(self.up(z + y), 4)


class Single(nn.Module):
    """x2: one convolution, and a picture added to it: one value is rounded, and one set of weights."""

    scale, tile_multiple = 2, 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.up = nn.Conv2d(3, 12, 3, padding=1)
        self.copy = nn.Conv2d(3, 12, 1, bias=False)
        with torch.no_grad():
            self.up.weight.mul_(0.2)
            self.copy.weight.copy_(torch.eye(3).repeat_interleave(4, dim=0)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.up(x) + self.copy(x), 2)


def _images(scale: int, *, side: int = 32, count: int = 3) -> list[tuple[Image, Image]]:
    """Greys between 80 and 175 (far from black and white), and HR pictures of any sort."""
    rng = np.random.default_rng(7)
    made = []
    for _ in range(count):
        lr = rng.integers(80, 176, (side, side, 3), dtype=np.uint8)
        made.append((lr, np.kron(lr, np.ones((scale, scale, 1), dtype=np.uint8))))
    return made


def _calibrated(network: nn.Module, images: list[tuple[Image, Image]], scheme: str = "w8a8") -> QuantizedNetwork:
    quantized = prepare(network, scheme)
    calibrate(quantized, [to_float(lr) for lr, _ in images])
    return quantized


@pytest.fixture(scope="module")
def images() -> list[tuple[Image, Image]]:
    return _images(4)


@pytest.fixture(scope="module")
def gated(images: list[tuple[Image, Image]]) -> Sensitivity:
    return measure_sensitivity(_calibrated(Gated(), images), images)


def _names(result: Sensitivity, view: str) -> list[str]:
    return [part.name for part in result.view(view)]


# ------------------------------------------------------------------------------------------------------------- sizes
def test_rounding_one_value_costs_a_twelfth_of_its_squared_step() -> None:
    images = _images(2)
    network = _calibrated(Single(), images)
    step = float(network.graph_module.get_submodule("grids.up_grid").scale) * 255.0
    found = {part.name: part for part in measure_sensitivity(network, images).view(OP)}
    # Uniform over a step: its square over 12. 110,592 samples leave a standard error of 0.3% of that.
    assert found["conv outputs"].alone.mse_levels2 == pytest.approx(step**2 / 12, rel=0.01)


def test_rounding_weights_costs_what_their_differences_make_of_the_picture() -> None:
    images, float_network = _images(2), Single()
    found = {part.name: part for part in measure_sensitivity(_calibrated(float_network, images), images).view(OP)}
    weight = float_network.up.weight.detach().double().numpy()
    steps = np.abs(weight).reshape(12, -1).max(axis=1)[:, None, None, None] / 127
    off = np.rint(weight / steps) * steps - weight
    squares, count = 0.0, 0
    for lr, _ in images:
        padded = np.pad(lr.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
        patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))  # (H, W, 3, 3, 3)
        error = np.einsum("hwckl,ockl->hwo", patches, off)
        squares, count = squares + float((error**2).sum()), count + error.size
    # The bias moves by at most half of (step of the weights) / 255: under a thousandth of these differences.
    assert found["conv weights"].alone.mse_levels2 == pytest.approx(squares / count, rel=0.02)


def test_with_two_parts_the_others_are_the_other_one() -> None:
    images = _images(2)
    weights, values = sorted(
        measure_sensitivity(_calibrated(Single(), images), images).view(OP), key=lambda part: part.values
    )
    assert (weights.name, values.name) == ("conv weights", "conv outputs")
    assert weights.alone == values.others
    assert values.alone == weights.others


def test_independent_errors_add_up_to_that_of_the_whole() -> None:
    images = _images(2)
    result = measure_sensitivity(_calibrated(Single(), images), images)
    # Weights are rounded once for all pixels and values by chance: nothing correlates them.
    assert sum(result.share_percent(part) for part in result.view(OP)) == pytest.approx(100, abs=2)


def test_parts_of_a_network_add_up_to_the_whole_or_a_little_more(gated: Sensitivity) -> None:
    for view in (OP, BLOCK):
        # What was rounded before loses less when it is rounded again, on a grid about as fine: here where the gated
        # branch is zero, which a ReLU makes it half of the time. By itself either rounding costs its full price.
        assert 95 < sum(gated.share_percent(part) for part in gated.view(view)) < 140


def test_leaving_any_part_in_float_lowers_the_error(gated: Sensitivity) -> None:
    for part in gated.parts:
        # But for the tipping of single values, where a part has next to no error of its own.
        assert part.others.mse_levels2 < 1.02 * gated.whole.mse_levels2


def test_the_whole_is_the_networks_own_arithmetic(gated: Sensitivity) -> None:
    # Float sums tip a few values over to the next step; hundredths of a level in thousands of pixels.
    assert gated.whole.drop_db == pytest.approx(gated.network_drop_db, abs=0.01)


# ----------------------------------------------------------------------------------------------------------- culprits
@pytest.mark.parametrize(
    ("grid", "op", "block"),
    [("mul_grid", "mul", "top level"), ("add_grid", "add", "top level"), ("relu_grid", "conv outputs", "body")],
)
def test_a_value_with_an_outlier_range_comes_first(
    images: list[tuple[Image, Image]], grid: str, op: str, block: str
) -> None:
    network = _calibrated(Gated(), images)
    network.graph_module.get_submodule(f"grids.{grid}").set_range(-60.0, 60.0)
    result = measure_sensitivity(network, images)
    assert _names(result, OP)[0] == op
    assert _names(result, BLOCK)[0] == block
    worst = result.view(OP)[0]
    assert worst.alone.mse_levels2 > 0.7 * result.whole.mse_levels2
    assert worst.others.mse_levels2 < 0.3 * result.whole.mse_levels2


def test_weights_with_an_outlier_come_first(images: list[tuple[Image, Image]]) -> None:
    float_network = Gated()
    with torch.no_grad():
        # One weight a hundred times its channel's others takes nearly all steps of that channel.
        float_network.up.weight[:, 0] = 0.0
        float_network.up.weight[:, 0] += 60.0
        float_network.head.weight[0] = 0.0
        float_network.head.bias[0] = 0.0
        float_network.body.weight[0] = 0.0
        float_network.body.bias[0] = 0.0
    result = measure_sensitivity(_calibrated(float_network, images), images)
    assert _names(result, OP)[0] == "conv weights"
    assert _names(result, BLOCK)[0] == "up"


# -------------------------------------------------------------------------------------------------------------- parts
def test_parts_are_named_by_operator_block_and_role() -> None:
    network = prepare(create_network("idsa_net_mobile", 4, channels=8, blocks=2, distilled=4).eval().deployed(), "w8a8")
    names: dict[str, list[str]] = {}
    for part in find_parts(network):
        names.setdefault(part.view, []).append(part.name)
    assert set(names[OP]) == {"conv weights", "conv outputs", "add", "mul", "sigmoid"}
    blocks = {"head", "attention", "blocks.0", "blocks.1", "purify", "gather", "squeeze", "spatial", "up", "top level"}
    assert set(names[BLOCK]) == blocks
    assert set(names[ROLE]) == {"blocks.*.first", "blocks.*.second"}
    counts = {part.name: len(part.places) for part in find_parts(network) if part.view == OP}
    # head, attention, 2 x 2 in blocks, 4 in purify, gather, squeeze, spatial, up; the copying one loses nothing.
    assert counts["conv weights"] == 14
    # Gated, the skip; the last one lies on the picture's own grid.
    assert counts["add"] == 2


def test_what_a_float_operator_computed_is_requantized() -> None:
    ops = [place.op for place in find_places(prepare(Gated(), "w8a8_mixed"))]
    # body, gate and head give int8 values; the float sum is rounded where the last convolution reads it.
    assert ops.count("conv outputs") == 3
    assert ops.count("requantize") == 1
    assert ops.count("sigmoid") == 1
    assert "add" not in ops
    assert "mul" not in ops


def test_a_float_sum_loses_less_than_an_int8_one(images: list[tuple[Image, Image]]) -> None:
    both = {scheme: measure_whole(_calibrated(Gated(), images, scheme), images) for scheme in ("w8a8", "w8a8_mixed")}
    assert both["w8a8_mixed"].mse_levels2 < both["w8a8"].mse_levels2


def test_measuring_changes_nothing(images: list[tuple[Image, Image]]) -> None:
    network = _calibrated(Gated(), images)
    x = to_float(images[0][0])
    before, state = network(x), {name: value.clone() for name, value in network.state_dict().items()}
    measure_sensitivity(network, images[:1])
    assert network.mode is Mode.QUANTIZE
    assert torch.equal(network(x), before)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_one_image_has_no_standard_error_and_no_image_is_refused(images: list[tuple[Image, Image]]) -> None:
    network = _calibrated(Gated(), images)
    assert measure_whole(network, images[:1]).drop_error_db is None
    with pytest.raises(ConfigError, match="at least one image"):
        measure_sensitivity(network, [])
    with pytest.raises(ConfigError, match="range"):
        measure_sensitivity(prepare(Gated(), "w8a8"), images)


# -------------------------------------------------------------------------------------------------------------- times
def _profile(scheme: str, layers: list[tuple[str, str, float]], *, total: float, method: str = OPERATOR_PROFILE) -> Any:
    costs = tuple(LayerCost(name=n, kind=k, kernel="", macs=None, samples_ms=(ms,)) for n, k, ms in layers)
    return LayerProfile(
        artifact_path=Path("a"),
        model="m",
        scheme=scheme,
        target="tflite",
        tile=(32, 32),
        threads=1,
        method=method,
        layers=costs,
        total_samples_ms=(total,),
        macs=1,
    )


_CONVOLUTIONS = [
    ("#0 head 3x3 3->12", "CONV_2D", 1.0),
    ("#1 body 3x3 12->12", "CONV_2D", 2.0),
    ("#2 gate 3x3 12->12", "CONV_2D", 4.0),
]
_REST = [("#3 x", "LOGISTIC", 0.5), ("#4", "MUL", 0.25), ("#5", "ADD", 0.125), ("#6", "WHATEVER", 0.0625)]
_LAST = [("#7 up 1x1 12->48", "CONV_2D", 8.0)]


def test_operators_are_added_up_by_part() -> None:
    network = prepare(Gated(), "w8a8")
    found = latency_by_part(network, [_profile("fp32", _CONVOLUTIONS + _REST + _LAST, total=16.0)])
    by_op = {row.name: row.latency_ms["fp32"] for row in found.rows if row.view == OP}
    assert by_op == {
        "convolutions": 15.0,
        "sigmoid": 0.5,
        "mul": 0.25,
        "add": 0.125,
        "other: WHATEVER": 0.0625,
        OUTSIDE: 0.0625,  # 16 less all of them
    }
    by_block = {row.name: row.latency_ms["fp32"] for row in found.rows if row.view == BLOCK}
    assert by_block == {"up": 8.0, "gate": 4.0, "body": 2.0, "head": 1.0}
    assert found.total_ms == {"fp32": 16.0}
    assert found.notes == ()


def test_convolutions_in_another_order_are_given_to_no_block() -> None:
    layers = [_CONVOLUTIONS[1], _CONVOLUTIONS[0], _CONVOLUTIONS[2], *_LAST]
    right = _profile("fp32", _CONVOLUTIONS + _LAST, total=16.0)
    found = latency_by_part(prepare(Gated(), "w8a8"), [right, _profile("w8a8", layers, total=16.0)])
    blocks = [row for row in found.rows if row.view == BLOCK]
    assert {row.latency_ms["w8a8"] for row in blocks} == {None}
    assert all("head 3x3 3->12 was expected" in (row.reason or "") for row in blocks)
    assert {row.name: row.latency_ms["fp32"] for row in blocks}["gate"] == 4.0
    assert [row.latency_ms["w8a8"] for row in found.rows if row.name == "convolutions"] == [15.0]


def test_profiles_that_cannot_be_compared_are_refused() -> None:
    network = prepare(Gated(), "w8a8")
    good = _profile("fp32", _LAST, total=9.0)
    for bad in ([], [good, good], [_profile("fp32", _LAST, total=9.0, method=PREFIXES)]):
        with pytest.raises(ConfigError):
            latency_by_part(network, bad)


# ------------------------------------------------------------------------------------------------------- command line
@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, create_network("idsa_net_mobile", 4, channels=8, blocks=2, distilled=4), {"steps": 3})
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, (_, hr) in enumerate(_images(4, count=2)):
        write_image(folder / f"{index}.png", hr)
    return folder


def test_command_writes_page_chart_and_json(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sensitivity", "--checkpoint", checkpoint, "--data", photos, "--calibration", photos, "--side", "24"]
    words += ["--no-search", "--variants", "--out", tmp_path / "page", "--json", tmp_path / "s.json"]
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    content = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert content["kind"] == "edge-sr/sensitivity"
    assert content["checkpoint_sha256"] == sha256_file(checkpoint)
    result = content["sensitivity"]
    assert result["images"] == 2
    for view in (OP, BLOCK, ROLE):
        errors = [part["alone"]["mse_levels2"] for part in result["parts"] if part["view"] == view]
        assert errors == sorted(errors, reverse=True)
        assert len(errors) > 1
    names = [variant["name"] for variant in content["variants"]]
    floats = ["w8a8, add in float", "w8a8, mul in float", "w8a8, sigmoid in float"]
    assert names == ["w8a8", *floats, "w8a8_mixed", "w8a8, add, mul and sigmoid in float"]
    assert content["variants"][0]["effect"] == result["whole"]
    page = (tmp_path / "page" / "sensitivity.html").read_text(encoding="utf-8")
    assert "blocks.*.second" in page
    with PillowImage.open(tmp_path / "page" / "sensitivity.png") as chart:
        assert min(chart.size) > 200
    printed = capsys.readouterr().out
    assert "conv outputs" in printed
    assert "w8a8_mixed" in printed


def test_weights_that_were_trained_for_int8_are_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed = create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4).eval().deployed()  # type: ignore[operator]
    network = prepare(deployed, "w8a8")
    calibrate(network, [torch.rand(1, 3, 16, 16)])
    save_quantized(tmp_path / "q.safetensors", network, {})
    assert main(["sensitivity", "--checkpoint", str(tmp_path / "q.safetensors"), "--data", str(photos)]) == 2
    assert "expected a float checkpoint" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- script
@pytest.fixture(scope="module")
def script() -> ModuleType:
    return importlib.import_module("scripts.measure_sensitivity")


def test_steps_are_kept_side_by_side_until_the_weights_change(
    script: ModuleType, checkpoint: Path, tmp_path: Path
) -> None:
    subject = script.Subject(model="idsa_net", checkpoint=checkpoint, bundled=False, search=False, tile=(8, 8))
    path = tmp_path / "s.json"
    script.write(path, "parts", subject, {"a": 1})
    script.write(path, "latency", subject, {"b": 2})
    (entry,) = json.loads(path.read_text(encoding="utf-8"))["networks"]
    assert (entry["parts"]["a"], entry["latency"]["b"], entry["trained"]["steps"]) == (1, 2, 3)
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4), {})
    changed = script.Subject(model="idsa_net", checkpoint=other, bundled=False, search=False, tile=(8, 8))
    script.write(path, "latency", changed, {"b": 3})
    (entry,) = json.loads(path.read_text(encoding="utf-8"))["networks"]
    assert "parts" not in entry
    assert entry["latency"]["b"] == 3


def test_a_quick_trial_cannot_replace_the_result(script: ModuleType) -> None:
    with pytest.raises(ConfigError, match="--out"):
        script.main(["latency", "--quick"])


def test_the_chart_comes_from_the_file(script: ModuleType, gated: Sensitivity) -> None:
    restored = script.read_sensitivity(json.loads(json.dumps(gated.to_json())))
    assert restored == gated
