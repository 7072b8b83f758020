"""The parts of browser profiling that need no browser: what the page may send, names, numbers, the pinned runtime."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.profiling.browser import litertjs
from apps.profiling.browser.addresses import own_addresses, qr_code
from apps.profiling.browser.board import Board, Plan, Refused
from apps.profiling.browser.chromium import find_chromium
from apps.profiling.browser.device import browser_name, describe_device, system_name, why_unavailable
from apps.profiling.browser.jobs import BrowserJob, choose_variant, why_not
from apps.profiling.browser.results import BrowserTiming, Configuration
from apps.profiling.browser.schema import Hello, PostedResult, parse
from apps.profiling.browser.server import Bucket
from apps.profiling.browser.session import BrowserOptions, profile_in_browser
from converters.artifact import IoVariant, TensorSpec, load_artifact
from edge_sr.errors import ConfigError, DataError, MissingToolError
from fakes import fake_artifact

PIXEL = (
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Mobile Safari/537.36"
)
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/17.5 Mobile/15E148 Safari/604.1"
)
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
HEADLESS = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/150.0.0.0 Safari/537.36"
HINTS = {
    "architecture": "",
    "bitness": "",
    "model": "Pixel 8",
    "platform": "Android",
    "platform_version": "14.0.0",
    "mobile": True,
    "brands": [
        {"brand": "Not?A_Brand", "version": "99"},
        {"brand": "Chromium", "version": "131.0.6778.39"},
        {"brand": "Google Chrome", "version": "131.0.6778.39"},
    ],
}


def hello_fields(**changes: Any) -> dict[str, Any]:
    return {
        "user_agent": PIXEL,
        "client_hints": HINTS,
        "hardware_concurrency": 8,
        "device_memory_gb": 8,
        "secure_context": True,
        "cross_origin_isolated": True,
        "automated": False,
        "clock_resolution_ms": 0.005,
        "screen": {"width": 412, "height": 915, "pixel_ratio": 2.625},
        "webgpu": None,
        "resume": None,
        **changes,
    }


def hello(**changes: Any) -> Hello:
    return parse(Hello, json.dumps(hello_fields(**changes)).encode())


def result_fields(**changes: Any) -> dict[str, Any]:
    timing = {
        "runtime_build": "litert_wasm_internal",
        "runtime_load_ms": 300.0,
        "load_ms": 20.0,
        "first_ms": 12.0,
        "warmup_runs": 3,
        "runs_per_sample": 1,
        "samples_ms": [10.0, 11.0, 12.0],
        "clock_resolution_ms": 0.005,
        "fully_accelerated": None,
        "output_stable": True,
    }
    return {"status": "measured", "reason": None, "hidden": False, "timing": {**timing, **changes}}


def posted(**changes: Any) -> PostedResult:
    return parse(PostedResult, json.dumps(result_fields(**changes)).encode())


@pytest.fixture
def job(tmp_path: Path) -> BrowserJob:
    """Two LR pixels, and an expectation without a runtime behind it."""
    artifact = load_artifact(fake_artifact(tmp_path))
    expected = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(4, 8, 3)
    io_variant = next(iter(artifact.meta.io.values()))
    return BrowserJob(
        artifact=artifact,
        file="model.bin",
        io=io_variant,
        model=b"model",
        tile=np.zeros((1, 2, 3), np.uint8),
        tile_name="two pixels",
        expected=expected,
        reference="arithmetic",
    )


@pytest.fixture
def board(job: BrowserJob) -> Board:
    plan = Plan(backends=("wasm",), threads=(1, 2), runs=5, max_seconds=1.0, autostart=True)
    return Board(jobs=[job], plan=plan, own_addresses=frozenset({"127.0.0.1"}), secure_url=False)


# ------------------------------------------------------------------------------------------------------ the messages
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"surprise": 1}, "surprise"),
        ({"hardware_concurrency": 0}, "hardware_concurrency"),
        ({"hardware_concurrency": "8"}, "hardware_concurrency"),
        ({"user_agent": "x" * 1001}, "user_agent"),
        ({"clock_resolution_ms": -1.0}, "clock_resolution_ms"),
        ({"screen": {"width": 1, "height": 1}}, "screen.pixel_ratio"),
    ],
)
def test_message_with_a_bad_field_is_refused_by_the_fields_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=named):
        hello(**changes)


@pytest.mark.parametrize("samples", [[], [0.0], [-1.0], [float("nan")], [float("inf")], [1.0] * 10_001, ["1.0"], [4e6]])
def test_samples_that_no_clock_can_show_are_refused(samples: list[Any]) -> None:
    with pytest.raises(DataError, match=r"samples_ms|JSON"):
        posted(samples_ms=samples)


def test_text_that_is_no_json_is_refused_in_one_line() -> None:
    with pytest.raises(DataError) as caught:
        parse(Hello, b"\xff\xfe{")
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------- the names
@pytest.mark.parametrize(
    ("agent", "hints", "browser", "system"),
    [
        (PIXEL, HINTS, "Google Chrome 131.0.6778.39", "Android 14.0.0"),
        (PIXEL, None, "Chrome 131.0.0.0", "Android 10"),
        (IPHONE, None, "Safari 17.5", "iPhone, iOS 17.5.1"),
        (FIREFOX, None, "Firefox 128.0", "Linux"),
        (HEADLESS, None, "Headless Chromium 150.0.0.0", "Linux"),
        ("curl/8", None, "unknown browser", "unknown system"),
    ],
)
def test_browser_and_system_are_named(agent: str, hints: Any, browser: str, system: str) -> None:
    said = hello(user_agent=agent, client_hints=hints)
    assert (browser_name(said), system_name(said)) == (browser, system)


HERE, AWAY = "127.0.0.1", "192.0.2.7"


@pytest.mark.parametrize(
    ("address", "changes", "kind", "title"),
    [
        (AWAY, {}, "phone", "Pixel 8 (Android 14.0.0), Google Chrome 131.0.6778.39"),
        (
            HERE,
            {},
            "phone",
            "Pixel 8 (Android 14.0.0), Google Chrome 131.0.6778.39, through a tunnel to this host",
        ),
        (HERE, {"user_agent": FIREFOX, "client_hints": None}, "this host", "Firefox 128.0 on this host (Linux)"),
        (AWAY, {"user_agent": FIREFOX, "client_hints": None}, "computer", "Linux, Firefox 128.0"),
        (
            HERE,
            {"user_agent": HEADLESS, "client_hints": None},
            "headless on this host",
            "Headless Chromium 150.0.0.0 on this host",
        ),
        # A program that drives a browser here may imitate a phone; it stays a browser here.
        (HERE, {"automated": True}, "headless on this host", "Google Chrome 131.0.6778.39 on this host"),
        (
            AWAY,
            {"client_hints": {**HINTS, "model": "sdk_gphone64_x86_64"}},
            "emulator",
            "emulator: sdk_gphone64_x86_64 (Android 14.0.0), Google Chrome 131.0.6778.39",
        ),
    ],
)
def test_device_is_called_what_it_is(address: str, changes: dict[str, Any], kind: str, title: str) -> None:
    device = describe_device(hello(**changes), address=address, own_addresses=frozenset({HERE}), secure_url=False)
    assert (device.kind, device.title) == (kind, title)
    assert device.thermal_state == "not available in browsers"


def test_plain_http_in_a_network_is_told_with_its_cure() -> None:
    said = hello(secure_context=False, cross_origin_isolated=False, clock_resolution_ms=0.1)
    hints = describe_device(said, address=AWAY, own_addresses=frozenset({HERE}), secure_url=False).hints
    assert any("one thread" in hint and "--https" in hint and "adb reverse" in hint for hint in hints)


GPU = {"vendor": "arm", "architecture": "v", "device": "", "description": "", "fallback": False, "shader_f16": True}


@pytest.mark.parametrize(
    ("configuration", "changes", "reason"),
    [
        (Configuration(backend="wasm"), {"secure_context": False, "cross_origin_isolated": False}, None),
        (Configuration(backend="wasm", threads=2), {"cross_origin_isolated": False}, "isolated"),
        (Configuration(backend="wasm", threads=9), {}, None),
        (Configuration(backend="wasm", threads=10), {}, "8 processors"),
        (Configuration(backend="webgpu", precision="fp32"), {"secure_context": False}, "secure page"),
        (Configuration(backend="webgpu", precision="fp32"), {}, "no WebGPU"),
        (Configuration(backend="webgpu", precision="fp16"), {"webgpu": GPU}, None),
        (Configuration(backend="webgpu", precision="fp16"), {"webgpu": {**GPU, "shader_f16": False}}, "16-bit"),
    ],
)
def test_what_a_browser_cannot_run_is_known_before(
    configuration: Configuration, changes: dict[str, Any], reason: str | None
) -> None:
    found = why_unavailable(configuration, hello(**changes))
    assert found is None if reason is None else reason in str(found)


# ------------------------------------------------------------------------------------------------------- the numbers
def test_statistics_match_hand_computed_values() -> None:
    timing = BrowserTiming(
        threads=1,
        load_ms=1.0,
        runtime_load_ms=1.0,
        first_ms=9.0,
        warmup_runs=3,
        runs_per_sample=4,
        samples_ms=(3.0, 1.0, 5.0, 2.0, 4.0),
        clock_resolution_ms=0.1,
        runtime="LiteRT.js",
        runtime_version="2.5.3",
        runtime_build="x",
    )
    assert (timing.median_ms, timing.quartiles_ms, timing.iqr_ms, timing.noisy) == (3.0, (2.0, 4.0), 2.0, True)
    assert timing.to_json()["samples_ms"] == [3.0, 1.0, 5.0, 2.0, 4.0]


def test_equal_picture_is_bit_equal(job: BrowserJob) -> None:
    numerics = job.compare(job.expected.tobytes(), precision=None)
    assert (numerics.agrees, numerics.bit_equal, numerics.max_difference_levels) == (True, True, 0.0)


def test_other_picture_is_wrong(job: BrowserJob) -> None:
    numerics = job.compare(job.expected[::-1].tobytes(), precision=None)
    assert not numerics.agrees
    assert "wrong picture" in numerics.summary


def test_difference_is_in_levels_and_decibels(job: BrowserJob) -> None:
    moved = job.expected.copy()
    moved[0, 0, 0] += 2
    numerics = job.compare(moved.tobytes(), precision=None)
    assert numerics.max_difference_levels == pytest.approx(2.0)
    # One of 96 values is off by 2 of 255: 10 log10(255^2 * 96 / 4).
    assert numerics.psnr_db == pytest.approx(61.93, abs=0.01)


@pytest.mark.parametrize(
    ("offset", "precision", "agrees", "within"),
    [(5e-7, None, True, True), (5e-4, None, True, False), (2e-3, None, False, False), (2e-3, "fp16", True, False)],
)
def test_float_pictures_have_a_tolerance_by_arithmetic(
    job: BrowserJob, offset: float, precision: str | None, agrees: bool, within: bool
) -> None:
    floats = replace(job, expected=(job.expected / 255.0).astype(np.float32))
    numerics = floats.compare((floats.expected + np.float32(offset)).tobytes(), precision=precision)
    assert (numerics.agrees, numerics.within_1e_6, numerics.bit_equal) == (agrees, within, False)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_a_number_is_never_right(job: BrowserJob, value: float) -> None:
    floats = replace(job, expected=np.zeros((4, 8, 3), np.float32))
    assert not floats.compare(np.full((4, 8, 3), value, np.float32).tobytes(), precision="fp16").agrees


def test_cut_picture_is_never_right(job: BrowserJob) -> None:
    assert not job.compare(job.expected.tobytes()[:-1], precision=None).agrees


# ------------------------------------------------------------------------------------------------------- the variant
def _spec(dtype: str) -> TensorSpec:
    ranges = {"int8": (-128.0, 127.0), "uint8": (0.0, 255.0), "float32": (0.0, 1.0)}
    return TensorSpec(name="x", dtype=dtype, layout="NHWC", shape=(1, 16, 16, 3), value_range=ranges[dtype])


@pytest.mark.parametrize(
    ("dtypes", "chosen"),
    [
        (("int8", "uint8", "float32"), "uint8"),
        (("int8", "float32"), "float32"),
        (("float32",), "float32"),
        (("int8",), None),
    ],
)
def test_file_with_pictures_that_a_browser_takes_is_chosen(
    tmp_path: Path, dtypes: tuple[str, ...], chosen: str | None
) -> None:
    meta = load_artifact(fake_artifact(tmp_path)).meta
    entry = meta.files["model.bin"]
    io_variants = {dtype: IoVariant(input=_spec(dtype), output=_spec(dtype)) for dtype in dtypes}
    meta = replace(meta, io=io_variants, files=dict.fromkeys(dtypes, entry), main_file=dtypes[0])
    assert choose_variant(meta) == chosen
    assert (why_not(meta) is None) == (chosen is not None)


def test_artifacts_that_no_browser_runs_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this one is for executorch"):
        profile_in_browser([fake_artifact(tmp_path, "executorch")])


# --------------------------------------------------------------------------------------------------------- the board
def test_latency_without_a_picture_is_refused(board: Board) -> None:
    run = board.hello(hello(), address=HERE)["run"]
    with pytest.raises(Refused, match="picture"):
        board.result(0, "wasm-1", posted(), run=run)


def test_result_counts_once(board: Board, job: BrowserJob) -> None:
    run = board.hello(hello(), address=HERE)["run"]
    board.output(0, "wasm-1", job.expected.tobytes(), run=run)
    board.result(0, "wasm-1", posted(), run=run)
    with pytest.raises(Refused, match="in already"):
        board.result(0, "wasm-1", posted(samples_ms=[1.0]), run=run)
    assert board.rows[0, "wasm-1"].timing.samples_ms == (10.0, 11.0, 12.0)  # type: ignore[union-attr]


def test_latency_of_a_wrong_picture_is_not_kept(board: Board, job: BrowserJob) -> None:
    run = board.hello(hello(), address=HERE)["run"]
    board.output(0, "wasm-1", job.expected[::-1].tobytes(), run=run)
    board.result(0, "wasm-1", posted(), run=run)
    row = board.rows[0, "wasm-1"]
    assert (row.timing, row.failed) == (None, True)
    assert "not the artifact's" in str(row.reason)


def test_second_page_is_refused_while_one_measures(board: Board) -> None:
    board.hello(hello(), address=HERE)
    with pytest.raises(Refused, match="already"):
        board.hello(hello(), address=AWAY)


def test_reloaded_page_goes_on_where_it_was(board: Board, job: BrowserJob) -> None:
    run = board.hello(hello(), address=HERE)["run"]
    board.output(0, "wasm-1", job.expected.tobytes(), run=run)
    board.result(0, "wasm-1", posted(), run=run)
    again = board.hello(hello(resume=run), address=HERE)
    assert (again["run"], again["finished"]) == (run, ["0/wasm-1"])


def test_page_of_another_run_cannot_post(board: Board, job: BrowserJob) -> None:
    board.hello(hello(), address=HERE)
    with pytest.raises(Refused, match="not the one"):
        board.output(0, "wasm-1", job.expected.tobytes(), run="guess")


def test_what_is_missing_says_why(board: Board, job: BrowserJob) -> None:
    run = board.hello(hello(), address=HERE)["run"]
    board.output(0, "wasm-2", job.expected.tobytes(), run=run)
    board.result(0, "wasm-2", posted(), run=run)
    rows = board.report_rows("not measured: the session was interrupted")
    found = [(row.configuration.key, row.timing is None, row.reason) for row in rows]
    assert found == [("wasm-1", True, "not measured: the session was interrupted"), ("wasm-2", False, None)]


@pytest.mark.parametrize(
    ("changes", "note"),
    [({"samples_ms": [10.0, 10.0, 20.0, 20.0]}, "10%"), ({"output_stable": False}, "differs from the first")],
)
def test_doubtful_measurement_carries_a_note(board: Board, job: BrowserJob, changes: Any, note: str) -> None:
    run = board.hello(hello(), address=HERE)["run"]
    board.output(0, "wasm-1", job.expected.tobytes(), run=run)
    board.result(0, "wasm-1", posted(**changes), run=run)
    assert any(note in found for found in board.rows[0, "wasm-1"].notes)


def test_bucket_lets_through_no_more_than_it_holds() -> None:
    bucket = Bucket(rate=1e-9, size=3.0)
    assert [bucket.take() for _ in range(5)] == [True, True, True, False, False]


# ------------------------------------------------------------------------------------------------- code, runtime, tool
def test_code_on_the_terminal_is_the_address() -> None:
    segno = pytest.importorskip("segno", reason="segno is not installed")
    url = "http://192.0.2.7:8765/abc/"
    lines = qr_code(url).splitlines()
    # Two modules per character: upper and lower half. Light is drawn, dark is left out.
    halves = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}
    rows = [[halves[mark][half] for mark in line] for line in lines for half in (0, 1)]
    matrix = [list(row) for row in segno.make(url, error="l", micro=False).matrix]
    size = len(matrix)
    assert [row[2 : 2 + size] for row in rows[2 : 2 + size]] == matrix


def test_this_machines_addresses_hold_loopback() -> None:
    assert "127.0.0.1" in own_addresses()


def test_runtime_that_was_not_fetched_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match=r"-m apps\.profiling\.browser\.litertjs"):
        litertjs.load_runtime(tmp_path)


def test_archive_with_other_bytes_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    for package in litertjs.PACKAGES:
        with tarfile.open(tmp_path / package.archive, "w:gz") as archive:
            for inside in package.files:
                member = tarfile.TarInfo(f"package/{inside}")
                member.size = 4
                archive.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(DataError, match="as published"):
        litertjs.fetch_runtime(tmp_path / "cache" / "runtime", archives=tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_npm_is_named_with_the_way_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match=r"npm pack @litertjs/core@2\.5\.3 .*--from FOLDER"):
        litertjs.fetch_runtime(tmp_path / "runtime")


def test_missing_chromium_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(MissingToolError, match="apt-get install chromium"):
        find_chromium()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"backends": ("cuda",)}, "cuda"),
        ({"backends": ()}, "none"),
        ({"threads": (0,)}, "threads"),
        ({"runs": 0}, "runs"),
        ({"max_seconds": 0.0}, "within an hour"),
        ({"port": 70000}, "port"),
        ({"wait_s": 0.0}, "waiting"),
    ],
)
def test_impossible_wishes_are_refused(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        BrowserOptions(**arguments)
