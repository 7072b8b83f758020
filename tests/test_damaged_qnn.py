"""Damaged files of target qnn under right hashes: an ONNX file and compiled ones, as no digest helps with the latter.

Whatever happens, this process lives, and what comes back is one line of error or the undamaged file's very picture: the
emulator is whole-number arithmetic, so that one level more is another file.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import ReusedRunner, damages, limited_child, one_line
from numpy.typing import NDArray
from test_qnn import photo_tile

from converters.artifact import Artifact, fingerprint, load_artifact, with_main_file, write_artifact
from converters.export import export_artifact
from converters.isolation import Child
from converters.lowering import LoweringJob
from converters.qnn import lower as qnn_lower
from converters.qnn.toolchain import emulator_environment
from converters.self_test import check_self_test, open_checked_runner
from edge_sr.errors import EdgeSRError, RunnerError
from edge_sr.networks import create_network
from quantization.calibration import calibrate
from quantization.fake_quant import Mode
from quantization.quantizer import QuantizedNetwork, prepare

Image = NDArray[np.uint8]
TILE = (16, 16)
RUNTIME = "hexagon_v73"
COMPILED = {"w8a8": "model_SM8750.tflite", "w8a16": "model_SM8750.onnx"}


def network(scheme: str, seed: int) -> QuantizedNetwork:
    """Small, untrained, and with weights that show in its pictures."""
    torch.manual_seed(seed)
    small = create_network("idsa_net_mobile", 2, channels=8, blocks=1, distilled=4).eval()
    torch.nn.init.normal_(small.up.weight, std=0.15)
    quantized = prepare(small.deployed(), scheme)
    generator = torch.Generator().manual_seed(1)
    calibrate(quantized, [torch.rand((2, 3, *TILE), generator=generator), torch.ones(1, 3, *TILE)])
    quantized.set_mode(Mode.QUANTIZE)
    return quantized


class Bench:
    """An artifact, files of the same network with other weights, and children to open damaged copies in."""

    def __init__(self, scheme: str, folder: Path) -> None:
        self.scheme, self.folder = scheme, folder
        self.sound = export_artifact(
            network=network(scheme, 0),
            scheme=scheme,
            target="qnn",
            tile=TILE,
            out_dir=folder / "sound",
            checkpoint_sha256="ab" * 32,
        )
        self.brother = folder / "brother"
        self.brother.mkdir()
        other = network(scheme, 1)
        job = {"network": other, "scheme": scheme, "model": "idsa_net_mobile", "scale": 2, "tile": TILE}
        qnn_lower.lower(LoweringJob(**job, work_dir=self.brother))  # type: ignore[arg-type]
        self.crashes = 0
        self._child: Child | None = None
        self._count = 0

    def content(self, file: str) -> bytes:
        return (self.sound.path / file).read_bytes()

    def damages(self, file: str, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
        return damages(self.content(file), (self.brother / file).read_bytes(), seed, count)

    def remade(self, file: str, content: bytes, *, digest: bool) -> Artifact:
        """A copy with other bytes in one file, which is the main one then, and hashes that are right again."""
        self._count += 1
        source, path = self.folder / f"source{self._count}", self.folder / f"damaged{self._count}"
        source.mkdir()
        for name in self.sound.meta.files:
            (source / name).write_bytes(content if name == file else self.content(name))
        meta = replace(self.sound.meta, files=fingerprint(source, self.sound.meta.files))
        meta = meta if digest else replace(meta, canonical_sha256=None)
        try:
            artifact = write_artifact(path, meta=meta, source=source)
        finally:
            shutil.rmtree(source)
        return with_main_file(artifact, file)

    def outcome(self, artifact: Artifact, lr: Image) -> Image | EdgeSRError:
        """The picture that comes back from an artifact, or the error in its place."""
        try:
            runner = ReusedRunner(artifact, self.child(), RUNTIME)
            check_self_test(runner, artifact)
            return runner.run(lr)
        except EdgeSRError as error:
            return error

    def child(self) -> Child:
        """The last child, as long as it lives: starting one takes seconds."""
        if self._child is None or not self._child.alive:
            self.crashes += self._child is not None
            self.close()
            self._child = limited_child("hexagon", environment=emulator_environment())
        return self._child

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


@pytest.fixture(scope="module", params=list(COMPILED))
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    for package in ("onnx", "onnxscript", "onnxruntime_qnn", "litert_torch"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    made = Bench(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.close()


# Kinds of damage, twice as many cases: 9 and 2 * 40 for each of four files.
KINDS = 40


@pytest.mark.slow
@pytest.mark.parametrize("which", ["onnx", "compiled"])
def test_no_damaged_file_gives_another_picture_or_ends_this_process(bench: Bench, which: str) -> None:
    file = "model.onnx" if which == "onnx" else COMPILED[bench.scheme]
    tile = photo_tile(*TILE)
    truth = bench.outcome(with_main_file(bench.sound, file), tile)
    assert isinstance(truth, np.ndarray), str(truth)
    assert truth.std() > 20, "a flat picture would prove nothing"
    copied = bench.remade(file, bench.content(file), digest=False)
    assert np.array_equal(bench.outcome(copied, tile), truth), "a copy is refused for its damage alone"
    outcomes: Counter[str] = Counter()
    wrong = []
    for name, damaged in bench.damages(file, 7, KINDS):
        artifact = bench.remade(file, damaged, digest=False)
        outcome = bench.outcome(artifact, tile)
        shutil.rmtree(artifact.path)
        if isinstance(outcome, EdgeSRError):
            outcomes["refused"] += 1
            assert one_line(outcome), (name, str(outcome))
        elif np.array_equal(outcome, truth):
            outcomes["harmless"] += 1
        else:
            off = np.abs(outcome.astype(int) - truth)
            wrong.append(f"{name}: {np.mean(off > 0):.2%} of values off by at most {off.max()}")
    assert wrong == [], outcomes
    assert outcomes.total() >= 80
    assert outcomes["refused"] > outcomes["harmless"], outcomes


@pytest.mark.slow
def test_the_digest_refuses_an_onnx_file_that_computes_something_else_before_it_is_opened(bench: Bench) -> None:
    outcomes: Counter[str] = Counter()
    tile = photo_tile(*TILE)
    truth = bench.outcome(bench.sound, tile)
    for name, damaged in bench.damages("model.onnx", 8, KINDS):
        try:
            artifact = bench.remade("model.onnx", damaged, digest=True)
        except EdgeSRError as error:
            outcomes["refused"] += one_line(error)
            continue
        outcomes["let through"] += 1
        np.testing.assert_array_equal(bench.outcome(artifact, tile), truth, err_msg=name)  # type: ignore[arg-type]
    assert outcomes["refused"] > 5 * outcomes["let through"], outcomes


@pytest.mark.slow
def test_another_networks_compiled_file_is_refused_by_a_fresh_runner(bench: Bench) -> None:
    file = COMPILED[bench.scheme]
    artifact = bench.remade(file, (bench.brother / file).read_bytes(), digest=True)
    with pytest.raises(RunnerError, match=r"differs by .* levels") as caught:
        open_checked_runner(load_artifact(artifact.path))  # it takes the compiled file by itself
    assert one_line(caught.value)


@pytest.mark.slow
def test_the_sound_artifact_passes_exactly(bench: Bench) -> None:
    runner = open_checked_runner(bench.sound)
    result = check_self_test(runner, bench.sound)
    runner.close()  # type: ignore[attr-defined]
    assert (result.max_levels, result.mean_levels) == (0, 0.0)
