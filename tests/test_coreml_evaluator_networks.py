"""Whole networks: this project's, operation by operation against eager PyTorch, and others that it did not design."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coreml_programs import Array
from torch import Tensor, fx, nn
from torch.nn import functional as F

from converters.coreml_evaluator import Evaluator
from converters.coreml_toolchain import import_coremltools, quiet_conversion
from converters.lowering import LoweringJob
from converters.mil_reader import MilPackage, Operation
from converters.to_coreml import PictureNetwork, lower
from edge_sr.networks import create_network
from quantization import calibrate, prepare
from quantization.qdq import to_qdq

pytestmark = pytest.mark.skipif(importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed")

SIDE = 16
SMALL: dict[str, dict[str, int]] = {
    "idsa_net_mobile": {"channels": 8, "distilled": 4, "blocks": 1},
    "idsa_net": {"channels": 16, "blocks": 1, "distilled": 8, "purified": 8},
}


# --------------------------------------------------------------------------------------------- teacher-forced, op by op
class Recorder(fx.Interpreter):
    """Runs an exported graph and keeps every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


def is_op(node: fx.Node, kind: str) -> bool:
    return f"quantized_decomposed.{kind}_per_tensor" in str(node.target)


class Alignment:
    """Which value of the eager graph each value of the program stands for, and the factor between the two.

    Float operations keep their node's name. quantize, dequantize and transpose are renamed and int8 may become uint8
    around 128, so they are found as readers of values already known; a reshape that was moved behind its quantize has
    that one's name. Around a sum coremltools 9.0 divides all scales by one of them
    ("distributive_quantized_binary_op_scale_normalization"), hence the factor.
    """

    def __init__(self, recorder: Recorder, package: MilPackage) -> None:
        self.values, self.package = recorder.values, package
        self.by_name = {node.name: node for node in recorder.values}
        self.node_of: dict[str, fx.Node] = {}
        self.factor_of: dict[str, float] = {}
        self.compared: dict[str, int] = {}
        self.largest_lsb = 0

    def find(self, operation: Operation) -> tuple[fx.Node | None, float]:
        """The eager node of an operation, and its values' factor."""
        sources = [names[0] for parameter, names in operation.inputs.items() if parameter in ("x", "input", "values")]
        factor = self.factor_of.get(sources[0], 1.0) if sources else 1.0
        if operation.kind in ("cast", "identity"):
            return self.node_of.get(sources[0]), factor
        node = self.node_of.get(sources[0])
        readers = node.users if node is not None else {}
        if operation.kind == "transpose":
            shape = operation.outputs[0][1].shape
            turned = (user for user in readers if "permute" in str(user.target) or "transpose" in str(user.target))
            return next((user for user in turned if tuple(self.values[user].shape) == shape), None), factor
        if operation.kind not in ("quantize", "dequantize"):
            name = operation.name.removesuffix("_cast_fp16").replace("quantize_", "quantize_per_tensor_")
            return self.by_name.get(name), factor
        scale = float(self.package.constant(operation, "scale"))
        for user in readers:
            if is_op(user, operation.kind):
                ratio = scale / float(user.args[1])  # type: ignore[arg-type]
                if operation.kind == "dequantize":
                    return user, 1.0 if abs(ratio - 1) < 2.0**-10 else ratio
                if abs(ratio / factor - 1) < 2.0**-9:  # a value may be rounded to several grids; scales are float16
                    return user, 1.0
        return None, 1.0

    def forced(self, name: str, value: Tensor) -> Tensor | None:
        node = self.node_of.get(name)
        eager = self.values[node] if node is not None else None
        if not isinstance(eager, Tensor) or eager.shape != value.shape:
            return None
        if value.dtype == torch.uint8:
            return (eager.int() + 128).to(torch.uint8)
        return (eager * self.factor_of[name]).float() if value.is_floating_point() else eager.to(value.dtype)

    def observe(self, operation: Operation, results: tuple[Tensor, ...]) -> None:
        node, factor = self.find(operation)
        if node is None or len(results) != 1 or not isinstance(self.values[node], Tensor):
            return
        (result,), eager = results, self.values[node]
        if result.shape != eager.shape:
            return
        self.node_of[operation.output], self.factor_of[operation.output] = node, factor
        self.compared[operation.kind] = self.compared.get(operation.kind, 0) + 1
        if not result.is_floating_point() or operation.kind == "floor":  # of the picture's levels
            offset = 128 if result.dtype == torch.uint8 else 0
            self.largest_lsb = max(self.largest_lsb, int((result.int() - offset - eager.int()).abs().max()))
            return
        magnitude = max(float((eager * factor).abs().max()), float(result.abs().max()), 1e-3)
        error = float((result - eager * factor).abs().max()) / magnitude
        # half a float16 unit each, of operands, weights and result, of the largest value; a convolution's terms cancel
        allowed = 2.0**-8 if operation.kind in ("conv", "matmul") else 2.0**-9
        assert error < allowed, (operation.kind, operation.name, error)


