"""Profiling in a browser, end to end: the server's doors, and headless Chromium that runs the artifacts' own files."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devtools import chromium_page

import apps.profiling.browser.server
from apps.history import store as history
from apps.profiling.browser import session
from apps.profiling.browser.addresses import lan_addresses
from apps.profiling.browser.board import Board, Plan
from apps.profiling.browser.chromium import find_chromium
from apps.profiling.browser.jobs import BrowserJob
from apps.profiling.browser.litertjs import load_runtime
from apps.profiling.browser.results import BrowserReport, BrowserRow
from apps.profiling.browser.server import PageServer
from apps.profiling.browser.session import BrowserOptions, profile_in_browser
from apps.profiling.browser_view import print_browser
from converters.artifact import load_artifact
from converters.export import export_artifact
from converters.runners import open_runner
from edge_sr.errors import ConfigError, MissingToolError
from edge_sr.networks import create_network
from fakes import fake_artifact
from quantization.calibration import calibrate
from quantization.fake_quant import Mode
from quantization.quantizer import prepare

TILE = (32, 32)
QUICK = BrowserOptions(
    open_page=False, backends=("wasm",), threads=(1,), runs=6, max_seconds=2.0, wait_s=90.0, silence_s=90.0
)


def _quietly(_: str) -> None:
    pass


# -------------------------------------------------------------------------------------------------------- the server
@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    artifact = load_artifact(fake_artifact(tmp_path))
    io_variant = next(iter(artifact.meta.io.values()))
    job = BrowserJob(
        artifact=artifact,
        file="model.bin",
        io=io_variant,
        model=b"the model",
        tile=np.zeros((1, 2, 3), np.uint8),
        tile_name="two pixels",
        expected=np.zeros((4, 8, 3), np.uint8),
        reference="arithmetic",
    )
    plan = Plan(backends=("wasm",), threads=(1,), runs=5, max_seconds=1.0, autostart=False)
    board = Board(jobs=[job], plan=plan, own_addresses=frozenset({"127.0.0.1"}), secure_url=False)
    made = PageServer(("127.0.0.1", 0), board, {"index.js": b"//", "litert.wasm": b"\0asm"})
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def ask(
    server: PageServer, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in {"Content-Length": str(len(body or b"")), **(headers or {})}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


@contextmanager
def connected(server: PageServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        yield connection


def test_only_so_many_connections_are_held_and_a_place_that_is_left_is_given_again(
    server: PageServer,
) -> None:
    # Not put back by a fixture: the last connection gives its place back later than the test ends.
    server._places = threading.BoundedSemaphore(2)
    request = f"GET /{server.token}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with connected(server) as first, connected(server) as second:
        for connection in (first, second):
            connection.sendall(request)
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
        with connected(server) as third:
            assert third.recv(1) == b""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with connected(server) as later:
            later.sendall(request)
            with suppress(ConnectionError):
                if later.recv(15) == b"HTTP/1.1 200 OK":
                    return
    pytest.fail("no place was given again")


def test_a_request_that_drips_is_ended(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apps.profiling.browser.server, "_REQUEST_SECONDS", 0.5)
    with connected(server) as connection, suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        connection.settimeout(0.05)
        for _ in range(400):  # each byte within the time that a socket waits for one
            connection.sendall(b"x")
            with suppress(TimeoutError):
                assert connection.recv(1) == b""
                return
        pytest.fail("it was never ended")


def test_headers_without_end_are_not_read(server: PageServer) -> None:
    with connected(server) as connection, suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(200):  # 90 headers of 60 kB are what Python's own server would take
            connection.sendall(b"X: " + 60_000 * b"x" + b"\r\n")
        pytest.fail("twelve megabytes of headers were taken")


def test_page_is_isolated_and_takes_nothing_from_elsewhere(server: PageServer) -> None:
    status, headers, body = ask(server, "GET", f"/{server.token}/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert b"://" not in body


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("page.js", "text/javascript; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("runtime/litert.wasm", "application/wasm"),
        ("model/0", "application/octet-stream"),
    ],
)
def test_everything_has_its_type(server: PageServer, path: str, kind: str) -> None:
    status, headers, _ = ask(server, "GET", f"/{server.token}/{path}")
    assert (status, headers["Content-Type"]) == (200, kind)


@pytest.mark.parametrize(
    "change", [lambda t: "", lambda t: t[:-1], lambda t: t + "x", lambda t: "%C3%A4", lambda t: t.swapcase()]
)
def test_nothing_is_told_without_the_token(server: PageServer, change: Callable[[str], str]) -> None:
    for method, path in (("GET", ""), ("GET", "model/0"), ("POST", "hello")):
        status, _, body = ask(server, method, f"/{change(server.token)}/{path}")
        assert status == 404
        assert server.token.encode() not in body


def test_token_of_other_letters_is_no_error_of_the_server(server: PageServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall("GET /ä/ HTTP/1.0\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    "path",
    [
        "../pyproject.toml",
        "%2e%2e/%2e%2e/etc/passwd",
        "runtime/../../server.py",
        "runtime/..%2f..%2fserver.py",
        "model/0/../../artifact.json",
        "model/-1",
        "model/1",
        "artifact.json",
        "index.html",
        "/etc/passwd",
        "..\\server.py",
    ],
)
def test_only_what_the_page_needs_is_served(server: PageServer, path: str) -> None:
    assert ask(server, "GET", f"/{server.token}/{path}")[0] == 404


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        ("hello", "524289", 413),
        ("hello", "9" * 30, 413),
        ("output/0/wasm-1", "97", 413),  # 4 x 8 x 3 values are expected
        ("hello", "-1", 411),
        ("hello", "many", 411),
    ],
)
def test_too_long_a_message_is_refused_before_it_is_read(
    server: PageServer, path: str, length: str, status: int
) -> None:
    # Nothing of the body is sent: an answer proves that the server did not wait for it.
    found, headers, _ = ask(server, "POST", f"/{server.token}/{path}", headers={"Content-Length": length})
    assert (found, headers["Connection"]) == (status, "close")


def test_message_of_unknown_length_is_refused(server: PageServer) -> None:
    status, _, _ = ask(server, "POST", f"/{server.token}/hello", headers={"Transfer-Encoding": "chunked"})
    assert status == 411


def test_bad_message_is_answered_with_the_fields_name(server: PageServer) -> None:
    status, _, body = ask(server, "POST", f"/{server.token}/hello", b'{"user_agent": 1}')
    assert status == 400
    assert "user_agent" in json.loads(body)["error"]


def test_post_before_hello_is_refused(server: PageServer) -> None:
    assert ask(server, "POST", f"/{server.token}/output/0/wasm-1", bytes(96))[0] == 409


def test_flood_of_messages_is_refused(server: PageServer) -> None:
    found = [ask(server, "POST", f"/{server.token}/progress", b"{}")[0] for _ in range(150)]
    assert found[0] == 400
    assert 429 in found


# ------------------------------------------------------------------------------------------------------- the session
@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny network, float and int8, as the real toolchain writes it."""
    pytest.importorskip("litert_torch", reason="litert-torch is not installed")
    pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    torch.manual_seed(0)
    network = create_network("idsa_net_mobile", 4, channels=8, blocks=1, distilled=4).eval()
    torch.nn.init.normal_(network.up.weight, std=0.05)
    deployed = network.deployed()
    quantized = prepare(deployed, "w8a8")
    generator = torch.Generator().manual_seed(1)
    calibrate(quantized, [torch.rand((2, 3, *TILE), generator=generator), torch.ones(1, 3, *TILE)])
    quantized.set_mode(Mode.QUANTIZE)
    out_dir = tmp_path_factory.mktemp("browser")
    return {
        scheme: export_artifact(
            network=own, scheme=scheme, target="tflite", tile=TILE, out_dir=out_dir, checkpoint_sha256="ab" * 32
        ).path
        for scheme, own in (("fp32", deployed), ("w8a8", quantized))
    }


