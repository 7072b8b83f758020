"""Cost of layers: arithmetic on made-up times, the names, and a tiny network through both runtimes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PillowImage
from torch import nn

from apps.lint.graph import Graph, Op, Tensor
from apps.profiling import layers as layers_module
from apps.profiling.layer_names import op_label, same_operator
from apps.profiling.layer_results import OPERATOR_PROFILE, PREFIXES, LayerCost, LayerProfile
from apps.profiling.layers import operator_profile, prefix_profile, profile_layers
from apps.profiling.layers_view import dearest, layers_chart, print_layers
from apps.profiling.prefixes import Cut, TimedCuts, find_cuts
from converters.artifact import Artifact, load_artifact
from converters.export import export_artifact
from edge_sr.checkpoints import save_checkpoint, sha256_file
from edge_sr.errors import ArtifactError, CheckpointError, ConfigError
from edge_sr.networks import create_network
from fakes import fake_artifact
from quantization.calibration import calibrate
from quantization.quantizer import prepare
from quantization.taps import LayerTaps

TILE = (16, 24)


def layer(name: str, samples: list[float], *, kind: str = "CONV_2D", macs: int | None = 0) -> LayerCost:
    return LayerCost(name=name, kind=kind, kernel="", macs=macs, samples_ms=tuple(samples))


def made_up(layers: list[LayerCost], total: list[float]) -> LayerProfile:
    return LayerProfile(
        artifact_path=Path("some_artifact"),
        model="m",
        scheme="w8a8",
        target="tflite",
        tile=TILE,
        threads=2,
        method=OPERATOR_PROFILE,
        layers=tuple(layers),
        total_samples_ms=tuple(total),
        macs=6_000_000,
        notes=("limits",),
    )


@pytest.fixture
def profile() -> LayerProfile:
    """Medians 4, 1 and 3 ms of a whole of 10 ms."""
    return made_up(
        [
            layer("a", [3.0, 4.0, 8.0], macs=6_000_000),
            layer("b", [1.0, 1.0, 1.0], kind="ADD"),
            layer("c", [2.0, 3.0, 3.0], kind="ADD"),
        ],
        [9.0, 10.0, 14.0],
    )


# -------------------------------------------------------------------------------------------------------- arithmetic
def test_layers_and_residual_add_up_to_the_whole(profile: LayerProfile) -> None:
    assert [cost.median_ms for cost in profile.layers] == [4.0, 1.0, 3.0]
    assert (profile.total_ms, profile.residual_ms, profile.residual_percent) == (10.0, 2.0, 20.0)
    assert [profile.share_percent(cost) for cost in profile.layers] == [40.0, 10.0, 30.0]


def test_kinds_are_added_up_dearest_first(profile: LayerProfile) -> None:
    assert list(profile.by_kind().items()) == [("CONV_2D", (1, 4.0)), ("ADD", (2, 4.0))]


def test_rate_is_macs_over_median(profile: LayerProfile) -> None:
    # 6e6 in 4 ms are 1.5e9 a second.
    assert profile.layers[0].gmacs_per_second == pytest.approx(1.5)
    assert profile.layers[1].gmacs_per_second is None


def test_layer_whose_time_may_be_zero_has_no_rate() -> None:
    # Six samples: the 95% interval goes from the smallest to the largest.
    unsure = layer("a", [-0.1, 0.2, 0.2, 0.2, 0.2, 0.3], macs=1000)
    assert unsure.interval_ms == (-0.1, 0.3)
    assert unsure.gmacs_per_second is None
    assert layer("a", [0.1, 0.2, 0.2, 0.2, 0.2, 0.3], macs=1000).gmacs_per_second == pytest.approx(0.005)


def test_layer_without_runs_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one timed run"):
        layer("a", [])


def test_json_holds_raw_samples_and_what_follows_from_them(profile: LayerProfile) -> None:
    found = profile.to_json()
    assert found["method"] == OPERATOR_PROFILE
    assert found["total_samples_ms"] == [9.0, 10.0, 14.0]
    assert found["layers"][0] == {
        "name": "a",
        "kind": "CONV_2D",
        "kernel": "",
        "macs": 6_000_000,
        "median_ms": 4.0,
        "quartiles_ms": [3.5, 6.0],
        "interval_ms": None,
        "samples_ms": [3.0, 4.0, 8.0],
        "share_percent": 40.0,
        "gmacs_per_second": pytest.approx(1.5),
    }


# --------------------------------------------------------------------------------------------------- operator profile
def tensor(name: str, *shape: int, constant: bool = False) -> Tensor:
    return Tensor(name=name, dtype="float32", shape=shape, constant=constant)


def graph(*kinds: str) -> Graph:
    ops = tuple(
        Op(
            index=i,
            kind=kind,
            name=f"t{i}",
            inputs=(),
            outputs=(tensor(f"t{i}#9", 1, 2),),
            arithmetic="float32",
            macs=i,
        )
        for i, kind in enumerate(kinds)
    )
    return Graph(format="tflite", ops=ops, inputs=(), outputs=())


def measured(*names: str) -> dict[str, Any]:
    # The first operator takes 10 us, the next 20, ...
    op_us = [[10 * (number + 1)] * 2 for number in range(len(names))]
    return {"names": list(names), "op_us": op_us, "plain_ms": [0.1, 0.1], "invoke_us": [120, 120]}


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return load_artifact(fake_artifact(tmp_path))


def test_operators_of_the_file_get_the_times_of_the_runtimes(artifact: Artifact) -> None:
    names = ("Convolution (NHWC, QC8) IGEMM", "Fully Connected (NC, QS8, QC8W) GEMM", "Copy (NC, X8)")
    found = operator_profile(artifact, 1, measured(*names), graph("CONV_2D", "CONV_2D", "CONCATENATION"))
    assert [cost.kind for cost in found.layers] == ["CONV_2D", "CONV_2D", "CONCATENATION"]
    assert [cost.median_ms for cost in found.layers] == pytest.approx([0.01, 0.02, 0.03])
    assert [cost.macs for cost in found.layers] == [0, 1, 2]
    assert (found.total_ms, found.residual_ms) == pytest.approx((0.1, 0.04))
    assert any("with the profiler the whole takes 0.120 ms" in note for note in found.notes)


@pytest.mark.parametrize("kinds", [("CONV_2D", "ADD"), ("CONV_2D",), ("ADD", "CONV_2D", "MUL")])
def test_no_macs_are_assigned_where_the_runtime_ran_other_operators(artifact: Artifact, kinds: tuple[str, ...]) -> None:
    found = operator_profile(artifact, 1, measured("Add (ND)", "Convolution (NHWC, F32) IGEMM"), graph(*kinds))
    assert [cost.macs for cost in found.layers] == [None, None]
    assert [cost.kind for cost in found.layers] == ["Add (ND)", "Convolution (NHWC, F32) IGEMM"]
    assert any("cannot be assigned" in note for note in found.notes)


@pytest.mark.parametrize(
    ("kernel", "kind", "same"),
    [
        ("Convolution (NHWC, F32) DWConv", "DEPTHWISE_CONV_2D", True),
        ("Fully Connected (NC, F32) GEMM", "CONV_2D", True),
        ("Convert (NC)", "DEQUANTIZE", True),
        ("CUMSUM", "CUMSUM", True),
        ("Convolution (NHWC, F32) IGEMM", "ADD", False),
        ("Something New (NC)", "ADD", False),
    ],
)
def test_runtime_and_file_call_an_operator_by_their_own_names(kernel: str, kind: str, same: bool) -> None:
    assert same_operator(kernel, kind) is same


def test_label_of_a_convolution_names_its_module_and_shape() -> None:
    # As litert-torch 0.10.0 names a weight.
    name = "converters.to_tflite._Pictures/a.mobile.Deployed_network/a.mobile.Block_0/torch.nn.conv.Conv2d_refine;1#32"
    weight = tensor(name, 8, 3, 5, 4, constant=True)
    output = tensor("x/y.Z_other#40", 1, 2, 2, 8)
    op = Op(
        index=4,
        kind="CONV_2D",
        name="",
        inputs=(tensor("in#0", 1, 2, 2, 4), weight),
        outputs=(output,),
        arithmetic="float32",
        macs=1,
        taps=15,
    )
    assert op_label(op) == "#4 0.refine 3x5 4->8"


# ----------------------------------------------------------------------------------------------------------- prefixes
def test_prefixes_become_differences_of_medians_round_by_round(artifact: Artifact) -> None:
    cuts = tuple(Cut(name=name, kind="conv", macs=macs, outputs=("x",)) for name, macs in (("a", 2), ("b", 3)))
    timed = TimedCuts(
        cuts=cuts,
        # Two rounds of three runs; medians of the first cut 2 and 3, of the second 6 and 10.
        samples_ms=(((1.0, 2.0, 9.0), (3.0, 3.0, 3.0)), ((6.0, 5.0, 7.0), (10.0, 10.0, 11.0))),
        whole_ms=((8.0, 8.0, 8.0), (12.0, 11.0, 13.0)),
    )
    found = prefix_profile(artifact, 1, timed, macs=7)
    assert [cost.samples_ms for cost in found.layers] == [(2.0, 3.0), (4.0, 7.0)]
    # Whole 10; layers 2.5 and 5.5.
    assert (found.method, found.total_ms, found.residual_ms) == (PREFIXES, 10.0, 2.0)
    assert any("5 of the file's 7 MACs" in note for note in found.notes)


class Fork(nn.Module):
    """Two convolutions, whose sum a third one reads: what the first makes stays open behind the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 1)
        self.third = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.first(x))
        b = self.second(a)
        y: torch.Tensor = self.third(torch.sigmoid(b) * a)
        return y


