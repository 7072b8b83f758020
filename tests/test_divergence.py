"""The first diverging layer: planted in one layer of what is lowered, it is that layer that gets named."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import apps.verification.divergence
from apps.verification.divergence import Divergence, find_divergence
from edge_sr.errors import ConfigError, RunnerError
from edge_sr.networks import create_network
from edge_sr.runner import TorchRunner, to_float
from quantization.calibration import calibrate
from quantization.quantizer import QuantizedNetwork, prepare
from quantization.taps import LayerTaps

TILE = (16, 24)
Image = np.ndarray[Any, np.dtype[np.uint8]]
RUNTIMES = {"tflite": "litert_torch", "executorch": "executorch", "coreml_evaluator": "coremltools"}


@pytest.fixture(scope="module")
def lr() -> Image:
    return np.random.default_rng(0).integers(0, 256, (*TILE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def deployed() -> nn.Module:
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4).eval()
    torch.nn.init.normal_(network.up.weight, std=0.05)
    found: nn.Module = network.deployed()
    return found


@pytest.fixture(scope="module")
def quantized(deployed: nn.Module, lr: Image) -> QuantizedNetwork:
    network = prepare(deployed, "w8a8")
    calibrate(network, [to_float(lr), torch.ones(1, 3, *TILE)])
    return network


def with_wrong_bias(network: nn.Module, layer: str, by: float) -> nn.Module:
    """A copy in which one convolution adds ``by`` more."""
    wrong = copy.deepcopy(network)
    inner = wrong.graph_module if isinstance(wrong, QuantizedNetwork) else wrong
    conv: Any = inner.get_submodule(layer)
    with torch.no_grad():
        conv.bias += by
    return wrong


def simulated(monkeypatch: pytest.MonkeyPatch, wrong: dict[str, float]) -> None:
    """A runtime that computes what the network computes, but adds ``wrong`` to the values of these nodes."""

    class Runtime(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            return result + wrong[n.name] if n.name in wrong else result

    def run_tapped(built: nn.Module, picture: Image, shapes: Any, **_: Any) -> list[Tensor]:
        module = built.graph_module if isinstance(built, QuantizedNetwork) else built
        assert isinstance(module, torch.fx.GraphModule)
        with torch.no_grad():
            return list(Runtime(module).run(to_float(picture)))

    monkeypatch.setattr(apps.verification.divergence, "run_tapped", run_tapped)


def find(network: nn.Module, lr: Image, **settings: Any) -> Divergence:
    chosen = {"runtime": "tflite", "scheme": "w8a8", **settings}
    return find_divergence(network, lr=lr, **chosen)


# ------------------------------------------------------------------------------------------- with a simulated runtime
def test_runtime_that_computes_the_network_has_no_diverging_layer(
    quantized: QuantizedNetwork, lr: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated(monkeypatch, {})
    found = find(quantized, lr, artifact_output=TorchRunner(quantized).run(lr))
    assert found.first is None
    assert {layer.accumulated_max for layer in found.layers} == {0.0}
    assert (found.build_levels, found.lowerings, found.complete) == (0, 1, True)
    assert "no single layer diverges" in found.sentence()


def test_difference_is_measured_in_steps_of_the_layers_own_grid(
    quantized: QuantizedNetwork, lr: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = dict(quantized.grids())
    step = grids["relu_2_grid"].qparams()[0]
    simulated(monkeypatch, {"grids_relu_2_grid": 5 * step})
    first = find(quantized, lr).first
    assert first is not None
    assert (first.node, first.layer, first.op, first.unit) == (
        "grids_relu_2_grid",
        "purify.squeeze",
        "conv + relu",
        "LSB",
    )
    assert (first.own_max, first.own_mean) == (pytest.approx(5.0, rel=1e-4), pytest.approx(5.0, rel=1e-4))


def test_one_step_is_a_rounding_and_two_are_not(
    quantized: QuantizedNetwork, lr: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = dict(quantized.grids())["gather_grid"].qparams()[0]
    simulated(monkeypatch, {"grids_gather_grid": step})
    assert find(quantized, lr).first is None
    simulated(monkeypatch, {"grids_gather_grid": 2 * step})
    first = find(quantized, lr).first
    assert first is not None
    assert first.layer == "gather"


def test_layers_after_the_wrong_one_are_right_by_themselves(
    quantized: QuantizedNetwork, lr: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = dict(quantized.grids())["head_grid"].qparams()[0]
    simulated(monkeypatch, {"grids_head_grid": 9 * step})
    found = find(quantized, lr)
    assert found.first is not None
    assert found.first.layer == "head"
    assert [layer.op for layer in found.inputs] == ["input"]
    later = [layer for layer in found.layers if layer.node != "grids_head_grid"]
    assert max(layer.own_max for layer in later) == 0.0
    assert max(layer.accumulated_max for layer in later) > 1.5


def test_first_of_two_wrong_layers_is_named(
    quantized: QuantizedNetwork, lr: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated(monkeypatch, {"grids_up_grid": 1.0, "grids_relu_grid": 1.0})
    first = find(quantized, lr).first
    assert first is not None
    assert first.layer == "blocks.0.first"


def test_not_a_number_diverges(quantized: QuantizedNetwork, lr: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated(monkeypatch, {"grids_up_grid": float("nan")})
    first = find(quantized, lr).first
    assert first is not None
    assert first.layer == "up"


@pytest.mark.parametrize("max_taps", [3, 5, 9])
def test_few_taps_are_moved_closer_until_the_layer_stands_alone(
    quantized: QuantizedNetwork, lr: Image, monkeypatch: pytest.MonkeyPatch, max_taps: int
) -> None:
    simulated(monkeypatch, {"grids_mul_1_grid": 1.0})
    found = find(quantized, lr, max_taps=max_taps, max_lowerings=9)
    assert found.first is not None
    assert (found.first.layer, found.first.op) == ("purify", "mul")
    assert found.complete
    assert 1 < found.lowerings <= 9


def test_search_that_may_not_go_on_says_so(
    quantized: QuantizedNetwork, lr: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated(monkeypatch, {"grids_mul_1_grid": 1.0})
    found = find(quantized, lr, max_taps=3, max_lowerings=1)
    assert found.first is not None
    assert not found.complete
    assert "not narrowed down" in found.sentence()


def test_float_layers_are_compared_in_shares_of_their_largest_value(
    deployed: nn.Module, lr: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = LayerTaps(deployed, to_float(lr)).reference(to_float(lr), ["gather"])["gather"]
    simulated(monkeypatch, {"gather": 0.25 * float(reference.abs().max())})
    first = find(deployed, lr, scheme="fp32").first
    assert first is not None
    assert (first.layer, first.unit) == ("gather", "of max")
    assert first.own_max == pytest.approx(0.25, rel=1e-4)


def test_picture_of_another_artifact_is_told_apart(
    quantized: QuantizedNetwork, lr: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated(monkeypatch, {})
    picture = TorchRunner(quantized).run(lr)
    other = np.where(picture >= 7, picture - 7, picture + 7).astype(np.uint8)
    found = find(quantized, lr, artifact_output=other)
    assert found.build_levels == 7
    assert "differs from this lowering by up to 7 levels" in found.sentence()


def test_json_holds_the_first_layer_and_what_lies_before_it(
    quantized: QuantizedNetwork, lr: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated(monkeypatch, {"grids_up_grid": 1.0})
    saved = find(quantized, lr, participant="TFLite", tile_label="Set5/baby").to_json()
    assert saved["first"]["layer"] == "up"
    assert saved["first"]["inputs"] == ["grids_add_1_grid"]
    assert saved["sentence"].startswith("TFLite on Set5/baby: first diverging layer is up (conv)")


def test_network_of_another_structure_is_refused(quantized: QuantizedNetwork, deployed: nn.Module, lr: Image) -> None:
    with pytest.raises(RunnerError, match="one structure"):
        find(quantized, lr, lowered=deployed)


def test_unknown_runtime_is_refused(quantized: QuantizedNetwork, lr: Image) -> None:
    with pytest.raises(ConfigError, match="runtime for taps"):
        find(quantized, lr, runtime="onnx")


# ------------------------------------------------------------------------------------------------ with real runtimes
def test_quantize_dequantize_graph_with_a_wrong_bias_is_found_out(quantized: QuantizedNetwork, lr: Image) -> None:
    assert find(quantized, lr, runtime="qdq").first is None
    found = find(quantized, lr, runtime="qdq", lowered=with_wrong_bias(quantized, "purify.near", 0.05))
    assert found.first is not None
    assert (found.first.layer, found.first.op) == ("purify.near", "conv + relu")


@pytest.mark.parametrize(
    ("runtime", "layer", "op"),
    [
        ("tflite", "blocks.0.second", "conv + relu"),
        ("executorch", "up", "conv"),
        ("coreml_evaluator", "gather", "conv"),
    ],
)
def test_layer_with_a_wrong_bias_is_named(
    quantized: QuantizedNetwork, lr: Image, runtime: str, layer: str, op: str
) -> None:
    pytest.importorskip(RUNTIMES[runtime], reason=f"{RUNTIMES[runtime]} is not installed")
    found = find(quantized, lr, runtime=runtime, lowered=with_wrong_bias(quantized, layer, 0.05))
    assert found.first is not None
    assert (found.first.layer, found.first.op) == (layer, op)
    assert all(layer.own_max <= 1.5 for layer in found.inputs)
    others = [other for other in found.layers if other.node != found.first.node]
    assert max(other.own_max for other in others) <= 1.5