@pytest.fixture(scope="module")
def runtime() -> None:
    try:
        load_runtime()
    except MissingToolError as error:
        pytest.skip(f"LiteRT.js is missing: {error}")


@pytest.fixture(scope="module")
def chromium(runtime: None) -> None:
    try:
        find_chromium()
    except MissingToolError as error:
        pytest.skip(f"Chromium is missing: {error}")


@pytest.fixture(scope="module")
def lan() -> str:
    addresses = lan_addresses()
    if not addresses:
        pytest.skip("a network interface other than loopback is missing")
    return addresses[0]


def by_name(report: BrowserReport) -> dict[tuple[str, str], BrowserRow]:
    return {(row.scheme, row.configuration.key): row for row in report.rows}


@pytest.fixture(scope="module")
def wasm_report(artifacts: dict[str, Path], chromium: None) -> BrowserReport:
    options = replace(QUICK, headless=True, threads=(1, 2))
    return profile_in_browser(list(artifacts.values()), options=options, announce=_quietly)


def test_every_artifact_is_measured_with_one_and_with_two_threads(wasm_report: BrowserReport) -> None:
    rows = by_name(wasm_report)
    assert wasm_report.ended == "complete"
    assert set(rows) == {(scheme, key) for scheme in ("fp32", "w8a8") for key in ("wasm-1", "wasm-2")}
    for row in rows.values():
        assert row.reason is None
        assert row.timing is not None
        # Ten thousand times less than a hang, more than a clock that stands still.
        assert len(row.timing.samples_ms) == 6
        assert all(0.0 < sample < 2000.0 for sample in row.timing.samples_ms)
        assert row.timing.runs_per_sample * row.timing.median_ms > 0.0
        threaded = row.configuration.threads > 1
        assert row.timing.runtime_build == ("litert_wasm_threaded_internal" if threaded else "litert_wasm_internal")


