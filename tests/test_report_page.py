"""The demo's page and table as people meet them: bicubic beside it, a slider, links that lead somewhere, a phone."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest
from demo_page import LONG_NOTE, TARGETS, DemoPage
from numpy.typing import NDArray
from PIL import Image as PillowImage
from rich.console import Console

import apps.tables
from apps.bars import LEAST_SPAN_DB
from apps.demo import pictures_of
from apps.next_steps import model_files, next_lines, next_steps
from apps.report import mean_psnr, summarize
from apps.terminal import say, show
from apps.verification.accuracy import VerifyReport
from apps.verification.gate import GateLimits
from apps.verification.rows import VerifyRow
from edge_sr.evaluation import ImageScore, SetScore, score_bicubic
from edge_sr.images import write_image
from edge_sr.metrics import psnr_y
from edge_sr.scorable import load_scorable_sets


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DemoPage:
    return DemoPage(tmp_path_factory.mktemp("demo"))


# -------------------------------------------------------------------------------------------------------------- table
def test_table_has_bicubic_and_every_number_whole_within_80_columns(
    made: DemoPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(apps.tables, "show", lambda table: show(table, narrow))
    monkeypatch.setattr(apps.tables, "say", lambda text: say(text, narrow))
    summary = summarize(made.export, made.verify, made.profile)
    report = SimpleNamespace(summary=summary, bicubic_psnr_y_db=mean_psnr(made.bicubic))
    apps.tables.print_summary(report, (1, 2))  # type: ignore[arg-type]
    lines = [line.split() for line in narrow.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert ["bicubic", "–", "27.500", "–", "–", "–", "–"] in lines
    for scheme in ("fp32", "w8a8"):
        for target in ("tflite", "executorch"):
            assert [target, scheme, "3.28", "MB", "29.980", "+0.020", "140.0!", "140.0!", "none"] in lines


def test_bicubic_is_scored_on_the_same_photos(tmp_path: Path) -> None:
    # A flat photo survives both reductions; a checkerboard of single pixels becomes grey, 127.5 levels from all.
    write_image(tmp_path / "flat.png", np.full((64, 64, 3), 90, np.uint8))
    (image_set,) = load_scorable_sets(tmp_path, None, 4)
    assert [image.psnr_y_db for image in score_bicubic(image_set).images] == [float("inf")]
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    write_image(tmp_path / "board.png", np.repeat(board[:, :, None], 3, axis=2))
    (image_set,) = load_scorable_sets(tmp_path, None, 4)
    scores = {image.name: image.psnr_y_db for image in score_bicubic(image_set).images}
    # Luma spans 219 levels, so that grey is 109.5 from each pixel.
    assert scores["board"] == pytest.approx(20 * np.log10(255 / 109.5), abs=0.1)


# --------------------------------------------------------------------------------------------------------------- page
def test_first_row_of_the_page_is_bicubic(made: DemoPage) -> None:
    body = made.text.partition("<tbody>")[2].partition("</tr>")[0]
    cells = [re.sub("<.*?>", "", cell).strip() for cell in re.findall("<td.*?</td>", body)]
    assert cells == ["bicubic", "27.500", "–", "–", "–", "–", "0.9000", "–"]


def test_links_lead_from_the_page_to_files_and_folders_of_this_run(made: DemoPage) -> None:
    links = re.findall('href="(.*?)"', made.text)
    targets = [made.page.parent / unquote(link) for link in links]
    assert all(target.exists() for target in targets)
    assert not any(link.startswith(("/", "file:", "..")) for link in links)
    assert {target.resolve() for target in targets} == {
        *(artifact.path.resolve() for artifact in made.artifacts),
        *(artifact.main_path.resolve() for artifact in made.artifacts),
    }


def test_slider_holds_both_whole_photos_and_says_how_they_are_kept(made: DemoPage) -> None:
    photos = re.findall('src="data:image/jpeg;base64,(.*?)"', made.text)
    own, bicubic = (PillowImage.open(io.BytesIO(base64.b64decode(photo))) for photo in photos)
    for shown, expected in ((own, 255 - made.photo), (bicubic, made.photo)):
        assert shown.size == (128, 96)
        # A level or two is what quality 90 costs on smooth pictures.
        assert np.abs(np.asarray(shown).astype(int) - expected).mean() < 2
    assert "JPEG of quality 90" in made.text
    assert re.search('<input type="range"[^>]*aria-label="cat', made.text)


def test_long_notes_are_folded_away_and_the_page_knows_the_dark(made: DemoPage) -> None:
    folded = "".join(re.findall("(?s)<details>.*?</details>", made.text))
    assert folded.count(LONG_NOTE) == made.text.count(LONG_NOTE) == 6
    assert "a note on a set" in folded
    assert '<meta name="color-scheme" content="light dark">' in made.text
    light, dark = (
        set(re.findall(r"--(\w+): #", made.text.partition(start)[2].partition("}")[0]))
        for start in (":root {", "prefers-color-scheme: dark) {\n    :root {")
    )
    assert {"paper", "ink", "muted", "line"} <= dark <= light


def test_waterfall_on_the_page_spans_half_a_decibel(made: DemoPage) -> None:
    charts = re.findall('(?s)aria-label="PSNR from.*?axis" aria-hidden.*?</div>', made.text)
    assert len(charts) == len(TARGETS), "a float scheme loses nothing worth a chart"
    for chart in charts:
        ticks = re.findall(r'<span style="left: [\d.]+%">([\d.]+)</span>', chart)
        assert float(ticks[-1]) - float(ticks[0]) >= LEAST_SPAN_DB - 1e-9


# --------------------------------------------------------------------------------------------------------- what is next
def test_next_steps_use_the_int8_artifacts_of_this_run(made: DemoPage) -> None:
    int8 = {artifact.meta.target: artifact for artifact in made.artifacts if artifact.meta.scheme == "w8a8"}
    commands = {step.what: step.command for step in next_steps(made.artifacts)}
    assert commands == {
        "Upscale a photo": f"edge-sr upscale photo.jpg --artifact '{int8['tflite'].path}'",
        "Try it on any phone": f"edge-sr profile '{int8['tflite'].path}' --device browser --lan",
        "Measure on Android": f"edge-sr profile '{int8['tflite'].path}' --device adb",
        "Measure on Apple": f"edge-sr profile '{int8['coreml'].path}' --device apple",
    }
    assert all(command in html.unescape(made.text) for command in commands.values())
    lines = next_lines(made.artifacts)
    assert len(lines) == 4
    assert lines[1] == f"Put it into an app: {int8['tflite'].main_path} (16x16 RGB, NHWC, uint8 from 0 to 255)"
    assert next_lines(made.artifacts[2:3]) == (
        f"Upscale a photo: edge-sr upscale photo.jpg --artifact '{made.artifacts[2].path}'",
        f"Put it into an app: {made.artifacts[2].main_path} (16x16 RGB, NHWC, uint8 from 0 to 255)",
        f"Measure on Apple: edge-sr profile '{made.artifacts[2].path}' --device apple",
    )
    assert next_lines([]) == ()


def test_every_model_file_is_listed_with_what_it_takes_and_gives(made: DemoPage) -> None:
    files = list(model_files(made.artifacts))
    assert [file.path for file in files] == [artifact.main_path for artifact in made.artifacts]
    assert {file.gives for file in files} == {"64x64 RGB, NHWC, uint8 from 0 to 255"}


# ------------------------------------------------------------------------------------------------------------- pictures
class _Negative:
    """Stands in for an artifact: bicubic's picture, inverted."""

    name, scale, tile = "fake", 4, (16, 16)

    def run(self, lr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.kron(255 - lr, np.ones((4, 4, 1), np.uint8))

    def close(self) -> None:
        pass


def test_pictures_are_two_photos_the_worst_first_by_the_artifact_itself(
    made: DemoPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.demo.open_checked_runner", lambda *_, **__: _Negative())
    rng = np.random.default_rng(1)
    for name in ("a", "b", "c"):
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        write_image(tmp_path / f"{name}.png", coarse.repeat(8, axis=0).repeat(8, axis=1))
    (image_set,) = load_scorable_sets(tmp_path, None, 4)

    def score(**psnr: float) -> SetScore:
        images = tuple(ImageScore(name=name, psnr_y_db=value, ssim=0.9) for name, value in psnr.items())
        return SetScore(set_name=image_set.name, scale=4, images=images)

    row = VerifyRow(
        artifact_path=made.artifacts[3].path,
        model="idsa_net_mobile",
        scheme="w8a8",
        target="tflite",
        runtime="tflite",
        tile=(16, 16),
        overlap=4,
        float_whole=score(a=30.0, b=30.0, c=30.0),
        float_tiled=score(a=30.0, b=30.0, c=30.0),
        artifact=score(a=29.9, b=29.5, c=29.8),
    )
    verify = VerifyReport(rows=(row,), limits=GateLimits(), checks=())
    comparisons, (showcase,) = pictures_of(verify, [image_set])
    assert [one.image_name for one in comparisons] == ["b", "a"]
    assert showcase.image_name == "b"
    pairs = {pair.name: pair for pair in image_set}
    for one in comparisons:
        pair = pairs[one.image_name]
        np.testing.assert_array_equal(one.own, np.kron(255 - pair.lr, np.ones((4, 4, 1), np.uint8)))
        assert one.own_psnr_y_db == psnr_y(one.own, pair.hr, crop_border=4)
        assert one.bicubic_psnr_y_db > one.own_psnr_y_db
    assert pictures_of(VerifyReport(rows=(), limits=GateLimits(), checks=()), [image_set]) == ((), ())
