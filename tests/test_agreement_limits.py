"""How near a runtime has to come to the network: by decibels, and in levels where it rounds in its own way."""

from __future__ import annotations

import numpy as np
import pytest

from apps.verification.agreement import FAKE_QUANT, QDQ, AgreementMatrix, Participant, compare_results
from apps.verification.agreement_limits import limits_of, rounds_its_own_way
from apps.verification.full_checks import agreement_checks
from apps.verification.gate import GateCheck
from converters.runners import RUNTIMES


def judged(
    runtime: str, off: np.ndarray, *, scheme: str = "w8a8", psnr_off_db: float = 0.0, qdq_off: np.ndarray | None = None
) -> GateCheck:
    """The check of a runtime whose 100 channel values differ by ``off`` from the network's.

    ``qdq_off``: by how much those of the quantize/dequantize graph in PyTorch do.
    """
    network = np.full((10, 10, 1), 100, np.uint8)
    own = (network + off.reshape(network.shape)).astype(np.uint8)
    qdq = (network + (0 if qdq_off is None else qdq_off.reshape(network.shape))).astype(np.uint8)
    matrix = AgreementMatrix(
        model="net",
        scale=2,
        scheme=scheme,
        tile=(5, 5),
        checkpoint_sha256="0" * 64,
        tiles=(),
        participants=(
            Participant(name=FAKE_QUANT, runtime="torch", psnr_y_db=30.0),
            Participant(name="NPU", runtime=runtime, artifact_name="a", psnr_y_db=30.0 + psnr_off_db),
        ),
        pairs=(
            compare_results([network], [qdq], (FAKE_QUANT, QDQ)),
            compare_results([network], [own], (FAKE_QUANT, "NPU")),
        ),
    )
    (check,) = agreement_checks([matrix])
    return check


def levels(**counts: int) -> np.ndarray:
    """100 differences: ``one=5`` makes five of them 1."""
    sizes = {"one": 1, "two": 2, "five": 5, "eleven": 11}
    flat = [sizes[name] for name, count in counts.items() for _ in range(count)]
    return np.array(flat + [0] * (100 - len(flat)))


def test_hexagon_may_round_45_of_100_otherwise_and_5_by_more_than_a_level() -> None:
    assert judged("hexagon_v73", levels(one=40, two=5)).status == "passed"
    assert judged("hexagon_v68", levels(one=40, five=5)).status == "passed"


@pytest.mark.parametrize(
    ("off", "words"),
    [
        (levels(one=46), "55% of the values equal (got 54.0%)"),
        (levels(two=6), "95% within 1 level (got 94.0%)"),
        (levels(eleven=1), "at most 10 levels"),
    ],
)
def test_what_hexagon_breaks_is_named(off: np.ndarray, words: str) -> None:
    check = judged("hexagon_v73", off)
    assert check.status == "failed"
    assert words in check.message
    assert "\n" not in check.message


def test_the_reference_model_of_tosa_has_the_tighter_limits() -> None:
    assert judged("tosa_reference", levels(one=3)).status == "passed"
    assert "97% of the values equal" in judged("tosa_reference", levels(one=4)).message
    assert "at most 4 levels" in judged("tosa_reference", levels(five=1)).message


def test_half_floats_and_16_bits_may_be_two_levels_off() -> None:
    for scheme in ("fp16", "w8a16"):
        assert judged("hexagon_v73", levels(two=100), scheme=scheme).status == "passed"
        assert "at most 2 levels" in judged("hexagon_v73", levels(five=1), scheme=scheme).message


def test_others_are_judged_by_decibels_alone() -> None:
    assert judged("tflite", levels(eleven=50)).status == "passed"
    assert "a PSNR within 0.01" in judged("tflite", levels(), psnr_off_db=0.02).message
    assert judged("hexagon_v73", levels(), psnr_off_db=0.02).status == "passed"
    assert judged("hexagon_v73", levels(), psnr_off_db=0.06).status == "failed"


def test_every_runtime_that_rounds_its_own_way_has_limits_in_levels() -> None:
    own = [name for name in RUNTIMES if rounds_its_own_way(name)]
    assert own
    assert all(limits_of(name, "w8a8").max_levels is not None for name in own)


def test_a_network_that_magnifies_roundings_is_judged_by_what_pytorch_makes_of_them() -> None:
    magnified = levels(one=50, eleven=10)  # 1.6 levels in the mean
    assert judged("tosa_reference", levels(one=20, eleven=20), qdq_off=magnified).status == "passed"  # 2.4
    check = judged("tosa_reference", levels(one=21, eleven=20), qdq_off=magnified)
    assert check.status == "failed"
    assert "a mean difference of at most 2.40 levels, 1.5 times PyTorch's own (got 2.41)" in check.message
    # what PyTorch keeps is asked of the runtime in full
    assert judged("hexagon_v73", levels(one=46), qdq_off=levels(one=45)).status == "failed"
    assert judged("hexagon_v73", levels(one=46), qdq_off=magnified, psnr_off_db=0.06).status == "failed"