@pytest.mark.parametrize("quantized", [False, True])
def test_cut_gives_out_every_value_that_the_rest_reads(quantized: bool) -> None:
    network: nn.Module = Fork().eval()
    if quantized:
        network = prepare(network, "w8a8")
        calibrate(network, [torch.rand(1, 3, *TILE)])
    taps = LayerTaps(network, torch.zeros(1, 3, *TILE))
    cuts = find_cuts(taps, network, TILE)
    assert [cut.name for cut in cuts] == ["first", "second", "third"]
    # Each pixel: 3*9*4, then 4*4, then 4*9*3.
    assert [cut.macs // (TILE[0] * TILE[1]) for cut in cuts] == [108, 16, 108]
    # Behind the second piece only the product is open, behind the first only its own value.
    assert [len(cut.outputs) for cut in cuts] == [1, 1, 1]
    assert cuts[-1].outputs == (taps.output,)
    assert "sigmoid" in cuts[1].kind
    assert [cut.name for cut in find_cuts(taps, network, TILE, max_cuts=2)] == ["first … second", "third"]


def test_value_read_behind_the_next_cut_stays_open() -> None:
    class Skip(Fork):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.first(x)
            y: torch.Tensor = self.third(self.second(a)) + x + self.third(a)
            return y

    network = Skip().eval()
    taps = LayerTaps(network, torch.zeros(1, 3, *TILE))
    # first -> second -> third -> third again: the first value is open until the last.
    assert [len(cut.outputs) for cut in find_cuts(taps, network, TILE)] == [1, 2, 2, 1]


# --------------------------------------------------------------------------------------------------------------- views
def test_table_shows_dearest_layers_others_and_rest(profile: LayerProfile, capsys: pytest.CaptureFixture[str]) -> None:
    print_layers(profile, limit=1)
    text = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert lines["a"] == ["a", "CONV_2D", "6.0", "M", "4.000", "–", "40.0%", "1.5"]
    assert lines["2"] == ["2", "others", "–", "4.000", "40.0%"]
    assert lines["outside"] == ["outside", "of", "layers", "2.000", "20.0%"]
    assert "2 threads" in text
    assert "limits" in text


def test_single_other_layer_is_shown_itself(profile: LayerProfile) -> None:
    assert [len(part) for part in dearest(profile, 2)] == [3, 0]
    assert [cost.name for cost in dearest(profile, 1)[0]] == ["a"]


def test_chart_is_a_png_even_with_negative_layers() -> None:
    found = made_up([layer(f"l{i}", [i - 1.0] * 6) for i in range(40)], [700.0])
    picture = PillowImage.open(io.BytesIO(layers_chart(found)))
    assert picture.format == "PNG"
    assert min(picture.size) > 400


# ---------------------------------------------------------------------------------------------------------- end to end
@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4).eval()
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, network, {})
    return path


