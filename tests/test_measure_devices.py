"""Results by device: what is kept of each report, sections that replace only themselves, tables and chart from them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PillowImage

from apps.machine import describe_machine
from apps.profiling.browser.results import (
    BrowserDevice,
    BrowserReport,
    BrowserRow,
    BrowserTiming,
    Configuration,
    empty_row,
)
from apps.profiling.layer_results import OPERATOR_PROFILE, LayerCost, LayerProfile
from apps.profiling.roofline import RooflineReport, RooflineRow
from apps.progress import quiet
from apps.results import ProfileReport, ProfileRow, Timing
from converters.artifact import Artifact, load_artifact
from edge_sr.checkpoints import bundled_checkpoint, sha256_file
from edge_sr.errors import ConfigError, MissingToolError, RunnerError
from fakes import fake_artifact
from scripts import device_chart, device_sections, measure_devices, render_docs
from scripts.device_sections import QUICK, SECTIONS, Effort
from scripts.device_subjects import UNTRAINED, DeviceSubject

ROOT = Path(__file__).resolve().parent.parent
TABLES = ("devices", "device_details")
# Milliseconds that every simulated device takes, by scheme.
TAKES = {"fp32": 30.0, "w8a8": 10.0}


def timing(median_ms: float, *, threads: int = 1, runtime: str = "ai-edge-litert") -> Timing:
    """Ten equal runs, which no test calls noisy; the model adds 3 MB to a process of 5."""
    return Timing(
        threads=threads,
        load_ms=2.0,
        first_ms=40.0,
        warmup_runs=3,
        samples_ms=(median_ms,) * 10,
        peak_rss_bytes=8_000_000,
        base_rss_bytes=5_000_000,
        runtime=runtime,
        runtime_version="9.8.7",
    )


class FakeSubject(DeviceSubject):
    """A network whose artifacts are no models, in a folder that is named after it."""

    def artifact(self, target: str, scheme: str, *, tile: tuple[int, int] | None = None) -> Artifact:
        side = self.tile[0] if tile is None else tile[0]
        place = self.work / self.model / f"{target}_{scheme}_{side}"
        place.mkdir(parents=True, exist_ok=True)
        found = [path for path in place.iterdir() if path.name != "source"]
        return load_artifact(found[0] if found else fake_artifact(place, target, scheme=scheme))

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, "tile": list(self.tile), "parameters": 1234, "weights": self.weights}


def subjects(folder: Path) -> tuple[FakeSubject, FakeSubject]:
    return (
        FakeSubject(model="idsa_net_mobile", tile=(16, 16), work=folder, trained=True),
        FakeSubject(model="idsa_net", tile=(8, 8), work=folder, trained=False),
    )


def _profile_row(path: Path, threads: int, median_ms: float | None) -> ProfileRow:
    meta = load_artifact(path).meta
    runtime = {"tflite": "ai-edge-litert", "executorch": "executorch"}[meta.target]
    side = int(path.parent.name.rpartition("_")[2])
    return ProfileRow(
        artifact_path=path,
        model=path.parent.parent.name,
        scale=4,
        scheme=meta.scheme,
        target=meta.target,
        tile=(side, side),
        overlap=4,
        device="host",
        threads=threads,
        timing=None if median_ms is None else timing(median_ms, threads=threads, runtime=runtime),
        reason="it broke" if median_ms is None else None,
    )


def _fake_profile(paths: Sequence[Path], *, threads: Sequence[int] = (1,), **_: Any) -> ProfileReport:
    rows = [
        _profile_row(path, count, TAKES[load_artifact(path).meta.scheme] / count) for path in paths for count in threads
    ]
    return ProfileReport(rows=tuple(rows), device="host")


def browser_report(paths: Sequence[Path], *, kind: str = "headless on this host", ended: str = "complete") -> Any:
    facts = {"user_agent": "U", "hardware_concurrency": 2, "cross_origin_isolated": True, "clock_resolution_ms": 0.005}
    device = BrowserDevice(title="Headless Chromium 1.2 on this host", kind=kind, browser="B", address="A", facts=facts)
    rows = []
    for path in paths:
        artifact = load_artifact(path)
        empty = empty_row(artifact, "model.bin", Configuration(backend="wasm", threads=1))
        taken = BrowserTiming(
            **dict.fromkeys(("load_ms", "runtime_load_ms", "first_ms", "clock_resolution_ms"), 1.0),
            threads=1,
            warmup_runs=1,
            runs_per_sample=1,
            samples_ms=(2 * TAKES[artifact.meta.scheme],) * 10,
            runtime=empty.runtime,
            runtime_version=empty.runtime_version,
            runtime_build="simd",
        )
        fields = {name: getattr(empty, name) for name in empty.__dataclass_fields__}
        rows.append(BrowserRow(**{**fields, "model": path.parent.parent.name, "timing": taken}))
    return BrowserReport(device=device, rows=tuple(rows), ended=ended)


def layer_profile(path: Path, **_: Any) -> LayerProfile:
    """Three layers of 4, 3 and 1 ms of a whole of 10."""
    costs = (("a", "CONV_2D", 4.0, 8_000_000), ("b", "CONV_2D", 3.0, 3_000_000), ("c", "ADD", 1.0, 0))
    return LayerProfile(
        artifact_path=path,
        model=path.parent.parent.name,
        scheme=load_artifact(path).meta.scheme,
        target="tflite",
        tile=(16, 16),
        threads=1,
        method=OPERATOR_PROFILE,
        layers=tuple(
            LayerCost(name=name, kind=kind, kernel="", macs=macs, samples_ms=(cost,) * 7)
            for name, kind, cost, macs in costs
        ),
        total_samples_ms=(10.0,) * 7,
        macs=11_000_000,
    )


def _fake_roofline(paths: Sequence[Path], *, rounds: int, **_: Any) -> RooflineReport:
    rows = [
        RooflineRow(
            artifact_path=path,
            model="m",
            scheme="fp32",
            target="tflite",
            tile=(16, 16),
            threads=1,
            macs=4_000_000,
            peak_macs=(10_000_000, 30_000_000),
            round_ms=(2.0,) * rounds,
            round_peak_ms=((1.0, 3.0),) * rounds,
        )
        for path in paths
    ]
    return RooflineReport(rows=tuple(rows), rounds=rounds)


def _simulate(patch: pytest.MonkeyPatch) -> None:
    """Every device answers at once, with known numbers."""
    patch.setattr(device_sections, "profile_artifacts", _fake_profile)
    patch.setattr(device_sections, "profile_in_browser", lambda paths, **_: browser_report(paths))
    patch.setattr(device_sections, "profile_layers", layer_profile)
    patch.setattr(device_sections, "measure_roofline", _fake_roofline)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """No real device in this test."""
    _simulate(monkeypatch)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The whole file, as a measurement leaves it."""
    folder = tmp_path_factory.mktemp("measured")
    path = folder / "devices_x4.json"
    with pytest.MonkeyPatch.context() as patch:
        _simulate(patch)
        effort = Effort(threads=(1, 2), tile_sides=(16, 8))
        assert measure_devices.measure(list(SECTIONS), subjects(folder), effort, path, quick=False) == []
    return path.read_text(encoding="utf-8")


