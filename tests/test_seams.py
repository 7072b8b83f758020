"""Seams: where they lie, how far off they are, which overlap makes them vanish, and what an export makes of that."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

import apps.exporting
import apps.verification.seams
from apps.exporting import export_artifacts
from apps.verification.overlap_choice import choose_overlap
from apps.verification.seam_certificate import SeamCertificate
from apps.verification.seam_probe import (
    CachingRunner,
    SeamPicture,
    compare_along_seams,
    cost_factor,
    seam_mask,
    synthetic_pictures,
)
from apps.verification.seams import candidate_overlaps, certify_seams, reach_of
from apps.verification.seams_view import print_seams, seam_chart, seam_panels
from converters.artifact import Artifact, load_artifact
from converters.runners import RUNTIMES
from edge_sr.checkpoints import load_checkpoint, save_checkpoint, sha256_file
from edge_sr.errors import CheckpointError, ConfigError, ConversionError
from edge_sr.networks import create_network
from edge_sr.runner import TorchRunner
from edge_sr.tiling import plan_tiles
from fakes import fake_artifact
from quantization.quantizer import prepare

Image = NDArray[np.uint8]

TILE = (40, 40)
# One block: head 1, block 2, less the last convolution, purification 1 + 3, attention 1, tail 1.
REACH = 8


def lively_network() -> nn.Module:
    """Small, with weights at which every layer shows in the result."""
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    nn.init.normal_(network.up.weight, std=0.01)  # type: ignore[arg-type]
    return network.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "lively.safetensors"
    save_checkpoint(path, lively_network(), {})
    return path


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> nn.Module:
    return load_checkpoint(checkpoint).network.deployed()  # type: ignore[no-any-return, operator]


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("artifact")
    loaded = load_artifact(fake_artifact(folder, scheme="fp32", checkpoint_sha256=sha256_file(checkpoint)))
    return replace(loaded, meta=replace(loaded.meta, tile=TILE, overlap=4))


class Altered:
    """The network on one tile, its result altered."""

    name, scale, tile = "fake", 4, TILE

    def __init__(self, network: nn.Module, alter: Callable[[Image], Image] = lambda sr: sr) -> None:
        self.inner, self.alter = TorchRunner(network, tile=TILE), alter

    def run(self, lr: Image) -> Image:
        return self.alter(self.inner.run(lr))


def certify(artifact: Artifact, checkpoint: Path, runner: object, **options: Any) -> SeamCertificate:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apps.verification.seams, "open_runner", lambda *_, **__: runner)
        return certify_seams(artifact, checkpoint=checkpoint, photos_per_set=1, **options)


@pytest.fixture(scope="module")
def certificate(artifact: Artifact, checkpoint: Path, network: nn.Module) -> SeamCertificate:
    return certify(artifact, checkpoint, Altered(network))


# ----------------------------------------------------------------------------------------------------------- measures
def test_mask_holds_the_pixels_beside_every_cut() -> None:
    # Tiles of 8 that share 2 are cut at 7 on 14 pixels across; down there is one tile.
    mask = seam_mask(plan_tiles(8, 14, (8, 8), 2), scale=2, band=1)
    assert mask.shape == (16, 28)
    assert sorted(set(np.flatnonzero(mask.any(axis=0)))) == [12, 13, 14, 15]
    assert mask[:, 12:16].all()


def test_differences_are_told_apart_by_where_they_are() -> None:
    picture = SeamPicture(name="p", pixels=np.zeros((1, 4, 3), np.uint8), photo=True)
    reference = np.full((1, 4, 3), 100, np.uint8)
    tiled = reference.copy()
    tiled[0, 1] = (103, 100, 100)  # at the seam: one channel by 3
    tiled[0, 2] = (100, 99, 100)  # at the seam: by 1, which does not show
    tiled[0, 3] = (98, 98, 98)  # elsewhere: all by 2
    mask = np.array([[False, True, True, False]])
    found = compare_along_seams(tiled, reference, mask, picture=picture, overlap=6)
    assert (found.seam_max_levels, found.seam_pixels_over) == (3, 1)
    assert found.seam_mean_levels == pytest.approx(4 / 6)
    assert (found.elsewhere_max_levels, found.elsewhere_mean_levels) == (2, pytest.approx(6 / 6))


def test_cost_is_what_is_computed_per_pixel_kept() -> None:
    assert cost_factor((128, 128), 0) == 1
    assert cost_factor((128, 128), 28) == pytest.approx(1.28**2)
    assert cost_factor((64, 32), 16) == pytest.approx(64 / 48 * 2)
    with pytest.raises(ConfigError, match="0 to 31"):
        cost_factor((64, 32), 32)


def test_overlaps_to_try_end_at_the_exact_one_or_at_half_a_tile() -> None:
    assert candidate_overlaps((128, 128), 28, also=14) == (0, 4, 8, 12, 14, 16, 20, 24, 28)
    assert candidate_overlaps((32, 48), 28) == (0, 4, 8, 12, 16)
    assert candidate_overlaps((128, 128), None) == (0, 4, 8, 12, 16, 20, 24, 28, 32, 48, 64)


def test_a_cached_tile_is_run_once() -> None:
    class Counting:
        name, scale, tile, runs = "c", 1, None, 0

        def run(self, lr: Image) -> Image:
            self.runs += 1
            return lr.copy()

    inner = Counting()
    cached = CachingRunner(inner)
    first, second = (picture.pixels for picture in synthetic_pictures(4, 4))
    for image in (first, second, first):
        assert (cached.run(image) == image).all()
    assert inner.runs == 2


def test_made_up_pictures_are_the_same_every_time() -> None:
    once, again = synthetic_pictures(9, 6), synthetic_pictures(9, 6)
    assert [picture.pixels.shape for picture in once] == [(9, 6, 3)] * 2
    assert all((a.pixels == b.pixels).all() for a, b in zip(once, again, strict=True))


def test_a_quantized_network_reaches_as_far_as_its_float_one(network: nn.Module) -> None:
    assert reach_of(network).reach_px == REACH
    assert reach_of(prepare(network, "w8a8")).reach_px == REACH


# -------------------------------------------------------------------------------------------------------- certificate
def test_twice_the_reach_is_exact_and_nothing_changes_away_from_seams(certificate: SeamCertificate) -> None:
    assert certificate.reach.reach_px == certificate.declared_context == REACH
    assert (certificate.reference_overlap, certificate.reference_exact) == (2 * REACH, True)
    # float32 sums of another tile position may round to the neighbouring level
    assert certificate.disagreement_levels <= 1
    assert all(row.elsewhere_max_levels <= 1 for row in certificate.rows)
    assert certificate.rows[-1].overlap == 2 * REACH
    assert certificate.rows[-1].seam_max_levels == 0


def test_seams_show_without_overlap_and_the_smallest_good_overlap_is_named(certificate: SeamCertificate) -> None:
    assert certificate.rows[0].overlap == 0
    assert certificate.rows[0].seam_max_levels > 10
    certified = certificate.certified_overlap
    assert certified is not None
    assert all((row.seam_max_levels <= 1) == (row.overlap >= certified) for row in certificate.rows)
    assert "overlap 16 is exact: a result reaches 8 pixels" in certificate.verdict


def test_the_network_in_pytorch_agrees_that_twice_the_reach_is_exact(certificate: SeamCertificate) -> None:
    exact = [entry for entry in certificate.cross_check if entry.overlap == 2 * REACH]
    none = [entry for entry in certificate.cross_check if entry.overlap == 0]
    assert len(exact) == len(none) == 2
    assert all(max(entry.seam_max_levels, entry.elsewhere_max_levels) <= 1 for entry in exact)
    assert all(entry.seam_max_levels > 1 for entry in none)


def test_a_slow_runtime_is_shown_fewer_tiles_and_tells_how_far_it_is(
    artifact: Artifact,
    checkpoint: Path,
    network: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    certificate: SeamCertificate,
) -> None:
    runner, reported = Altered(network), []
    monkeypatch.setitem(apps.verification.seams.RUNTIMES, "tflite", replace(RUNTIMES["tflite"], slow=True))

    def progress(what: str, done: float, total: int, detail: str = "") -> None:
        if what.startswith("seams of"):
            reported.append((done, total))

    slow = certify(artifact, checkpoint, runner, progress=progress)
    assert [row.overlap for row in slow.rows] == [0, 4, 16]
    assert slow.rows[0].differences[0].picture == "noise"
    assert [entry.photo for entry in slow.rows[0].differences] == [False, True]
    # what it does look at is what everything is judged by
    wanted = [row for row in certificate.rows if row.overlap in (0, 4, 16)]
    assert [row.differences[0] for row in slow.rows] == [row.differences[0] for row in wanted]
    assert slow.failures
    assert [done for done, _ in reported] == sorted(done for done, _ in reported)
    assert reported[-1] == (2, 2)
    # plans of no overlap, 4 and 16, and the shifted one share tiles: 4 + 5 + 5 + 8 places
    assert len([done for done, _ in reported if 0 < done < 1]) == 22
    assert (21 / 22, 2) in reported


def test_an_overlap_that_shows_fails_with_the_one_that_does_not(certificate: SeamCertificate) -> None:
    assert certificate.overlap == 4
    (line,) = certificate.failures
    assert "expected at most 1 level along seams at overlap 4, got " in line
    assert line.endswith(f"export with --overlap {certificate.certified_overlap}")
    assert replace(certificate, overlap=2 * REACH).failures == ()


def test_a_runtime_that_depends_on_the_position_is_found_out(
    artifact: Artifact, checkpoint: Path, network: nn.Module
) -> None:
    shade = (np.arange(4 * TILE[1]) // 32).astype(np.uint8)[None, :, None]
    runner = Altered(network, lambda sr: sr // 2 + shade)
    certificate = certify(artifact, checkpoint, runner, cross_check=False)
    assert certificate.disagreement_levels > 1
    assert certificate.certified_overlap is None
    assert "its runtime depends on the position" in certificate.failures[0]


def test_weights_of_another_network_are_refused(artifact: Artifact, tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4), {})
    with pytest.raises(CheckpointError):
        certify(artifact, other, None)


def test_a_network_that_sees_its_whole_tile_is_never_exact(
    artifact: Artifact, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    seeing = create_network("idsa_net", 4, blocks=1, channels=8, distilled=4, hidden=8, attention_dim=8).deployed()

    class OtherReferences:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def network(self, _: object) -> nn.Module:
            return seeing

    monkeypatch.setattr(apps.verification.seams, "References", OtherReferences)
    certificate = certify(artifact, checkpoint, Altered(seeing), cross_check=False)
    assert certificate.verdict.startswith("never exact, for the view depends on the tile in blocks.0: bmm")
    assert (certificate.reference_overlap, certificate.reference_exact) == (20, False)
    # The reference equals itself; that alone certifies nothing.
    assert certificate.certified_overlap != 20


# --------------------------------------------------------------------------------------------------------------- view
def test_certificate_becomes_json_table_chart_and_picture(certificate: SeamCertificate) -> None:
    text = json.loads(json.dumps(certificate.to_json(), allow_nan=False))
    assert text["certified_overlap"] == certificate.certified_overlap
    assert [row["overlap"] for row in text["rows"]] == [0, 4, 8, 12, 16]
    out = Console(file=io.StringIO(), width=160)
    print_seams(certificate, out=out)
    printed = out.file.getvalue()  # type: ignore[attr-defined]
    assert "smallest without a visible seam" in printed
    assert certificate.verdict in printed
    chart = seam_chart(certificate)
    assert [bar.label.partition(",")[0] for bar in chart.bars] == ["0", "4", "8", "12", "16"]
    assert [bar.kind == "gain" for bar in chart.bars] == [row.invisible for row in certificate.rows]
    assert all(0 <= bar.end <= 1 for bar in chart.bars)
    assert [panel.label.partition(",")[0] for panel in seam_panels(certificate)][:2] == ["tiled", "reference"]


def test_the_worst_place_is_where_the_largest_difference_is(certificate: SeamCertificate) -> None:
    worst = certificate.worst
    assert worst is not None
    assert worst.overlap == 4
    difference = np.abs(worst.tiled.astype(int) - worst.reference.astype(int))
    assert difference.max() == worst.max_levels == certificate.own_row.seam_max_levels


# -------------------------------------------------------------------------------------------------------------- choice
def test_chosen_overlap_is_the_smallest_at_which_the_whole_tiling_shows_nothing(
    network: nn.Module, certificate: SeamCertificate
) -> None:
    choice = choose_overlap(network, TILE)
    assert choice.overlap == certificate.certified_overlap
    assert choice.max_levels <= 1
    assert choice.smaller_overlap == choice.overlap - 4
    assert choice.smaller_max_levels is not None
    assert choice.smaller_max_levels > 1
    assert (choice.exact_overlap, choice.note) == (2 * REACH, "")


def test_a_tile_too_small_for_it_gets_half_of_itself_and_a_note(network: nn.Module) -> None:
    choice = choose_overlap(network, (16, 24))
    assert choice.overlap == 8
    assert choice.cost_factor == pytest.approx(2 * 1.5)
    assert f"leaves seams of up to {choice.max_levels} levels" in choice.note
    assert "tiles of 32 or more pixels" in choice.note


def test_a_network_that_sees_its_tile_gets_a_bounded_overlap_and_a_note() -> None:
    torch.manual_seed(0)
    seeing = create_network("idsa_net", 4, blocks=1, channels=8, distilled=4, hidden=8, attention_dim=8).deployed()
    choice = choose_overlap(seeing, (64, 64))
    assert choice.exact_overlap is None
    assert choice.overlap == 16  # its context, and a quarter of the tile
    assert "no overlap makes tiles equal the whole image: 1 layer sees the whole tile" in choice.note


@pytest.mark.parametrize("given", [None, 6])
def test_export_uses_the_chosen_overlap_unless_one_is_given(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, given: int | None
) -> None:
    seen: list[dict[str, Any]] = []

    def stop(**arguments: Any) -> None:
        seen.append(arguments)
        raise ConversionError("far enough")

    monkeypatch.setattr(apps.exporting, "export_artifact", stop)
    export_artifacts(
        schemes=["fp32"],
        targets=["tflite", "coreml"],
        tile=TILE,
        out_dir=tmp_path,
        checkpoint=checkpoint,
        overlap=given,
    )
    assert len(seen) == 2
    for arguments in seen:
        if given is not None:
            assert (arguments["overlap"], arguments["measured"]) == (6, None)
        else:
            seams = arguments["measured"]["seams"]
            assert arguments["overlap"] == seams["overlap"] <= 2 * REACH
            assert seams["max_levels"] <= 1 < seams["smaller_max_levels"]
            json.dumps(seams)
