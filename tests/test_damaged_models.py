"""Damaged models under right hashes: the digest of what they compute stands before a picture, and the self-test alone
where there is none, as in artifacts of earlier releases.

Whatever happens, this process lives, and what comes back is the true picture (to within rounding) or one line of error.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import ReusedRunner, damages, limited_child, one_line, resize, rewrite
from numpy.typing import NDArray
from torch import nn

from converters.artifact import Artifact, fingerprint, load_artifact, write_artifact
from converters.export import export_artifact
from converters.isolation import Child, IsolatedRunner
from converters.runners import RUNTIMES, runtimes_of
from converters.self_test import check_self_test, open_checked_runner
from edge_sr.errors import EdgeSRError, RunnerError
from edge_sr.networks import create_network
from quantization.calibration import calibrate
from quantization.fake_quant import Mode
from quantization.quantizer import prepare

Image = NDArray[np.uint8]
TILE = (16, 16)
SCHEMES = {"tflite": "w8a8", "executorch": "fp32", "coreml": "fp16", "vgf": "w8a8"}
PACKAGES = {
    "tflite": ("litert_torch", "ai_edge_litert"),
    "executorch": ("executorch",),
    "coreml": ("coremltools",),
    "vgf": ("executorch", "model_converter", "tosa_reference_model"),
}
TARGETS = tuple(SCHEMES)


def network(scheme: str, seed: int) -> nn.Module:
    """Small, untrained, and with weights that show in its pictures."""
    torch.manual_seed(seed)
    small = create_network("idsa_net_mobile", 2, channels=8, blocks=1, distilled=4).eval()
    torch.nn.init.normal_(small.up.weight, std=0.15)
    deployed = small.deployed()
    if scheme != "w8a8":
        return deployed
    quantized = prepare(deployed, scheme)
    generator = torch.Generator().manual_seed(1)
    calibrate(quantized, [torch.rand((2, 3, *TILE), generator=generator), torch.ones(1, 3, *TILE)])
    quantized.set_mode(Mode.QUANTIZE)
    return quantized


class Bench:
    """Artifacts of one target, and one child process after another to open their damaged copies in."""

    def __init__(self, target: str, folder: Path) -> None:
        for package in PACKAGES[target]:
            pytest.importorskip(package, reason=f"{package} is not installed")
        self.target, self.folder = target, folder
        self.runtime = [name for name in runtimes_of(target) if not RUNTIMES[name].thorough][-1]
        self.sound, self.brother = (self._export(seed, folder / f"seed{seed}") for seed in (0, 1))
        self._child: Child | None = None
        self._count = 0

    def _export(self, seed: int, out_dir: Path) -> Artifact:
        scheme = SCHEMES[self.target]
        return export_artifact(
            network=network(scheme, seed),
            scheme=scheme,
            target=self.target,
            tile=TILE,
            out_dir=out_dir,
            checkpoint_sha256="ab" * 32,
        )

    def main_files(self) -> list[str]:
        """Files that the runtime reads, without those that only describe."""
        main = self.sound.meta.main_file
        return [name for name in self.sound.meta.files if name == main or name.startswith(f"{main}/Data/com.apple")]

    def content(self, file: str) -> bytes:
        return (self.sound.path / file).read_bytes()

    def remade(self, file: str, content: bytes, *, digest: bool = False) -> Artifact:
        """A copy with other bytes in one file and hashes that are right again; the self-test stays as it was.

        Args:
            digest: keep that of what it computes, and be refused before anything is written.
        """
        self._count += 1
        source, path = self.folder / f"source{self._count}", self.folder / f"damaged{self._count}"
        for name in self.sound.meta.files:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content if name == file else self.content(name))
        meta = replace(self.sound.meta, files=fingerprint(source, self.sound.meta.files))
        meta = meta if digest else replace(meta, canonical_sha256=None)
        artifact = write_artifact(path, meta=meta, source=source)
        shutil.rmtree(source)
        return artifact

    def open(self, artifact: Artifact) -> IsolatedRunner:
        """An isolated runner in the child of the last one."""
        return ReusedRunner(artifact, self.child(), self.runtime)

    def child(self) -> Child:
        """The last child, as long as it lives: starting one takes seconds."""
        if self._child is None or not self._child.alive:
            self.close()
            self._child = limited_child(self.target)
        return self._child

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


@pytest.fixture(scope="module", params=TARGETS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.close()


def photo_tile() -> Image:
    """Part of a photo: what the self-test's tile is not."""
    from edge_sr.datasets import load_image_sets

    (samples,) = load_image_sets(None, None, 2)
    lr = next(iter(samples)).lr
    return np.ascontiguousarray(lr[60 : 60 + TILE[0], 60 : 60 + TILE[1]])


# What damage may do to another picture when it did nothing beyond rounding to the self-test's tile. Measured over 400
# cases: 0.29 levels at most.
UNNOTICED_MEAN_LEVELS = 1.0
# Kinds of damage per file. An ExecuTorch program can abort its process, and each new one takes seconds to start.
KINDS = {"tflite": 50, "executorch": 26, "coreml": 35, "vgf": 35}


