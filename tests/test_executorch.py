"""ExecuTorch artifacts: one XNNPACK delegate, int8 weights, and the network's own numbers."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converters import to_executorch
from converters.artifact import Artifact, fingerprint, write_artifact
from converters.executorch_toolchain import toolchain_noise_off
from converters.export import export_artifact
from converters.lowering import LoweringJob
from converters.runners import executorch_runner, open_runner
from converters.runners.executorch_runner import ExecuTorchRunner
from edge_sr.errors import ConversionError, MissingToolError, RunnerError, ShapeError
from edge_sr.networks import create_network
from edge_sr.runner import TorchRunner, to_float
from quantization.calibration import calibrate
from quantization.qdq import to_qdq
from quantization.quantizer import QuantizedNetwork, prepare

pytest.importorskip("executorch", reason="executorch is not installed")

TILE = (24, 16)
OPS = torch.ops.quantized_decomposed
SCHEMES = ("fp32", "w8a8", "w8a8_mixed")
Image = np.ndarray[Any, np.dtype[np.uint8]]


def quantized(deployed: nn.Module, scheme: str) -> QuantizedNetwork:
    network = prepare(deployed, scheme)
    generator = torch.Generator().manual_seed(1)
    calibrate(network, [torch.rand((2, 3, *TILE), generator=generator), torch.ones(1, 3, *TILE)])
    return network


def export(network: nn.Module, scheme: str, out_dir: Path) -> Artifact:
    return export_artifact(
        network=network, scheme=scheme, target="executorch", tile=TILE, out_dir=out_dir, checkpoint_sha256="ab" * 32
    )


def remade(artifact: Artifact, path: Path, content: bytes) -> Artifact:
    """A valid artifact around another program, without the digest, which would tell before the runtime does."""
    source = path / "source"
    source.mkdir(parents=True)
    (source / artifact.meta.main_file).write_bytes(content)
    meta = replace(artifact.meta, files=fingerprint(source, [artifact.meta.main_file]), canonical_sha256=None)
    return write_artifact(path / "artifact", meta=meta, source=source)


@pytest.fixture(scope="session")
def networks() -> dict[str, nn.Module]:
    """A small mobile network, as each scheme computes it in PyTorch."""
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 4, channels=16, blocks=2, distilled=4).eval()
    torch.nn.init.normal_(network.up.weight, std=0.02)
    deployed = network.deployed()
    return {"fp32": deployed, "w8a8": quantized(deployed, "w8a8"), "w8a8_mixed": quantized(deployed, "w8a8_mixed")}


@pytest.fixture(scope="session")
def artifacts(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    out_dir = tmp_path_factory.mktemp("executorch")
    return {scheme: export(networks[scheme], scheme, out_dir) for scheme in SCHEMES}


@pytest.fixture(scope="session")
def lr() -> Image:
    return np.random.default_rng(0).integers(0, 256, (*TILE, 3), dtype=np.uint8)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_mobile_network_is_one_delegate_with_nothing_outside(artifacts: dict[str, Artifact], scheme: str) -> None:
    delegation = artifacts[scheme].meta.delegation
    assert (delegation.delegates, delegation.ops_outside) == (1, {})


def test_the_float_program_computes_the_deployed_network(
    artifacts: dict[str, Artifact], networks: dict[str, nn.Module], lr: Image
) -> None:
    with torch.inference_mode():
        expected = networks["fp32"](to_float(lr))
    result = ExecuTorchRunner(artifacts["fp32"]).run_tensor(to_float(lr))
    # Sums in another order: a few float32 roundings, far below half an output level (2e-3).
    assert torch.allclose(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scheme", ["w8a8", "w8a8_mixed"])
def test_the_int8_program_is_within_two_levels_of_the_fake_quantized_network(
    artifacts: dict[str, Artifact], networks: dict[str, nn.Module], lr: Image, scheme: str
) -> None:
    expected = TorchRunner(networks[scheme]).run(lr).astype(int)
    result = ExecuTorchRunner(artifacts[scheme]).run(lr).astype(int)
    # Sums may differ by one step where they lie next to a rounding boundary (see IntegerArithmetic); one step of the
    # last convolution is less than two output levels here.
    assert np.abs(result - expected).max() <= 2
    assert (result != expected).mean() < 0.01


def test_the_int8_program_computes_xnnpacks_integer_arithmetic_to_the_bit(
    artifacts: dict[str, Artifact], networks: dict[str, nn.Module], lr: Image
) -> None:
    qdq = to_qdq(cast(QuantizedNetwork, networks["w8a8"]), weights="int8", duplicate_dequantize=True)
    graph = torch.export.export(qdq, (to_float(lr),)).module()
    expected = IntegerArithmetic(cast(torch.fx.GraphModule, graph)).run(to_float(lr))
    assert torch.equal(ExecuTorchRunner(artifacts["w8a8"]).run_tensor(to_float(lr)), expected)


class IntegerArithmetic(torch.fx.Interpreter):
    """Runs a QDQ graph as XNNPACK does: int8 in, int32 sums, one rounding per operator.

    Convolutions and products are requantized by one float32 multiplication and rounded half to even. Sums are not:
    each operand gets an integer multiplier of 21 bits at most, and the shift that ends it rounds half up.
    """

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.stored: dict[torch.fx.Node, tuple[Tensor, Any, int]] = {}  # dequantize -> what it read: q, scale, zero
        self.steps: dict[torch.fx.Node, Callable[[float], Tensor]] = {}  # operator -> rounded steps for a scale

    def run_node(self, n: torch.fx.Node) -> Any:
        args, _ = self.fetch_args_kwargs_from_env(n)
        sources = [self.stored.get(node) for node in n.all_input_nodes]
        if n.target is OPS.dequantize_per_tensor.default or n.target is OPS.dequantize_per_channel.default:
            self.stored[n] = (args[0].double(), args[1], args[2])
        elif n.target is torch.ops.aten.conv2d.default:
            self.steps[n] = self._convolved(args, *(source for source in sources if source is not None))
        elif n.target is torch.ops.aten.relu.default and n.args[0] in self.steps:
            before = self.steps[n.args[0]]
            self.steps[n] = lambda scale: before(scale).clamp(min=0)
        elif n.target in (torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor) and None not in sources:
            combine = _summed if n.target is torch.ops.aten.add.Tensor else _multiplied
            self.steps[n] = lambda scale: combine(scale, *sources)
        elif n.target is OPS.quantize_per_tensor.default and n.args[0] in self.steps:
            return (self.steps[n.args[0]](args[1]) + args[2]).clamp(-128, 127).to(torch.int8)
        return super().run_node(n)

    def _convolved(self, args: Any, x: Any, weight: Any) -> Callable[[float], Tensor]:
        unit = weight[1] * torch.tensor(x[1])
        bias = torch.round(args[2] / unit).double() if len(args) > 2 and args[2] is not None else None
        total = torch.nn.functional.conv2d(x[0] - x[2], weight[0], bias, *args[3:])
        return lambda scale: torch.round(total.float() * (unit / torch.tensor(scale)).view(1, -1, 1, 1))


def _summed(scale: float, one: Any, other: Any) -> Tensor:
    ratios = [float(np.float32(np.float32(source[1]) / np.float32(scale))) for source in (one, other)]
    shift = 20 - math.floor(math.log2(max(ratios)))
    products = [
        (q - zero).long() * round(ratio * 2**shift) for (q, _, zero), ratio in zip((one, other), ratios, strict=True)
    ]
    return (products[0] + products[1] + 2 ** (shift - 1)) >> shift


def _multiplied(scale: float, one: Any, other: Any) -> Tensor:
    factor = np.float32(np.float32(one[1]) * np.float32(other[1]) / np.float32(scale))
    return torch.round(((one[0] - one[2]) * (other[0] - other[2])).float() * torch.tensor(factor))


def test_int8_weights_take_one_byte_each(artifacts: dict[str, Artifact], networks: dict[str, nn.Module]) -> None:
    weights = sum(m.weight.numel() for m in networks["fp32"].modules() if isinstance(m, nn.Conv2d))
    saved = artifacts["fp32"].meta.size_bytes - artifacts["w8a8"].meta.size_bytes
    # Scales, padding and the longer graph cost something, a float copy of the weights would save nothing.
    assert 2 * weights <= saved <= 3 * weights


def test_the_artifact_says_float_planes_from_black_0_to_white_1(artifacts: dict[str, Artifact]) -> None:
    variant = artifacts["w8a8"].meta.io["model.pte"]
    assert (variant.input.dtype, variant.input.layout, variant.input.value_range) == ("float32", "NCHW", (0.0, 1.0))
    assert variant.input.shape == (1, 3, *TILE)
    assert variant.output.shape == (1, 3, 4 * TILE[0], 4 * TILE[1])
    assert "executorch" in artifacts["w8a8"].meta.tool_versions


def test_runners_with_different_threads_live_side_by_side(artifacts: dict[str, Artifact], lr: Image) -> None:
    one, two = (open_runner(artifacts["w8a8"], threads=threads) for threads in (1, 2))
    library = executorch_runner._Runtime.get()._library
    expected = one.run(lr)
    assert library._threadpool_get_thread_count() == 1
    assert np.array_equal(two.run(lr), expected)
    assert library._threadpool_get_thread_count() == 2
    assert np.array_equal(one.run(lr), expected)


def test_a_tile_of_another_size_is_refused_before_the_runtime_sees_it(artifacts: dict[str, Artifact]) -> None:
    with pytest.raises(ShapeError, match="expected a tile of 16 wide, 24 high, got 24 wide, 16 high"):
        ExecuTorchRunner(artifacts["fp32"]).run(np.zeros((16, 24, 3), dtype=np.uint8))


def test_a_program_of_another_tile_than_the_artifact_says_is_refused(
    artifacts: dict[str, Artifact], networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    program = artifacts["fp32"].main_path.read_bytes()
    meta = artifacts["fp32"].meta
    own = meta.io["model.pte"]
    wide = replace(
        own,
        input=replace(own.input, shape=(1, 3, 16, 24)),
        output=replace(own.output, shape=(1, 3, meta.scale * 16, meta.scale * 24)),
    )
    other = replace(artifacts["fp32"], meta=replace(meta, tile=(16, 24), io={"model.pte": wide}))
    with pytest.raises(RunnerError, match=r"to map \(1, 3, 16, 24\)"):
        ExecuTorchRunner(remade(other, tmp_path, program))


@pytest.mark.parametrize("content", [b"", b"\x00" * 5, b"not a program at all", b"TFL3" * 100], ids=len)
def test_what_is_no_program_is_refused_by_name_without_a_crash(
    artifacts: dict[str, Artifact], tmp_path: Path, content: bytes
) -> None:
    with pytest.raises(RunnerError, match="expected an ExecuTorch program in"):
        ExecuTorchRunner(remade(artifacts["fp32"], tmp_path, content))


def test_weights_that_give_infinities_are_an_error_not_a_picture(tmp_path: Path) -> None:
    class Overflowing(nn.Module):
        model_name, scale, tile_multiple, context = "overflowing", 2, 1, 0

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.pixel_shuffle(torch.cat([x, x, x, x], 1) * 3e38 * 10, 2)

    # Export runs what it wrote, so such a file is never handed out.
    with pytest.raises(ConversionError, match="to run, got: expected finite pixel values") as caught:
        export(Overflowing(), "fp32", tmp_path)
    assert isinstance(caught.value.__cause__, RunnerError)
    assert list(tmp_path.iterdir()) == []


class Leaky(nn.Module):
    """Nearest upsampling is not among XNNPACK's operators."""

    model_name, scale, tile_multiple, context = "leaky", 2, 1, 0

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(x * 0.5, scale_factor=2.0, mode="nearest")


