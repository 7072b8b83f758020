"""XNNPACK's forecast, held against what LiteRT's interpreter really delegates.

Every line of the table is asked of the interpreter with a model of one operator; partitions are compared on graphs that
chance put together, and on real networks.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_tflite import TinyModel
from torch import nn
from xnnpack_cases import SHAPE, all_cases

from apps.lint.engine import OFF, Forecast, forecast
from apps.lint.reader import read_operators
from apps.lint.xnnpack import BREAKS, TABLE, XNNPACK
from converters.export import export_artifact
from converters.inspect_tflite import delegation_of
from edge_sr.errors import ConversionError
from edge_sr.networks import create_network
from edge_sr.quiet import quiet_native
from quantization.calibration import calibrate
from quantization.fake_quant import Mode
from quantization.quantizer import prepare

pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")


# -------------------------------------------------------------------------------------------- one operator at a time
CASES = all_cases()


def forecast_of(path: Path) -> Forecast:
    return forecast(read_operators(path, "tflite"), XNNPACK, path=path, scheme="")


def asked(path: Path) -> str:
    """What the interpreter does with a model of one operator: ``taken``, ``left`` or ``refused``."""
    try:
        delegation = delegation_of(path)
    except ConversionError as error:
        # Only a delegate that fails counts; a model that no kernel takes would be a mistake of the test.
        return "refused" if "failed to delegate" in str(error) else f"not a model: {error}"
    return "left" if delegation.ops_outside else "taken"


@pytest.mark.parametrize("case", CASES)
def test_forecast_of_one_operator_is_what_the_interpreter_does(case: str, tmp_path: Path) -> None:
    model = TinyModel()
    path = model.write(tmp_path / "model.tflite", *CASES[case](model))
    row = forecast_of(path)
    refused = any(finding.rule == BREAKS for finding in row.findings)
    said = "refused" if refused else ("left" if row.count(OFF) else "taken")
    assert said == asked(path)


def test_cases_ask_about_every_line_of_the_table() -> None:
    # A line that nothing asks about would be a guess. The last two take part in the converted network below.
    assert set(TABLE) - {case.split()[0] for case in CASES} == {"TRANSPOSE_CONV", "FULLY_CONNECTED"}


# ------------------------------------------------------------------------------------------------- whole graphs
def random_graph(seed: int, path: Path) -> Path:
    """A graph of 12 operators; each reads tensors that chance picks. SIGN and float LOG_SOFTMAX are never delegated."""
    generator = np.random.default_rng(seed)
    model = TinyModel()
    start = model.tensor(SHAPE)
    tensors = [start]
    for _ in range(12):
        kind = str(generator.choice(["ABS", "LOGISTIC", "ADD", "SIGN", "LOG_SOFTMAX", "MUL"]))
        two = kind in ("ADD", "MUL")
        inputs = [int(index) for index in generator.choice(tensors[-5:], 2 if two else 1)]
        result = model.tensor(SHAPE)
        model.op(kind, inputs, [result], {"ADD": "Add", "MUL": "Mul"}.get(kind))
        tensors.append(result)
    read = {index for operator in model.graph.operators for index in operator.inputs}
    loose = [index for index in tensors[1:] if index not in read]
    return model.write(path, [start], loose)


@pytest.mark.parametrize("seed", range(24))
def test_partitions_of_random_graphs_are_the_interpreters(seed: int, tmp_path: Path) -> None:
    path = random_graph(seed, tmp_path / "model.tflite")
    row, real = forecast_of(path), delegation_of(path)
    assert row.partitions == real.delegates
    assert Counter(op.kind for op in row.ops if op.state == OFF) == Counter(real.ops_outside)


def int8_attention(path: Path) -> Path:
    """Int8 attention, spelled as a post-training quantizer spells it: five kinds that XNNPACK leaves in int8."""
    model = TinyModel()
    words = [model.tensor((2, 8, 8), "int8") for _ in range(2)]
    scores = model.tensor((2, 8, 8), "int8")
    model.op("BATCH_MATMUL", [words[0], words[1]], [scores], "BatchMatMul", version=2)
    shares = model.tensor((2, 8, 8), "int8", scale=1 / 256, zero_point=-128)
    model.op("SOFTMAX", [scores], [shares], "Softmax", version=2, beta=1.0)
    # The second operand of this product has a zero point: not taken.
    mixed = model.tensor((2, 8, 8), "int8")
    model.op("BATCH_MATMUL", [words[0], shares], [mixed], "BatchMatMul", version=2)
    bent = model.tensor((2, 8, 8), "int8")
    model.op("GELU", [mixed], [bent], "Gelu", version=2)
    summed = model.tensor((2, 8, 8), "int8")
    model.op("ADD", [bent, words[1]], [summed], "Add", version=2)
    root = model.tensor((2, 8, 8), "int8")
    model.op("RSQRT", [summed], [root], version=2)
    last = model.tensor((2, 8, 8), "int8")
    model.op("MUL", [root, summed], [last], "Mul", version=2)
    return model.write(path, words, [last])


def test_int8_attention_falls_apart_as_forecast(tmp_path: Path) -> None:
    path = int8_attention(tmp_path / "attention.tflite")
    row, real = forecast_of(path), delegation_of(path)
    outside = {"SOFTMAX": 1, "BATCH_MATMUL": 1, "GELU": 1, "RSQRT": 1}
    assert real.ops_outside == outside
    assert Counter(op.kind for op in row.ops if op.state == OFF) == outside
    assert row.partitions == real.delegates == 3
    # 2 * 8 * 8 * 8 multiply-accumulates in either product, one of which stays in XNNPACK.
    assert row.macs == 2 * 1024
    assert row.macs_share == 0.5


class Attention(nn.Module):
    """A float network with what a mobile one leaves out: softmax, gelu, means, a norm, dense layers, prelu."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.bend = nn.PReLU(8)
        self.dense = nn.Linear(8, 8)
        self.up = nn.ConvTranspose2d(8, 3, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bend(self.wide(self.head(x)))
        words = y.flatten(2).transpose(1, 2)
        shares = torch.softmax(words @ words.transpose(1, 2) * 0.1, dim=-1)
        words = nn.functional.gelu(self.dense(shares @ words))
        words = (words - words.mean(-1, keepdim=True)) * torch.rsqrt(words.var(-1, keepdim=True) + 1e-5)
        return self.up(words.transpose(1, 2).reshape(y.shape) + y)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    litert_torch = pytest.importorskip("litert_torch", reason="litert-torch is not installed")
    path = tmp_path_factory.mktemp("attention") / "attention.tflite"
    torch.manual_seed(0)
    with quiet_native():
        litert_torch.convert(Attention().eval(), (torch.zeros(1, 3, 8, 8),)).export(str(path))
    return path


def test_converted_attention_network_is_delegated_as_forecast(converted: Path) -> None:
    row, real = forecast_of(converted), delegation_of(converted)
    assert Counter(op.kind for op in row.ops if op.state == OFF) == Counter(real.ops_outside)
    assert row.partitions == real.delegates
    assert {"TRANSPOSE_CONV", "FULLY_CONNECTED"} <= {op.kind for op in row.ops}
    assert any(finding.rule.id == "xnnpack-depthwise-taps" and finding.detail == "49 taps" for finding in row.findings)


def test_exported_mixed_network_is_delegated_as_forecast(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="litert-torch is not installed")
    torch.manual_seed(0)
    deployed = create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4).eval().deployed()
    network = prepare(deployed, "w8a8_mixed")
    calibrate(network, [torch.rand(2, 3, 16, 24)])
    network.set_mode(Mode.QUANTIZE)
    artifact = export_artifact(
        network=network,
        scheme="w8a8_mixed",
        target="tflite",
        tile=(16, 24),
        out_dir=tmp_path,
        checkpoint_sha256="ab" * 32,
    )
    row = forecast_of(artifact.path / artifact.meta.main_file)
    assert row.partitions == artifact.meta.delegation.delegates
    assert Counter(op.kind for op in row.ops if op.state == OFF) == Counter(artifact.meta.delegation.ops_outside)
    assert any(finding.rule.id == "float-island" for finding in row.findings)