@pytest.mark.slow
def test_no_damaged_model_gives_a_wrong_picture_or_ends_this_process(bench: Bench) -> None:
    tile = photo_tile()
    with open_checked_runner(bench.sound, isolated=True, runtime=bench.runtime) as runner:  # type: ignore[attr-defined]
        truth = runner.run(tile).astype(np.int16)
    assert truth.std() > 20, "a flat picture would prove nothing"
    outcomes: Counter[str] = Counter()
    for file in bench.main_files():
        content = bench.content(file)
        for name, damaged in damages(content, (bench.brother.path / file).read_bytes(), 7, KINDS[bench.target]):
            assert damaged != content, name
            artifact = bench.remade(file, damaged)
            outcome = outcome_of(bench, artifact, tile)
            shutil.rmtree(artifact.path)
            if isinstance(outcome, EdgeSRError):
                outcomes["refused"] += 1
                assert one_line(outcome), (name, str(outcome))
            else:
                outcomes["harmless"] += 1
                off = np.abs(outcome - truth).mean()
                assert off <= UNNOTICED_MEAN_LEVELS, f"{file}: {name} went unnoticed and costs {off:.2f} levels"
    # Flipped bits of names and of low mantissas do nothing; were all of it refused, something else would be wrong. But
    # a VGF is compared byte for byte with what its TOSA compiles to.
    assert outcomes["refused"] >= 2 * outcomes["harmless"], outcomes
    assert outcomes["harmless"] > 0 or bench.target == "vgf"


@pytest.mark.slow
def test_what_a_digest_lets_through_gives_the_same_picture_to_the_bit(bench: Bench) -> None:
    tile = photo_tile()
    truth = bench.open(bench.sound).run(tile)
    outcomes: Counter[str] = Counter()
    for file in bench.main_files():
        content = bench.content(file)
        for name, damaged in damages(content, (bench.brother.path / file).read_bytes(), 8, KINDS[bench.target]):
            try:
                artifact = bench.remade(file, damaged, digest=True)
            except EdgeSRError as error:
                outcomes["refused"] += one_line(error)
                continue
            outcomes["let through"] += 1
            np.testing.assert_array_equal(bench.open(artifact).run(tile), truth, err_msg=f"{file}: {name}")
    assert outcomes["refused"] > 5 * outcomes["let through"], outcomes


def outcome_of(bench: Bench, artifact: Artifact, lr: Image) -> Image | EdgeSRError:
    """The picture that comes back from an artifact, or the error in its place."""
    try:
        runner = bench.open(artifact)
        check_self_test(runner, artifact)
        return runner.run(lr)
    except EdgeSRError as error:
        return error


@pytest.mark.slow
def test_the_sound_artifact_passes_its_own_self_test_exactly(bench: Bench) -> None:
    with open_checked_runner(bench.sound, isolated=True, runtime=bench.runtime) as runner:  # type: ignore[attr-defined]
        result = check_self_test(runner, bench.sound)
    assert (result.max_levels, result.mean_levels) == (0, 0.0), "the same machine, the same runtime"
    assert result.recorded_by == result.runtime
    assert len(json.dumps(bench.sound.meta.to_json())) < 20_000


@pytest.mark.slow
def test_a_swapped_model_is_refused_by_a_fresh_isolated_runner(bench: Bench) -> None:
    file = bench.main_files()[-1]
    artifact = bench.remade(file, (bench.brother.path / file).read_bytes())
    with pytest.raises(RunnerError, match=r"differs by .* levels|got another VGF") as caught:
        open_checked_runner(artifact, isolated=True, runtime=bench.runtime)
    assert one_line(caught.value)


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a tile twice as high": lambda data: resize(data, 2 * TILE[0], TILE[1], 2),
    "a tile of 4096 pixels": lambda data: resize(data, 4096, 4096, 2),
    "another scale": lambda data: resize(data, *TILE, 4),
    "another target": lambda data: data.update(target="executorch" if data["target"] == "tflite" else "tflite"),
    "an unknown target": lambda data: data.update(target="onnx"),
    "another main file": lambda data: data.update(main_file="absent"),
}


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES)
def test_an_artifact_json_that_lies_about_a_sound_model_is_refused(bench: Bench, tmp_path: Path, lie: str) -> None:
    path = tmp_path / "lie"
    shutil.copytree(bench.sound.path, path)
    rewrite(path, LIES[lie])
    with pytest.raises(EdgeSRError) as caught:
        open_and_check(bench, path)
    assert one_line(caught.value)


def open_and_check(bench: Bench, path: Path) -> None:
    artifact = load_artifact(path)
    runtime = bench.runtime if artifact.meta.target == bench.target else None
    check_self_test(ReusedRunner(artifact, bench.child(), runtime), artifact)