def job(network: nn.Module, work_dir: Path, *, model: str, scheme: str = "fp32") -> LoweringJob:
    return LoweringJob(network=network, scheme=scheme, model=model, scale=2, tile=TILE, work_dir=work_dir)


def test_operators_outside_of_the_delegate_are_counted_by_name(tmp_path: Path) -> None:
    lowered = to_executorch.lower(job(Leaky(), tmp_path, model="leaky"))
    assert lowered.delegation.delegates == 1
    assert list(lowered.delegation.ops_outside.values()) == [1]
    assert "upsample_nearest2d" in next(iter(lowered.delegation.ops_outside))


def test_a_mobile_network_with_an_operator_outside_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="expected one XNNPACK delegate with nothing outside"):
        to_executorch.lower(job(Leaky(), tmp_path, model="idsa_net_mobile"))
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_exported_is_one_line(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(
        ConversionError, match="expected ExecuTorch to lower branching x2 fp32 at 16 wide, 24 high, got"
    ) as caught:
        to_executorch.lower(job(Branching(), tmp_path, model="branching"))
    assert "\n" not in str(caught.value)


def test_a_float_network_under_an_int8_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="expected a QuantizedNetwork for scheme w8a8, got Leaky"):
        to_executorch.lower(job(Leaky(), tmp_path, model="leaky", scheme="w8a8"))