@pytest.mark.parametrize(
    ("model", "scheme"),
    [
        ("idsa_net_mobile", "w8a8"),
        ("idsa_net", "w8a8_mixed"),
        ("idsa_net", "fp16"),
        pytest.param("idsa_net", "w8a8", marks=pytest.mark.slow),
    ],
)
def test_every_operation_makes_of_eagers_values_what_eager_makes(tmp_path: Path, model: str, scheme: str) -> None:
    torch.manual_seed(0)
    deployed = create_network(model, 2, **SMALL[model]).eval().deployed()
    network: Any = deployed
    if scheme != "fp16":
        network = prepare(deployed, scheme)
        calibrate(network, [torch.rand(2, 3, SIDE, SIDE)])
    lower(LoweringJob(network=network, scheme=scheme, model=model, scale=2, tile=(SIDE, SIDE), work_dir=tmp_path))
    exportable = network if scheme == "fp16" else to_qdq(network, weights="int8", duplicate_dequantize=False)
    with quiet_conversion(), torch.no_grad():
        given = (torch.zeros(1, 3, SIDE, SIDE),)
        program = torch.export.export(PictureNetwork(exportable).eval(), given).run_decompositions({})
        recorder = Recorder(program.module())
        picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        recorder.run(image)
    aligned = Alignment(recorder, MilPackage(tmp_path / "model.mlpackage"))
    (source,) = (node for node in recorder.values if node.op == "placeholder")
    evaluator = Evaluator(tmp_path / "model.mlpackage")
    first = evaluator.operations[0].output  # the picture over 255
    aligned.node_of[first], aligned.factor_of[first] = source, 1.0
    evaluator.run(
        {"image": picture},
        observe=aligned.observe,
        replace=lambda operation, name, value: aligned.forced(name, value),
    )
    kinds = [operation.kind for operation in evaluator.operations]
    assert aligned.compared["conv"] == kinds.count("conv") > 4
    assert aligned.compared.get("quantize", 0) == kinds.count("quantize")
    # all but the picture over 255 and the clip, which has another name
    assert sum(aligned.compared.values()) >= len(kinds) - 2
    assert aligned.largest_lsb <= 1


# ------------------------------------------------------------------------------------------------- networks of others
class SqueezeExcite(nn.Module):
    """A block of MobileNetV3: expansion, depthwise convolution, squeeze and excite, hard swish."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 5, stride=2, padding=2, groups=16)
        self.squeeze, self.excite, self.classify = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(F.hardswish(self.norm(self.expand(x))))
        x = x * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return F.log_softmax(self.classify(F.max_pool2d(F.relu6(x), 3, 2, 1).mean((2, 3))), dim=-1)


class Transformer(nn.Module):
    """Patches, a class token, positions, one pre-norm encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 4, stride=4), nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16))
        self.first, self.second = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        query, key, value = self.qkv(self.first(x)).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return (x + self.down(F.gelu(self.up(self.second(x)))))[:, 0]


class UNet(nn.Module):
    """Down and up again, by transposed convolution and by interpolation, with the other normalisations and padding."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.group, self.instance = nn.GroupNorm(4, 16), nn.InstanceNorm2d(8, affine=True)
        self.up = nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1)
        self.leave, self.slope = nn.Conv2d(24, 3, 3, padding=2, dilation=2), nn.PReLU(8)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.slope(self.instance(self.enter(F.pad(x, (1, 1, 1, 1), mode="reflect"))))
        deep = F.elu(self.group(self.down(wide)))
        linear = F.interpolate(deep[:, :8], scale_factor=2, mode="bilinear", align_corners=False)
        nearest = F.interpolate(deep[:, 8:], scale_factor=2, mode="nearest") * torch.tanh(self.up(deep))
        return self.leave(torch.cat([wide, linear, F.softplus(nearest)], 1)).clamp(-1, 1)


class Sequence(nn.Module):
    """1-D convolutions, cumulative sums, sorting, gathering: what text and sound models are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.shrink = nn.Conv1d(3, 6, 3, padding=1, groups=3), nn.AvgPool1d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shrink(F.silu(self.convolution(x.flatten(2))))
        top, _ = x.topk(4, dim=-1)
        gap = torch.where(x > x.mean(-1, keepdim=True), (x * x + 0.1).sqrt(), (x.abs() + 0.5).rsqrt())
        return torch.cat([top, x.cumsum(-1)[..., ::7], gap.amax(-1, keepdim=True), x.std(-1, keepdim=True)], -1)