def test_int8_picture_is_bit_equal_and_float_is_equal_to_a_millionth(wasm_report: BrowserReport) -> None:
    for (scheme, _), row in by_name(wasm_report).items():
        assert row.numerics is not None
        assert row.file == {"fp32": "model.tflite", "w8a8": "model_uint8_io.tflite"}[scheme]
        assert row.numerics.bit_equal if scheme == "w8a8" else row.numerics.within_1e_6


def test_host_browser_is_never_shown_as_a_phone(wasm_report: BrowserReport) -> None:
    assert wasm_report.device is not None
    assert wasm_report.device.kind == "headless on this host"
    assert wasm_report.device.title.startswith("Headless Chromium")
    assert wasm_report.device.title.endswith("on this host")
    facts = wasm_report.to_json()["device_info"]["facts"]
    assert facts["cross_origin_isolated"] is True
    assert "HeadlessChrome" in facts["user_agent"]


def test_table_shows_device_medians_and_verdicts(
    wasm_report: BrowserReport, capsys: pytest.CaptureFixture[str]
) -> None:
    print_browser(wasm_report)
    shown = capsys.readouterr().out
    assert "Headless Chromium" in shown
    assert shown.count("bit-equal to the computer") == 2
    assert "WebAssembly, 2 threads" in shown


def test_webgpu_in_software_computes_the_right_picture_and_says_so(artifacts: dict[str, Path], chromium: None) -> None:
    options = replace(QUICK, headless=True, backends=("webgpu",), runs=3, max_seconds=1.0)
    report = profile_in_browser([artifacts["fp32"]], options=options, announce=_quietly)
    rows = by_name(report)
    row = rows["fp32", "webgpu-fp32"]
    assert row.numerics is not None, row.reason
    assert row.numerics.agrees
    assert row.timing is not None
    assert row.timing.fully_accelerated is True
    assert any("software" in note for note in row.notes)
    assert report.device is not None
    assert report.device.facts["webgpu"]["architecture"] == "swiftshader"
    assert rows["fp32", "webgpu-fp16"].timing is None


def test_wrong_picture_is_found_and_its_latency_dropped(
    artifacts: dict[str, Path], chromium: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_job = session.prepare_job

    def planted(artifact: Any) -> BrowserJob:
        job = prepare_job(artifact)
        return replace(job, expected=np.ascontiguousarray(job.expected[:, ::-1]))

    monkeypatch.setattr(session, "prepare_job", planted)
    report = profile_in_browser([artifacts["w8a8"]], options=replace(QUICK, headless=True), announce=_quietly)
    row = report.rows[0]
    assert (row.timing, row.failed, report.ended) == (None, True, "complete")
    assert "wrong picture" in str(row.reason)


def test_plain_http_in_a_network_measures_one_thread_on_a_coarse_clock(
    artifacts: dict[str, Path], chromium: None, lan: str
) -> None:
    said: list[str] = []
    options = replace(QUICK, lan=True, headless=True, threads=(1, 2), backends=("wasm", "webgpu"))
    report = profile_in_browser([artifacts["w8a8"]], options=options, announce=said.append)
    text = "\n".join(said)
    assert f"http://{lan}:" in text
    assert "█" in text
    assert "adb reverse" in text
    rows = by_name(report)
    timing = rows["w8a8", "wasm-1"].timing
    assert timing is not None
    assert timing.clock_resolution_ms > 0.05
    # A batch lasts at least twenty ticks, or its runs were long enough one by one.
    assert timing.runs_per_sample * timing.median_ms > 10 * timing.clock_resolution_ms
    assert "isolated" in str(rows["w8a8", "wasm-2"].reason)
    assert "secure" in str(rows["w8a8", "webgpu-fp32"].reason)
    assert not any(row.failed for row in report.rows)
    assert report.device is not None
    assert any("--https" in hint for hint in report.device.hints)


def test_https_gives_a_device_in_the_network_threads(artifacts: dict[str, Path], chromium: None, lan: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing")
    said: list[str] = []
    options = replace(QUICK, lan=True, https=True, headless=True, threads=(2,))
    report = profile_in_browser([artifacts["w8a8"]], options=options, announce=said.append)
    assert report.rows[0].timing is not None, report.rows[0].reason
    assert report.device is not None
    assert report.device.facts["cross_origin_isolated"] is True
    assert any(f"https://{lan}:" in line for line in said)
    assert any("SHA-256" in line for line in said)


def test_page_waits_for_the_start_and_shows_picture_and_numbers(artifacts: dict[str, Path], chromium: None) -> None:
    urls: list[str] = []
    reports: list[BrowserReport] = []
    announced = threading.Event()

    def announce(line: str) -> None:
        if line.startswith("open this address"):
            urls.append(line.split()[-1])
            announced.set()

    def work() -> None:
        reports.append(profile_in_browser([artifacts["w8a8"]], options=QUICK, announce=announce))

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    assert announced.wait(60)
    with chromium_page() as page:
        page.open(urls[0])
        page.wait_for("document.getElementById('start') && !document.getElementById('start').hidden")
        assert reports == []
        page.ask("document.getElementById('start').click()")
        assert page.wait_for("document.documentElement.dataset.finished") == "yes"
        row = page.ask("document.querySelector('.row').innerText")
        median = page.ask("parseFloat(document.querySelector('.row .value').innerText)")
        assert page.ask("[after.width, after.height, before.width]") == [128, 128, 32]
        # The result's canvas holds the network's own picture, pixel by pixel.
        shown = page.ask("Array.from(after.getContext('2d').getImageData(0, 0, 128, 1).data)")
        width = page.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    worker.join(30)
    assert reports[0].rows[0].timing is not None
    assert "bit-equal to the computer" in row
    # Three digits are shown, two of them after the point below 10 ms.
    assert median == pytest.approx(reports[0].rows[0].timing.median_ms, rel=0.005, abs=0.006)
    assert width, "the page scrolls sideways"
    artifact = load_artifact(artifacts["w8a8"])
    expected = open_runner(artifact).run(session.prepare_job(artifact).tile)[0]
    assert np.array_equal(np.reshape(shown, (128, 4))[:, :3], expected)


def test_session_ends_by_itself_where_no_browser_comes(artifacts: dict[str, Path], runtime: None) -> None:
    options = replace(QUICK, wait_s=0.3, silence_s=0.3)
    report = profile_in_browser([artifacts["w8a8"]], options=options, announce=_quietly)
    assert (report.ended, report.device) == ("timeout", None)
    assert [row.reason for row in report.rows] == ["not measured: no browser came"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_session_keeps_its_rows(artifacts: dict[str, Path], runtime: None, number: signal.Signals) -> None:
    def announce(line: str) -> None:
        if line.startswith("Ctrl-C"):
            threading.Timer(0.5, os.kill, (os.getpid(), number)).start()

    report = profile_in_browser([artifacts["w8a8"]], options=QUICK, announce=announce)
    assert report.ended == "interrupted"
    assert [row.reason for row in report.rows] == ["not measured: the session was interrupted"]


def test_loopback_only_unless_the_network_is_asked_for(artifacts: dict[str, Path], runtime: None, lan: str) -> None:
    reached: dict[bool, bool] = {}
    for in_network in (False, True):

        def announce(line: str, in_network: bool = in_network) -> None:
            if line.startswith("open this address"):
                port = int(line.rsplit(":", 1)[1].split("/")[0])
                connection = http.client.HTTPConnection(lan, port, timeout=5)
                try:
                    connection.connect()
                    reached[in_network] = True
                except OSError:
                    reached[in_network] = False
                finally:
                    connection.close()

        options = replace(QUICK, lan=in_network, wait_s=0.2, silence_s=0.2)
        profile_in_browser([artifacts["w8a8"]], options=options, announce=announce)
    assert reached == {False: False, True: True}


def test_port_in_use_is_one_clear_line(artifacts: dict[str, Path], runtime: None, server: PageServer) -> None:
    with pytest.raises(ConfigError, match="--port"):
        profile_in_browser([artifacts["w8a8"]], options=replace(QUICK, port=server.port), announce=_quietly)


def test_command_measures_prints_saves_and_keeps_a_history(
    artifacts: dict[str, Path], chromium: None, tmp_path: Path, edge_sr_command: Path
) -> None:
    command = [str(edge_sr_command), "profile", str(artifacts["w8a8"]), "--device", "browser", "--headless"]
    command += ["--backend", "wasm", "--threads", "1", "--runs", "5", "--max-seconds", "1"]
    command += ["--json", str(tmp_path / "browser.json"), "--history", str(tmp_path / "history.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Headless Chromium" in done.stdout
    saved = json.loads((tmp_path / "browser.json").read_text(encoding="utf-8"))
    assert saved["kind"] == "edge-sr/profile-browser"
    assert len(saved["rows"][0]["timing"]["samples_ms"]) == 5
    kept = history.read(tmp_path / "history.sqlite")
    assert [(one.device_kind, one.backend, len(one.samples_ms)) for one in kept] == [("browser", "wasm", 5)]
    assert kept[0].device.startswith("Headless Chromium")