@pytest.fixture
def result(measured: str) -> dict[str, Any]:
    """The same, for one test to change."""
    found: dict[str, Any] = json.loads(measured)
    return found


# ------------------------------------------------------------------------------------------------------ what is kept
def test_float_and_int8_stand_side_by_side_with_their_ratio(result: dict[str, Any]) -> None:
    rows = result["host"]["rows"]
    named = [(row["model"], row["title"], row["threads"]) for row in rows]
    runtimes = [(title, threads) for title in ("LiteRT 9.8.7", "ExecuTorch 9.8.7") for threads in (1, 2)]
    assert named == [(model, *runtime) for model in ("idsa_net_mobile", "idsa_net") for runtime in runtimes]
    assert {row["ratio"] for row in rows} == {3.0}
    assert [row["w8a8"]["timing"]["median_ms"] for row in rows] == [10.0, 5.0] * 4
    assert {row["backend"] for row in rows} == {"CPU, XNNPACK"}
    assert result["browser"]["rows"][0]["fp32"]["timing"]["median_ms"] == 60.0
    assert "samples_ms" not in rows[0]["fp32"]["timing"]


def test_no_ratio_where_one_of_two_was_not_measured(tmp_path: Path) -> None:
    (subject, _) = subjects(tmp_path)
    artifacts = subject.artifacts(("tflite",))
    rows = [_profile_row(artifacts[0].path, 1, None), _profile_row(artifacts[1].path, 1, 10.0)]
    (line,) = device_sections.paired([device_sections._host_row(row, artifacts) for row in rows])
    assert line["ratio"] is None
    assert line["fp32"] == {"timing": None, "reason": "it broke"}
    assert line["title"] == "LiteRT 9.8.7"


@pytest.mark.parametrize(
    ("kind", "ended", "said"), [("phone", "complete", "Headless"), ("headless on this host", "timeout", "timeout")]
)
def test_only_a_complete_session_of_a_headless_browser_is_kept(
    tmp_path: Path, kind: str, ended: str, said: str
) -> None:
    (subject, _) = subjects(tmp_path)
    paths = [artifact.path for artifact in subject.artifacts(("tflite",))]
    with pytest.raises(RunnerError, match=said):
        device_sections.browser_section(browser_report(paths, kind=kind, ended=ended))


def test_layers_are_kept_by_kind_and_dearest_first(result: dict[str, Any]) -> None:
    kept = result["layers"]["rows"][0]
    assert [(kind["kind"], kind["layers"], kind["ms"], kind["share_percent"]) for kind in kept["kinds"]] == [
        ("CONV_2D", 2, 7.0, pytest.approx(70.0)),
        ("ADD", 1, 1.0, pytest.approx(10.0)),
    ]
    assert (kept["residual_ms"], kept["residual_percent"]) == (pytest.approx(2.0), pytest.approx(20.0))
    # 8 MMACs in 4 ms are 2 GMAC/s.
    assert [(layer["name"], layer["gmacs_per_second"]) for layer in kept["dearest"]] == [
        ("a", pytest.approx(2.0)),
        ("b", pytest.approx(1.0)),
        ("c", None),
    ]


def test_a_tile_is_planned_with_its_own_time_overlap_and_memory(tmp_path: Path) -> None:
    (subject, _) = subjects(tmp_path)
    report = ProfileReport(rows=(_profile_row(subject.artifact("tflite", "w8a8").path, 1, 10.0),), device="host")
    (row,) = device_sections.tile_rows(report, (20, 30))
    # Tiles of 16 go on by 12: two over 20 rows, and three over 30 columns (16, 28, 40).
    assert row["tiles"] == 6
    assert row["computed_share"] == pytest.approx(6 * 16 * 16 / 600)
    assert row["seconds"] == pytest.approx(0.06)
    assert row["model_bytes"] == 3_000_000
    # Three bytes a pixel: the LR picture, and three times the 64 rows of 120 that a row of tiles gives.
    assert row["memory_bytes"] == 3_000_000 + 3 * 600 + 3 * 3 * 64 * 120


def test_a_tile_without_latency_is_an_error(tmp_path: Path) -> None:
    (subject, _) = subjects(tmp_path)
    report = ProfileReport(rows=(_profile_row(subject.artifact("tflite", "w8a8").path, 1, None),), device="host")
    with pytest.raises(RunnerError, match="it broke"):
        device_sections.tile_rows(report, (20, 30))


# ---------------------------------------------------------------------------------------------------------- the file
def test_a_section_replaces_only_itself(tmp_path: Path, simulated: None) -> None:
    path = tmp_path / "devices_x4.json"
    path.write_text(json.dumps({"browser": {"rows": "as before"}, "host": {"rows": "old"}}))
    assert measure_devices.measure(["host"], subjects(tmp_path), QUICK, path, quick=True) == []
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["browser"] == {"rows": "as before"}
    assert len(content["host"]["rows"]) == 4
    assert content["host"]["kind"] == "this host"
    for name in ("created", "command", "machine", "versions", "networks", "load_average_at_start"):
        assert content["host"][name], name
    assert content["host"]["quick"] is True


def test_a_missing_browser_does_not_cost_the_other_sections(
    tmp_path: Path, simulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(paths: Sequence[Path], **_: Any) -> BrowserReport:
        raise MissingToolError("no Chromium")

    monkeypatch.setattr(device_sections, "profile_in_browser", missing)
    path = tmp_path / "devices_x4.json"
    failures = measure_devices.measure(["browser", "layers"], subjects(tmp_path), QUICK, path, quick=True)
    assert failures == ["browser: no Chromium"]
    assert list(json.loads(path.read_text(encoding="utf-8"))) == ["layers"]


@pytest.mark.parametrize(("load", "expected"), [(0.4, False), (0.6, True), (None, None)])
def test_a_machine_is_busy_from_a_quarter_of_its_cores_on(load: float | None, expected: bool | None) -> None:
    from dataclasses import replace

    assert measure_devices.busy(replace(describe_machine(), load_average=load, logical_cores=2)) is expected


def test_a_trial_is_never_written_among_the_results(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trial"):
        measure_devices.main(["--quick", "--work", str(tmp_path), "--out", str(ROOT / "results" / "devices_x4.json")])
    with pytest.raises(ConfigError, match="roof"):
        measure_devices.main(["roof", "--work", str(tmp_path)])


# ---------------------------------------------------------------------------------------------------- tables and chart
def _rendered(facts: dict[str, Any] | None) -> dict[str, str]:
    facts = {"devices_x4": facts}
    return {name: render_docs.render(f"<!-- table: {name} -->\n<!-- end: {name} -->", facts) for name in TABLES}


def _tables_are_whole(text: str) -> bool:
    """Whether every line of every table has as many cells as its head."""
    blocks = [block.splitlines() for block in text.split("\n\n")]
    rows = [[line for line in block if line.startswith("|")] for block in blocks]
    return all(len({line.count("|") for line in block}) <= 1 and len(block) != 1 for block in rows)


@pytest.mark.parametrize("facts", [None, {}])
def test_nothing_measured_is_said(facts: dict[str, Any] | None) -> None:
    tables = _rendered(facts)
    assert tables["devices"] == "<!-- table: devices -->\nNot measured yet.\n<!-- end: devices -->"
    assert tables["device_details"].count("Not measured yet.") == 3


def test_tables_show_what_was_measured_and_on_what(result: dict[str, Any]) -> None:
    tables = _rendered(result)
    assert _tables_are_whole(tables["devices"])
    assert _tables_are_whole(tables["device_details"])
    line = "| `idsa_net` 8x8 | host | ExecuTorch 9.8.7, CPU, XNNPACK | 2 | 15.0 ms (0%) | 5.0 ms (0%) | 3.00 |"
    assert line in tables["devices"]
    assert "| `idsa_net` 16x16 | headless browser on the host | LiteRT.js" in tables["devices"]
    assert "Headless Chromium 1.2 on this host" in tables["devices"]
    assert UNTRAINED in tables["devices"]
    assert "Not measured" not in tables["devices"] + tables["device_details"]
    conv = "| CONV_2D |" + " 7.00 ms in 2 (70%) |" * 4
    assert conv in tables["device_details"]
    # 4 MMACs in 2 ms beside 20 in 2: one fifth.
    assert "| 1 | 0.004 | 2 | 10 | 20% | 20% … 20% |" in tables["device_details"]


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_each_section_can_stand_alone_in_the_documents(result: dict[str, Any], name: str) -> None:
    tables = _rendered({name: result[name]})
    shown = tables["devices"] if name in ("host", "browser") else tables["device_details"]
    assert result[name]["machine"]["cpu_model"] in shown


def test_a_busy_machine_a_trial_and_a_reason_are_said(result: dict[str, Any]) -> None:
    host = result["host"]
    host |= {"busy_at_start": True, "load_average_at_start": 1.5, "quick": True}
    host["rows"][0]["fp32"] = {"timing": None, "reason": "it broke"}
    host["rows"][0]["ratio"] = None
    text = _rendered(result)["devices"]
    assert "busy when that began (load 1.5)" in text
    assert "A quick trial" in text
    assert "| 1 | – | 10.0 ms (0%) | – |" in text
    assert "Not measured: idsa_net_mobile fp32 in LiteRT 9.8.7, 1 thread, on the host: it broke." in text


def test_chart_shows_every_measured_bar_and_names_its_device(result: dict[str, Any]) -> None:
    shown = device_chart.panels(result)
    assert [panel.title for panel in shown] == [
        "idsa_net_mobile x4, 16x16 LR pixels",
        "idsa_net x4, 8x8 LR pixels",
        # The simulated browser's artifacts have their own tile.
        "idsa_net x4, 16x16 LR pixels",
    ]
    first = shown[0].lines
    assert [line.label for line in first[:2]] == ["LiteRT 9.8.7, 1 thread\nhost", "LiteRT 9.8.7, 2 threads\nhost"]
    assert first[-1].label.endswith("headless browser on the host")
    assert [(bar.scheme, bar.median_ms, bar.quartiles_ms) for bar in first[1].bars] == [
        ("fp32", 15.0, (15.0, 15.0)),
        ("w8a8", 5.0, (5.0, 5.0)),
    ]


def test_chart_is_a_small_picture_that_knows_its_values(result: dict[str, Any], tmp_path: Path) -> None:
    source, out = tmp_path / "result.json", tmp_path / "devices.png"
    source.write_text(json.dumps(result))
    assert device_chart.main(["--result", str(source), "--out", str(out)]) == 0
    assert out.stat().st_size < 100_000
    picture = PillowImage.open(io.BytesIO(out.read_bytes()))
    assert picture.text[device_chart.DIGEST_KEY] == device_chart.digest(device_chart.panels(result))
    result["host"]["rows"][0]["fp32"]["timing"]["median_ms"] = 31.0
    assert picture.text[device_chart.DIGEST_KEY] != device_chart.digest(device_chart.panels(result))


def test_without_a_result_there_is_no_chart(tmp_path: Path) -> None:
    out = tmp_path / "devices.png"
    assert device_chart.main(["--result", str(tmp_path / "none.json"), "--out", str(out)]) == 0
    assert not out.exists()
    with pytest.raises(ConfigError, match="got none"):
        device_chart.panels({"layers": {}})


# ------------------------------------------------------------------------------------------------ what is committed
def test_the_committed_result_is_no_trial_says_of_which_weights_it_is_and_the_chart_is_its_own() -> None:
    result = render_docs.load_results()["devices_x4"]
    if result is None:
        assert not device_chart.CHART.exists(), "a chart without results; measure, or remove it"
        return
    bundled = sha256_file(bundled_checkpoint("idsa_net_mobile", 4, "fp32"))
    texts = [path.read_text(encoding="utf-8") for path in render_docs.documents()]
    for name, part in result.items():
        assert name in SECTIONS
        assert part["quick"] is False, f"{name} is a trial; measure again"
        measured = part["networks"][0]["checkpoint_sha256"]["fp32"]
        note = f"`idsa_net_mobile` is **measured on earlier weights** (`{measured[:8]}`)"
        assert measured == bundled or any(note in text for text in texts), f"{name} does not say of which weights it is"
    picture = PillowImage.open(device_chart.CHART)
    assert picture.text[device_chart.DIGEST_KEY] == device_chart.digest(device_chart.panels(result)), "run make docs"


# ------------------------------------------------------------------------------------------------- real, on one block
@pytest.mark.slow
def test_an_untrained_network_is_exported_and_its_layers_and_tiles_are_measured(tmp_path: Path) -> None:
    config = {"channels": 8, "blocks": 1, "distilled": 4}
    tiny = DeviceSubject(model="idsa_net_mobile", tile=(16, 16), work=tmp_path, trained=False, config=config)
    effort = Effort(runs=3, max_seconds=0.2, tile_sides=(16,), tile_seconds=0.2)
    path = tmp_path / "devices_x4.json"
    artifacts = tiny.artifacts(("tflite",))
    assert [artifact.meta.scheme for artifact in artifacts] == ["fp32", "w8a8"]
    assert artifacts[1].meta.calibration_sha256 is not None
    assert any(UNTRAINED in note for note in artifacts[0].meta.notes)
    written = (artifacts[0].path / "artifact.json").stat().st_mtime_ns
    for name in ("layers", "tiles"):
        content = SECTIONS[name]((tiny,), effort, quiet)
        start = describe_machine()
        measure_devices.write_section(path, name, content, subjects=(tiny,), start=start, quick=True)
    assert (artifacts[0].path / "artifact.json").stat().st_mtime_ns == written, "it was exported twice"
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["layers"]["networks"][0]["weights"] == UNTRAINED
    assert all(row["total_ms"] > 0 and row["dearest"] for row in result["layers"]["rows"])
    assert [row["scheme"] for row in result["tiles"]["rows"]] == ["fp32", "w8a8"]
    assert all(row["model_bytes"] > 0 for row in result["tiles"]["rows"])
    assert "A quick trial" in _rendered(result)["device_details"]