def exported(checkpoint: Path, target: str, out_dir: Path) -> Path:
    from edge_sr.checkpoints import load_checkpoint

    network: Any = load_checkpoint(checkpoint).network
    return export_artifact(
        network=network.deployed(),
        scheme="fp32",
        target=target,
        tile=TILE,
        out_dir=out_dir,
        checkpoint_sha256=sha256_file(checkpoint),
    ).path


def test_tflite_artifact_is_profiled_operator_by_operator(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="needs litert-torch")
    path = exported(checkpoint, "tflite", tmp_path)
    found = profile_layers(path, runs=10, max_seconds=2.0)
    operators = layers_module.file_graph(load_artifact(path)).ops
    assert found.method == OPERATOR_PROFILE
    assert [cost.kind for cost in found.layers] == [op.kind for op in operators]
    assert sum(cost.macs or 0 for cost in found.layers) == found.macs > 0
    assert all(min(cost.samples_ms) >= 0 and len(cost.samples_ms) == 10 for cost in found.layers)
    assert found.total_ms > 0
    assert sum(cost.median_ms for cost in found.layers) > 0
    assert any("up" in cost.name for cost in found.layers)


def test_executorch_artifact_is_profiled_by_cuts(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("executorch", reason="needs executorch")
    # Three cuts instead of thirteen: each is lowered for seconds.
    monkeypatch.setattr("apps.profiling.prefixes.find_cuts", lambda *given: find_cuts(*given, max_cuts=3))
    path = exported(checkpoint, "executorch", tmp_path)
    found = profile_layers(path, checkpoint=checkpoint, runs=12, max_seconds=2.0)
    assert found.method == PREFIXES
    assert len(found.layers) == 3
    assert all(len(cost.samples_ms) >= 6 for cost in found.layers)
    assert sum(cost.macs or 0 for cost in found.layers) == found.macs > 0
    assert found.total_ms > 0
    assert found.layers[0].median_ms > 0
    with pytest.raises(CheckpointError):
        profile_layers(path, runs=1)


# --------------------------------------------------------------------------------------------------------------- errors
def test_targets_without_layers_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="on a Mac"):
        profile_layers(fake_artifact(tmp_path, "coreml"))


@pytest.mark.parametrize("setting", [{"threads": 0}, {"runs": 0}, {"max_seconds": 0.0}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        profile_layers(fake_artifact(tmp_path), **setting)


def test_missing_artifact_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        profile_layers(tmp_path / "none")