def save(model: Any, folder: Path) -> Path:
    path = folder / "model.mlpackage"
    with quiet_conversion():
        model.save(str(path))
    return path


def convert(module: nn.Module, example: Tensor, *, half: bool, target: str = "iOS17") -> Any:
    coremltools = import_coremltools()
    with quiet_conversion(), torch.no_grad():
        return coremltools.convert(
            torch.export.export(module.eval(), (example,)).run_decompositions({}),
            convert_to="mlprogram",
            inputs=[coremltools.TensorType(name="x", shape=example.shape)],
            outputs=[coremltools.TensorType(name="y", dtype=np.float32)],
            minimum_deployment_target=getattr(coremltools.target, target),
            compute_precision=coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32,
            skip_model_load=True,
        )


def example_of(kind: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    module = kind().eval()
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean, each.running_var = torch.randn(16) / 4, torch.rand(16) + 0.5
    return module, torch.rand(2, 3, SIDE, SIDE)


@pytest.mark.parametrize(("half", "target"), [(False, "iOS18"), (True, "iOS15")])
@pytest.mark.parametrize("kind", [SqueezeExcite, Transformer, UNet, Sequence])
def test_networks_of_other_kinds_compute_what_torch_computes(
    tmp_path: Path, kind: type[nn.Module], half: bool, target: str
) -> None:
    module, x = example_of(kind)
    evaluator = Evaluator(save(convert(module, x, half=half, target=target), tmp_path))
    with torch.no_grad():
        expected = module(x)
    got = evaluator.run({"x": x})["y"]
    assert isinstance(got, Tensor)
    scale = float(expected.abs().max())
    # float32: other orders of summation; float16: some tens of roundings of 2**-11 each
    assert float((got - expected).abs().max()) < scale * (2.0**-6 if half else 1e-5)


@pytest.mark.parametrize("how", ["linear", "blockwise 4 bits", "palette", "pruned"])
def test_compressed_weights_are_what_coremltools_decompresses_them_to(tmp_path: Path, how: str) -> None:
    import_coremltools()
    import coremltools.optimize.coreml as cto

    module, x = example_of(UNet)
    model = convert(module, x, half=False, target="iOS18")
    small = {"weight_threshold": 64}
    with quiet_conversion():
        match how:
            case "linear":
                config: Any = cto.OpLinearQuantizerConfig(mode="linear_symmetric", **small)
                compressed = cto.linear_quantize_weights(model, cto.OptimizationConfig(config))
            case "blockwise 4 bits":
                config = cto.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=4, **small)
                compressed = cto.linear_quantize_weights(model, cto.OptimizationConfig(config))
            case "palette":
                config = cto.OpPalettizerConfig(nbits=4, mode="uniform", **small)
                compressed = cto.palettize_weights(model, cto.OptimizationConfig(config))
            case _:
                config = cto.OpMagnitudePrunerConfig(target_sparsity=0.5, **small)
                compressed = cto.prune_weights(model, cto.OptimizationConfig(config))
        dense = cto.decompress_weights(compressed)
    (tmp_path / "compressed").mkdir()
    (tmp_path / "dense").mkdir()
    paths = save(compressed, tmp_path / "compressed"), save(dense, tmp_path / "dense")
    outputs: list[Array] = [np.asarray(Evaluator(path).run({"x": x})["y"]) for path in paths]
    kinds = {operation.type for operation in _operations(compressed)}
    assert any(kind.startswith("constexpr_") for kind in kinds)
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    assert np.abs(outputs[0] - module(x).detach().numpy()).max() > 1e-4  # it is compressed


def _operations(model: Any) -> Any:
    function = model.get_spec().mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations
