"""Pictures and the report page: crops by hand, a page that stands alone, a table that joins what belongs together."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

import apps.tables
from apps.exporting import ExportReport, ExportRow
from apps.figures import Panel, compose_rows, crop_panels, most_different_window, write_comparison
from apps.formatting import format_bytes, format_db, format_drop, format_ops, format_timing
from apps.report import make_showcase, summarize, write_report
from apps.results import ProfileReport, ProfileRow, Timing, check_json_target, plain, write_json
from apps.terminal import say, show
from apps.verification.accuracy import VerifyReport
from apps.verification.gate import GateLimits
from apps.verification.rows import VerifyRow
from edge_sr.datasets import ImagePair
from edge_sr.errors import ConfigError, ImageError, ShapeError
from edge_sr.evaluation import ImageScore, SetScore
from edge_sr.images import read_image

TILE = (16, 16)
INT8, COREML, NPU = Path("out/net_w8a8_tflite"), Path("out/net_w8a8_coreml"), Path("out/net_w8a8_qnn")


def _noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _score(psnr: float) -> SetScore:
    return SetScore(set_name="Set5", scale=4, images=(ImageScore(name="bird", psnr_y_db=psnr, ssim=0.9),))


def _made(path: Path | None, target: str, error: str | None = None) -> ExportRow:
    return ExportRow(
        model="net",
        scale=4,
        scheme="w8a8",
        target=target,
        tile=TILE,
        weights="checkpoint",
        path=path,
        size_bytes=None if path is None else 160_000,
        seconds=1.0,
        delegates=1 if target in ("tflite", "qnn") else None,
        ops_outside={},
        error=error,
    )


def _verified(path: Path, target: str, artifact: float | None) -> VerifyRow:
    return VerifyRow(
        artifact_path=path,
        model="net",
        scheme="w8a8",
        target=target,
        runtime=target,
        tile=TILE,
        overlap=4,
        float_whole=_score(30.5),
        float_tiled=_score(30.25),
        artifact=None if artifact is None else _score(artifact),
        reason="cannot run here" if artifact is None else None,
    )


def _timed(path: Path, target: str, threads: int, samples: tuple[float, ...] | None) -> ProfileRow:
    timing = samples and Timing(
        threads=threads,
        load_ms=1.0,
        first_ms=2.0,
        warmup_runs=3,
        samples_ms=samples,
        peak_rss_bytes=1,
        base_rss_bytes=1,
        runtime="fake",
        runtime_version="1",
    )
    return ProfileRow(
        artifact_path=path,
        model="net",
        scale=4,
        scheme="w8a8",
        target=target,
        tile=TILE,
        overlap=4,
        device="host",
        threads=threads,
        timing=timing or None,
        reason=None if timing else "cannot run here",
    )


@pytest.fixture
def measured() -> tuple[ExportReport, VerifyReport, ProfileReport]:
    export = ExportReport(
        rows=(
            _made(INT8, "tflite"),
            _made(COREML, "coreml"),
            _made(None, "executorch", error="executorch <is> missing"),
        )
    )
    rows = (_verified(INT8, "tflite", 30.0), _verified(COREML, "coreml", None))
    verify = VerifyReport(rows=rows, limits=GateLimits(), checks=())
    profile = ProfileReport(
        device="host",
        rows=(
            _timed(INT8, "tflite", 1, (10.0, 10.0, 10.0)),
            _timed(INT8, "tflite", 2, (6.0, 8.0, 20.0)),
            _timed(COREML, "coreml", 1, None),
        ),
    )
    return export, verify, profile


# ------------------------------------------------------------------------------------------------------------- table
def test_summary_joins_export_accuracy_and_latency_of_one_artifact(
    measured: tuple[ExportReport, VerifyReport, ProfileReport],
) -> None:
    int8, coreml, executorch = summarize(*measured)
    assert (int8.psnr_y_db, int8.drop_db, int8.tiling_drop_db, int8.quantization_drop_db) == (30.0, 0.5, 0.25, 0.25)
    assert {count: timing.median_ms for count, timing in int8.timings.items()} == {1: 10.0, 2: 8.0}
    assert (coreml.psnr_y_db, coreml.drop_db, dict(coreml.timings)) == (None, None, {})
    assert coreml.reason == "cannot run here"
    assert executorch.reason == "executorch <is> missing"


def test_an_artifact_has_a_row_for_each_runtime_that_phones_compute_like(
    measured: tuple[ExportReport, VerifyReport, ProfileReport], tmp_path: Path
) -> None:
    export, verify, profile = measured
    export = replace(export, rows=(*export.rows, _made(NPU, "qnn")))
    npu = [
        replace(_verified(NPU, "qnn", 30.125), runtime="hexagon_v73"),
        replace(_verified(NPU, "qnn", None), runtime="hexagon_v68"),
    ]
    coreml = replace(_verified(COREML, "coreml", 29.0), runtime="coreml_evaluator")
    verify = replace(verify, rows=(*verify.rows, coreml, *npu))
    profile = replace(profile, rows=(*profile.rows, _timed(NPU, "qnn", 1, None)))
    rows = summarize(export, verify, profile)
    shown = [(row.target, row.runs_in, row.psnr_y_db) for row in rows]
    assert shown == [
        ("tflite", "", 30.0),
        ("coreml", "", None),  # a stand-in's row says nothing where the runtime itself was asked
        ("executorch", "", None),
        ("qnn", "Hexagon v73+, emulated", 30.125),
        ("qnn", "Hexagon v68/v69, emulated", None),
    ]
    assert [row.delegates for row in rows[3:]] == [1, 1]
    page = write_report(
        tmp_path / "page.html", title="t", export=export, verify=verify, profile=profile, command="c"
    ).read_text(encoding="utf-8")
    for row in rows[3:]:
        assert f"<small>{row.runs_in}</small>" in page
    assert page.count("Qualcomm NPU w8a8: cannot run here") == 1
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apps.tables, "show", lambda table: show(table, Console(width=80, file=printed)))
        patch.setattr(apps.tables, "say", lambda text: say(text, Console(width=80, file=printed)))
        apps.tables.print_summary(SimpleNamespace(summary=rows, bicubic_psnr_y_db=None), (1,))  # type: ignore[arg-type]
    assert "Hexagon v73+, emulated" in printed.getvalue()
    assert printed.getvalue().count("qnn w8a8: cannot run here") == 1


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (format_bytes(160_000), "160.0 kB"),
        (format_bytes(1_250_000), "1.25 MB"),
        (format_bytes(None), "–"),
        (format_db(31.23456), "31.235"),
        (format_db(None), "–"),
        (format_drop(0.0214), "+0.021"),
        (format_drop(-0.5), "-0.500"),
        (format_timing(None), "–"),
        (format_ops({}, 1), "none"),
        (format_ops({}, None), "–"),
        (format_ops({"CAT": 2}, 1), "2 CAT"),
        (format_drop(-0.0001), "0.000"),
    ],
)
def test_numbers_read_as_expected(shown: str, expected: str) -> None:
    assert shown == expected


# -------------------------------------------------------------------------------------------------------------- page
def test_page_stands_alone_and_says_everything(
    tmp_path: Path, measured: tuple[ExportReport, VerifyReport, ProfileReport]
) -> None:
    hr = _noise(80, 96)
    pair = ImagePair(name="bird", lr=_noise(20, 24), hr=hr)
    showcase = make_showcase(
        pair, set_name="Set5", artifact_name="net_w8a8_tflite", scale=4, float_sr=hr, int8_sr=_noise(80, 96, 2)
    )
    export, verify, profile = measured
    path = write_report(
        tmp_path / "report.html",
        title="net <x4>",
        export=export,
        verify=verify,
        profile=profile,
        showcases=[showcase],
        command="edge-sr demo --out 'a & b'",
    )
    page = path.read_text(encoding="utf-8")
    # Nothing is fetched: no address; every picture is inside.
    assert re.findall(r"""src=["'](?!data:image/)""", page) == []
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 5, "the crops; charts are drawn by the page"
    for text in ("TFLite", "160.0 kB", "30.000", "+0.500", "cannot run here", "edge-sr demo --out", "bird"):
        assert text in page
    assert "net &lt;x4&gt;" in page
    assert "executorch &lt;is&gt; missing" in page
    assert '<span class="flag"' in page  # 6, 8, 20: an IQR of 7 ms on a median of 8


def test_page_without_any_latency_or_picture_is_written_too(
    tmp_path: Path, measured: tuple[ExportReport, VerifyReport, ProfileReport]
) -> None:
    export, verify, _ = measured
    empty = ProfileReport(rows=(), device="host")
    path = write_report(tmp_path / "r.html", title="t", export=export, verify=verify, profile=empty, command="c")
    assert "Where int8 differs most" not in path.read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------- pictures
def test_most_different_window_is_where_the_difference_was_put() -> None:
    first = np.full((40, 60, 3), 100, dtype=np.uint8)
    second = first.copy()
    second[20:28, 32:40] = 180
    assert most_different_window(first, second, 8) == (20, 32)


def test_window_is_cut_to_a_small_image() -> None:
    image = _noise(5, 7)
    assert most_different_window(image, image, 64) == (0, 0)


def test_window_of_two_sizes_is_refused() -> None:
    with pytest.raises(ShapeError):
        most_different_window(_noise(4, 4), _noise(4, 5), 2)


def test_crops_of_lr_and_hr_show_the_same_scene() -> None:
    lr = _noise(20, 24)
    hr = lr.repeat(4, axis=0).repeat(4, axis=1)
    low, high = crop_panels([Panel(label="LR", image=lr), Panel(label="HR", image=hr)], window=(16, 32), size=16)
    assert low.image.shape == (4, 4, 3)
    np.testing.assert_array_equal(low.image.repeat(4, axis=0).repeat(4, axis=1), high.image)


def test_showcase_shows_five_crops_of_one_size_around_the_difference() -> None:
    hr = np.full((128, 128, 3), 90, dtype=np.uint8)
    int8 = hr.copy()
    int8[100:110, 60:70] = 200
    pair = ImagePair(name="x", lr=np.full((32, 32, 3), 90, dtype=np.uint8), hr=hr)
    showcase = make_showcase(pair, set_name="s", artifact_name="a", scale=4, float_sr=hr, int8_sr=int8)
    assert [panel.label for panel in showcase.panels] == ["LR", "bicubic", "float", "int8", "HR"]
    assert [panel.image.shape[:2] for panel in showcase.panels] == [(16, 16), *[(64, 64)] * 4]
    assert (showcase.panels[3].image == 200).sum() == 10 * 10 * 3


def test_row_of_pictures_keeps_pixels_whole() -> None:
    red = np.zeros((2, 2, 3), dtype=np.uint8)
    red[0, 0] = (255, 0, 0)
    row = compose_rows([[Panel(label="a", image=red), Panel(label="b", image=red)]], side=8, gap=2)
    # One pixel became 4 x 4, in each of the two pictures, and nothing between red and black was made up.
    assert int((row == (255, 0, 0)).all(axis=2).sum()) == 2 * 16
    assert row.shape[1] == 2 + 2 * (8 + 2)


def test_comparison_is_a_png_and_is_not_overwritten(tmp_path: Path) -> None:
    rows = [[Panel(label="LR", image=_noise(8, 8)), Panel(label="HR", image=_noise(32, 32), note="31.2 dB")]]
    path = write_comparison(tmp_path / "crops.png", rows, side=64)
    assert read_image(path).shape[1] == 10 + 2 * 74
    with pytest.raises(ImageError):
        write_comparison(path, rows)


def test_panel_that_is_no_picture_is_refused() -> None:
    with pytest.raises(ShapeError):
        Panel(label="x", image=np.zeros((4, 4, 3), dtype=np.float32))  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------------- JSON
def test_json_has_no_infinity_and_plain_values_only(tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", {"a": float("inf"), "b": (np.float64(1.5), Path("x")), 3: None})
    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert text == '{\n  "a": "inf",\n  "b": [\n    1.5,\n    "x"\n  ],\n  "3": null\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_json_target_may_be_new_or_an_earlier_result_and_nothing_else(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.json", tmp_path / "package.json"
    write_json(ours, {"kind": "edge-sr/verify"})
    theirs.write_text('{"name": "x"}')
    check_json_target(None)
    check_json_target(ours)
    check_json_target(tmp_path / "new.json")
    for path in (theirs, tmp_path, tmp_path / "no" / "folder.json"):
        with pytest.raises(ConfigError):
            check_json_target(path)


def test_plain_leaves_what_json_has() -> None:
    assert plain({"a": [1, "b", None, True]}) == {"a": [1, "b", None, True]}