@pytest.mark.parametrize(
    "use",
    [
        lambda path: to_executorch.lower(job(Leaky(), path, model="leaky")),
        lambda _: executorch_runner._Runtime(),
    ],
    ids=["lowering", "running"],
)
def test_a_missing_toolchain_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, use: Callable[[Path], object]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "executorch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(MissingToolError, match="pip install executorch"):
        use(tmp_path)


def test_lowering_leaves_logging_and_warnings_as_they_were() -> None:
    handlers, level, filters = list(logging.root.handlers), logging.root.level, list(warnings.filters)
    with toolchain_noise_off():
        logging.basicConfig(level=logging.DEBUG, force=True)
    assert (logging.root.handlers, logging.root.level, warnings.filters) == (handlers, level, filters)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["fp32", "w8a8"])
def test_the_full_mobile_network_lowers_whole_and_keeps_its_levels(tmp_path: Path, scheme: str) -> None:
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 4).eval()
    torch.nn.init.normal_(network.up.weight, std=0.02)
    deployed = network.deployed()
    fitted = deployed if scheme == "fp32" else quantized(deployed, scheme)
    artifact = export(fitted, scheme, tmp_path)
    assert (artifact.meta.delegation.delegates, artifact.meta.delegation.ops_outside) == (1, {})
    lr = np.random.default_rng(2).integers(0, 256, (*TILE, 3), dtype=np.uint8)
    apart = ExecuTorchRunner(artifact).run(lr).astype(int) - TorchRunner(fitted).run(lr)
    assert np.abs(apart).max() <= (0 if scheme == "fp32" else 2)
