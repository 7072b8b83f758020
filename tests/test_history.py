"""History: nothing is lost, nothing is kept twice, and a verdict needs evidence."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from apps.cli import main
from apps.history import database
from apps.history.collect import append_profile, append_verify, artifact_digest
from apps.history.compare import compare, parse_selector
from apps.history.history_view import compare_chart, history_chart, print_history
from apps.history.measurement import ACCURACY, Measurement
from apps.history.ratio import FASTER, SLOWER, UNDECIDED, UNKNOWN, ratio_of_medians, verdict_of
from apps.history.store import Filter, append, export_lines, history_path, import_lines, read
from apps.results import ProfileReport, ProfileRow, Timing
from apps.verification.rows import VerifyRow
from converters.artifact import load_artifact
from edge_sr.errors import ConfigError, DataError
from edge_sr.evaluation import ImageScore, SetScore
from fakes import FAKE_MEASUREMENT, fake_artifact

A_HASH, B_HASH = "a" * 64, "b" * 64


def samples(median: float, seed: int, count: int = 40) -> tuple[float, ...]:
    """Latencies around ``median``, skewed to the slow side as real ones are."""
    noise = np.random.default_rng(seed).gamma(2.0, 0.01 * median, count)
    return tuple(float(value) for value in median + noise)


def measured(
    name: str = "net_fp32",
    median: float = 10.0,
    *,
    seed: int = 0,
    sha256: str = A_HASH,
    created: str = "2026-01-01T12:00:00+00:00",
    device: str = "a processor",
    threads: int = 1,
) -> Measurement:
    return replace(
        FAKE_MEASUREMENT,
        created=created,
        artifact_name=name,
        artifact_sha256=sha256,
        scheme="fp32",
        device=device,
        threads=threads,
        samples_ms=samples(median, seed),
    )


def scored(psnr: float, *, created: str, name: str = "net_fp32", sha256: str = A_HASH) -> Measurement:
    latency = measured(name, sha256=sha256, created=created)
    return replace(latency, kind=ACCURACY, samples_ms=(), set_name="Set5", psnr_y_db=psnr, ssim=0.9, images=5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "history.sqlite3"


# ------------------------------------------------------------------------------------------------------------- file
def test_what_is_read_is_what_was_appended(file: Path) -> None:
    kept = [measured(), scored(31.5, created="2026-01-02T00:00:00+00:00")]
    assert append(kept, file) == 2
    assert list(read(file)) == kept


def test_the_same_measurement_is_kept_once(file: Path) -> None:
    assert append([measured()], file) == 1
    assert append([measured(), measured(seed=1)], file) == 1
    assert len(read(file)) == 2


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), {1, 2, 3}),
        (Filter(artifact="net_fp32"), {1, 3}),
        (Filter(artifact="net_*"), {1, 2, 3}),
        (Filter(artifact="bbbbbb"), {2}),
        (Filter(artifact="bbbbb"), set()),  # too short for a hash, and no such name
        (Filter(device="PHONE"), {3}),
        (Filter(device="host", threads=2), {2}),
        (Filter(model="other"), set()),
        (Filter(since="2026-01-02"), {2, 3}),
        (Filter(until="2026-01-02"), {1, 2}),
        (Filter(since="2026-01-02T12:00:00+00:00", until="2026-01-02T12:00:00+00:00"), {2}),
    ],
)
def test_filters(wanted: Filter, expected: set[int], file: Path) -> None:
    one = measured(created="2026-01-01T12:00:00+00:00")
    two = measured("net_w8a8", sha256=B_HASH, threads=2, created="2026-01-02T12:00:00+00:00")
    three = measured(device="A Phone", created="2026-01-03T12:00:00+00:00")
    numbers = {one.fingerprint: 1, two.fingerprint: 2, three.fingerprint: 3}
    append([three, one, two], file)
    assert {numbers[found.fingerprint] for found in read(file, wanted)} == expected
    assert [found.created for found in read(file)] == sorted(found.created for found in read(file))


def test_json_lines_make_the_same_history_elsewhere(file: Path, tmp_path: Path) -> None:
    append(
        [measured(seed=seed) for seed in range(3)] + [scored(float("inf"), created="2026-01-02T00:00:00+00:00")], file
    )
    lines, other = tmp_path / "history.jsonl", tmp_path / "other.sqlite3"
    assert export_lines(file, lines) == 4
    for line in lines.read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert import_lines(other, lines) == (4, 0)
    assert read(other) == read(file)
    assert import_lines(other, lines) == (0, 4)


@pytest.mark.parametrize("line", ["{", "[]", '{"kind": "latency"}', '{"colour": 1}'])
def test_one_wrong_line_imports_nothing(line: str, file: Path, tmp_path: Path) -> None:
    lines = tmp_path / "history.jsonl"
    lines.write_text(json.dumps(measured().to_json()) + f"\n{line}\n")
    with pytest.raises(DataError, match=r"line 2: .*nothing was imported"):
        import_lines(file, lines)
    assert not file.exists()


def test_reader_is_not_kept_waiting_by_a_writer(file: Path) -> None:
    append([measured()], file)
    writer = sqlite3.connect(file, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert len(read(file)) == 1
    writer.execute("ROLLBACK")
    writer.close()


def test_a_lock_that_stays_is_one_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append([measured()], file)
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.05)
    writer = sqlite3.connect(file, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(DataError, match="another process has kept it"):
        append([measured(seed=1)], file)
    writer.close()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def scribbled(content: bytes) -> bytes:
    return content[:4096] + bytes(len(content) - 4096)


@pytest.mark.parametrize("damage", [cut, scribbled, lambda content: b"not a database at all, however long" * 99])
def test_a_damaged_file_is_refused_and_left_as_it_is(damage: Any, file: Path) -> None:
    append([measured(seed=seed) for seed in range(50)], file)
    file.write_bytes(damage(file.read_bytes()))
    before = file.read_bytes()
    for use in (lambda: read(file), lambda: append([measured(seed=99)], file)):
        with pytest.raises(DataError, match=r"damaged file .*it was left as it is: rescue it with"):
            use()
    assert file.read_bytes() == before


def test_another_programs_database_is_refused_and_left_as_it_is(file: Path) -> None:
    file.parent.mkdir()
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE tunes (name TEXT)")
    other.close()
    before = file.read_bytes()
    with pytest.raises(DataError, match="another program's database"):
        append([measured()], file)
    assert file.read_bytes() == before


def test_an_older_schema_is_migrated_and_keeps_its_rows(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append([measured()], file)
    newer = (
        *database.MIGRATIONS,
        "ALTER TABLE measurements ADD COLUMN note TEXT; CREATE INDEX by_note ON measurements (note)",
    )
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", newer)
        assert append([measured(seed=1)], file) == 1
        assert len(read(file)) == 2
        with sqlite3.connect(file) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (2,)
            assert connection.execute("SELECT count(note) FROM measurements").fetchone() == (0,)
        connection.close()
    with pytest.raises(DataError, match=r"schema 1 or older .* got 2: update edge-sr"):
        read(file)


def test_a_migration_that_fails_changes_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append([measured()], file)
    broken = (
        *database.MIGRATIONS,
        "ALTER TABLE measurements ADD COLUMN note TEXT; ALTER TABLE nowhere ADD COLUMN x TEXT",
    )
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", broken)
        with pytest.raises(DataError, match="nowhere"):
            read(file)
    assert len(read(file)) == 1


def test_place_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGE_SR_HISTORY", raising=False)
    assert history_path().name == "history.sqlite3"
    assert history_path().parent.name == "edge-sr"
    monkeypatch.setenv("EDGE_SR_HISTORY", str(tmp_path / "mine"))
    assert history_path() == tmp_path / "mine"
    assert history_path(tmp_path / "given") == tmp_path / "given"


# ---------------------------------------------------------------------------------------------------------- reports
def profile_report(artifact: Path, times: tuple[float, ...]) -> ProfileReport:
    timing = Timing(
        threads=2,
        load_ms=5.0,
        first_ms=12.0,
        warmup_runs=3,
        samples_ms=times,
        peak_rss_bytes=2_000_000,
        base_rss_bytes=1_000_000,
        runtime="tflite",
        runtime_version="ai-edge-litert 2.3.0",
    )
    row = ProfileRow(
        artifact_path=artifact,
        model="idsa_net_mobile",
        scale=4,
        scheme="w8a8",
        target="tflite",
        tile=(16, 16),
        overlap=4,
        device="host",
        threads=2,
        timing=timing,
    )
    return ProfileReport(rows=(row, replace(row, timing=None, reason="no runtime")), device="host")


def test_a_profile_report_is_kept_with_raw_samples_and_hash(file: Path, tmp_path: Path) -> None:
    artifact = fake_artifact(tmp_path)
    assert append_profile(profile_report(artifact, (1.0, 3.0, 2.0)), file) == 1
    (kept,) = read(file)
    assert kept.samples_ms == (1.0, 3.0, 2.0)
    assert kept.artifact_sha256 == load_artifact(artifact).meta.files["model.bin"].sha256
    assert (kept.threads, kept.runtime_version, kept.load_ms) == (2, "ai-edge-litert 2.3.0", 5.0)
    assert (kept.peak_rss_bytes, kept.device_kind, kept.tile) == (2_000_000, "host", (16, 16))
    assert kept.versions["numpy"] == np.__version__


def test_a_verify_report_is_kept_without_rows_that_have_no_score(file: Path, tmp_path: Path) -> None:
    def score(psnr: float) -> SetScore:
        image = ImageScore(name="x", psnr_y_db=psnr, ssim=0.5)
        return SetScore(set_name="Set5", scale=4, images=(image,))

    row = VerifyRow(
        artifact_path=fake_artifact(tmp_path),
        model="idsa_net_mobile",
        scheme="w8a8",
        target="tflite",
        runtime="tflite",
        tile=(16, 16),
        overlap=4,
        float_whole=score(31.0),
        float_tiled=score(30.9),
        artifact=score(30.5),
    )
    rows = (row, replace(row, artifact=None, reason="not here"))
    assert append_verify(SimpleNamespace(rows=rows), file) == 1
    (kept,) = read(file)
    assert (kept.kind, kept.set_name, kept.psnr_y_db, kept.images) == (ACCURACY, "Set5", 30.5, 1)
    assert kept.details["drop_db"] == pytest.approx(0.5)


@dataclass(frozen=True)
class PhoneRow:
    """A row of another kind of device, of which only a path and a JSON form are asked."""

    artifact_path: Path

    def to_json(self) -> dict[str, Any]:
        timing = {"kind": "statistics", "count": 50, "median_ms": 7.5, "mean_ms": 7.7, "std_ms": 0.2, "noisy": False}
        fields = {"device": "adb", "threads": 4, "backend": "xnnpack", "pinned": True, "runtime": "benchmark_model"}
        return {**fields, "timing": timing, "before": {"battery_percent": 80}}


@dataclass(frozen=True)
class PhoneReport:
    rows: tuple[PhoneRow, ...]

    def to_json(self) -> dict[str, Any]:
        return {"device_info": {"title": "Maker Phone 9, SoC, Android 15"}}


def test_other_devices_append_likewise_even_statistics_without_samples(file: Path, tmp_path: Path) -> None:
    assert append_profile(PhoneReport(rows=(PhoneRow(fake_artifact(tmp_path)),)), file) == 1
    (kept,) = read(file, Filter(device="phone 9"))
    assert (kept.device_kind, kept.device, kept.backend) == ("adb", "Maker Phone 9, SoC, Android 15", "xnnpack pinned")
    assert kept.statistics == {"count": 50.0, "median_ms": 7.5, "mean_ms": 7.7, "std_ms": 0.2}
    assert kept.details["before"] == {"battery_percent": 80}


def test_a_macs_rows_say_their_name_where_others_say_their_kind(file: Path, tmp_path: Path) -> None:
    fields = {"device": "Mac15,3", "compute_unit": "CPU_AND_NE", "timing": {"samples_ms": [1.0, 2.0]}}
    row = SimpleNamespace(artifact_path=fake_artifact(tmp_path), to_json=lambda: fields)
    assert append_profile(SimpleNamespace(rows=(row,), to_json=lambda: {"device": "Mac15,3"}), file) == 1
    (kept,) = read(file, Filter(device="apple"))
    assert (kept.device, kept.backend, kept.samples_ms) == ("Mac15,3", "CPU_AND_NE", (1.0, 2.0))


def test_a_packages_hash_is_over_its_files() -> None:
    files = {f"model.mlpackage/{name}": SimpleNamespace(sha256=name * 64) for name in ("b", "a")}
    meta = SimpleNamespace(main_file="model.mlpackage", files={**files, "other": SimpleNamespace(sha256="c" * 64)})
    text = f"{'a' * 64}  model.mlpackage/a\n{'b' * 64}  model.mlpackage/b\n"
    assert artifact_digest(meta) == hashlib.sha256(text.encode()).hexdigest()  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- statistics
def test_interval_of_two_launches_is_scipys() -> None:
    before, after = samples(10, 1), samples(12, 2)
    ratio, interval = ratio_of_medians([before], [after])
    assert ratio == pytest.approx(np.median(after) / np.median(before))
    # Another method of scipy's, on logarithms: the ratio becomes a difference.
    result = stats.bootstrap(
        (np.log(after), np.log(before)),
        lambda x, y, axis=-1: np.median(x, axis=axis) - np.median(y, axis=axis),
        method="basic",
        rng=np.random.default_rng(5),
    )
    low, high = np.exp(result.confidence_interval)
    assert interval is not None
    # Two bootstraps of a median of 40 agree to a fraction of their own width.
    assert interval == pytest.approx((low, high), abs=0.5 * (high - low))


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(60):
        before, after = generator.gamma(4.0, 2.5, 60), 1.2 * generator.gamma(4.0, 2.5, 60)
        interval = ratio_of_medians([before], [after])[1]
        assert interval is not None
        hits += interval[0] <= 1.2 <= interval[1]
    # Binomial(60, 0.95): fewer than 51 has a probability below 0.1%.
    assert hits >= 51


def test_launches_that_differ_widen_the_interval() -> None:
    steady = [samples(10, seed) for seed in range(6)]
    lucky = [samples(10 * factor, seed) for seed, factor in enumerate((0.9, 0.95, 1.0, 1.0, 1.05, 1.1))]
    narrow, wide = (ratio_of_medians(side, steady)[1] for side in (steady, lucky))
    assert narrow is not None
    assert wide is not None
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((1.04, 1.10), SLOWER),
        ((1.02, 1.10), UNDECIDED),
        ((0.90, 0.96), FASTER),
        ((0.90, 0.98), UNDECIDED),
        ((0.99, 1.01), UNDECIDED),
        (None, UNKNOWN),
    ],
)
def test_verdict_needs_the_whole_interval_beyond_the_tolerance(
    interval: tuple[float, float] | None, verdict: str
) -> None:
    assert verdict_of(interval, 3.0) == verdict


def test_few_runs_give_no_interval() -> None:
    assert ratio_of_medians([(1.0, 2.0, 3.0)], [(2.0, 4.0, 6.0)]) == (2.0, None)


# ------------------------------------------------------------------------------------------------------- comparisons
def test_a_slower_artifact_is_called_slower_by_device_and_threads(file: Path) -> None:
    append([measured("net_fp32", 10, threads=t, seed=t) for t in (1, 2)], file)
    append([measured("net_w8a8", m, threads=t, seed=9 + t, sha256=B_HASH) for t, m in ((1, 12), (2, 8), (4, 5))], file)
    report = compare("net_fp32", "net_w8a8", file)
    assert [(row.threads, row.verdict) for row in report.latency] == [(1, SLOWER), (2, FASTER)]
    assert report.slower == 1
    assert report.unmatched == ("only B has host: a processor, 4",)
    row = report.latency[0]
    assert row.before.samples == 40
    assert row.ratio == pytest.approx(1.2, rel=0.02)
    assert "one launch" in row.note


def test_two_versions_of_one_artifact_by_hash_and_two_spans_of_time(file: Path) -> None:
    old = [measured(median=10, seed=s, created=f"2026-01-0{s + 1}T00:00:00+00:00") for s in range(3)]
    new = [measured(median=11, seed=9 + s, sha256=B_HASH, created=f"2026-02-0{s + 1}T00:00:00+00:00") for s in range(3)]
    append(old + new, file)
    by_hash = compare("aaaaaaaa", "bbbbbbbb", file)
    by_time = compare("net_fp32@..2026-01-31", "2026-02-01..", file)
    assert [row.verdict for row in by_hash.latency] == [SLOWER]
    assert by_time.latency == by_hash.latency
    assert (by_hash.latency[0].before.launches, by_hash.latency[0].after.launches) == (3, 3)


def test_equal_files_show_no_difference(file: Path) -> None:
    append([measured(seed=1), measured(seed=2, created="2026-02-01T00:00:00+00:00")], file)
    report = compare("..2026-01-31", "2026-02-01..", file)
    assert [row.verdict for row in report.latency] == [UNDECIDED]


def test_accuracy_compares_the_newest_scores(file: Path) -> None:
    append([scored(30.0, created="2026-01-01T00:00:00+00:00"), scored(31.0, created="2026-01-02T00:00:00+00:00")], file)
    append([scored(30.75, created="2026-01-03T00:00:00+00:00", name="net_w8a8", sha256=B_HASH)], file)
    (row,) = compare("net_fp32", "net_w8a8", file).accuracy
    assert (row.before_db, row.after_db, row.change_db) == (31.0, 30.75, -0.25)


def test_a_folder_selects_the_version_that_lies_there(file: Path, tmp_path: Path) -> None:
    folder = fake_artifact(tmp_path)
    assert parse_selector(str(folder)).artifact == artifact_digest(load_artifact(folder).meta)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("net", Filter(artifact="net")),
        ("2026-01-01..2026-01-31", Filter(since="2026-01-01", until="2026-01-31")),
        ("..2026-01-31", Filter(until="2026-01-31")),
        ("net*@2026-02-01..", Filter(artifact="net*", since="2026-02-01")),
        ("../out/net", Filter(artifact="../out/net")),
    ],
)
def test_selectors(text: str, expected: Filter) -> None:
    assert parse_selector(text) == expected


def test_wrong_comparisons_are_one_line(file: Path) -> None:
    with pytest.raises(DataError, match="expected a history at"):
        compare("a", "b", file)
    append([measured(), measured("net_w8a8", device="another", sha256=B_HASH)], file)
    with pytest.raises(DataError, match="expected measurements of nothing"):
        compare("nothing", "net_fp32", file)
    with pytest.raises(DataError, match="nothing in common: only A has host: a processor, 1; only B has host: another"):
        compare("net_fp32", "net_w8a8", file)
    with pytest.raises(ConfigError, match="expected a span"):
        compare("net_fp32@yesterday", "net_fp32", file)
    with pytest.raises(ConfigError, match="tolerance"):
        compare("net_fp32", "net_fp32", file, tolerance_percent=-1)
    with pytest.raises(DataError, match="expected a day"):
        compare("net_fp32@..2026-13-01", "net_fp32", file)


# ---------------------------------------------------------------------------------------------------------- commands
def test_commands_show_draw_exchange_and_fail_as_asked(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_SR_HISTORY", str(file))
    append([measured("net_fp32", 10), measured("net_w8a8", 12, seed=1, sha256=B_HASH)], file)
    outputs = [str(tmp_path / name) for name in ("h.png", "h.json", "h.jsonl")]
    assert main(["history", "--figure", outputs[0], "--json", outputs[1], "--export", outputs[2]]) == 0
    assert "2 measurements" in capsys.readouterr().out
    assert len(json.loads(Path(outputs[1]).read_text())["measurements"]) == 2
    other = str(tmp_path / "other.sqlite3")
    assert main(["history", "--history", other, "--import", outputs[2], "--artifact", "net_w8a8"]) == 0
    shown = capsys.readouterr().out
    assert "2 new, 0 already there" in shown
    assert "net_fp32" not in shown.replace(outputs[2], "")
    words = ["compare", "net_fp32", "net_w8a8"]
    assert main([*words, "--figure", str(tmp_path / "c.png"), "--json", str(tmp_path / "c.json")]) == 0
    assert "slower" in capsys.readouterr().out
    assert json.loads((tmp_path / "c.json").read_text())["latency"][0]["verdict"] == SLOWER
    assert main([*words, "--fail-on-slower"]) == 3
    assert main(["compare", "net_w8a8", "net_fp32", "--fail-on-slower"]) == 0


def test_noisy_and_unsettled_runs_are_marked_as_profile_marks_them(capsys: pytest.CaptureFixture[str]) -> None:
    # 100 runs each: all alike; half at 10 and half at 12 (IQR 2 of a median of 11, 18%, and a median between the two).
    calm = replace(measured("calm"), samples_ms=(10.0,) * 100)
    noisy = replace(measured("noisy"), samples_ms=(10.0, 12.0) * 50)
    print_history([calm, noisy])
    out = capsys.readouterr().out
    (calm_line,) = [line for line in out.splitlines() if "calm" in line]
    (noisy_line,) = [line for line in out.splitlines() if "noisy" in line]
    assert "10.00 ms " in calm_line
    assert not {"!", "~"} & set(calm_line)
    assert "11.00 ms ! 18% ~" in noisy_line
    assert "!  IQR above 10% of the median" in out
    print_history([calm])
    assert "!" not in capsys.readouterr().out


def test_a_single_moment_is_drawn_within_a_day(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes
    from matplotlib.dates import num2date

    limits: list[tuple[float, float]] = []
    monkeypatch.setattr(Axes, "legend", lambda axes, **_: limits.append(axes.get_xlim()))
    history_chart([measured("net_fp32"), measured("net_w8a8", seed=1)])
    append([measured("net_fp32"), measured("net_w8a8", seed=1, sha256=B_HASH)], file)
    compare_chart(compare("net_fp32", "net_w8a8", file))
    spans = [[str(num2date(edge))[:16] for edge in ends] for ends in limits]
    assert spans == [["2026-01-01 00:00", "2026-01-02 00:00"]] * 2


def test_charts_are_pictures_even_of_nothing(file: Path) -> None:
    append([measured("net_fp32", 10), measured("net_w8a8", 12, seed=1, sha256=B_HASH)], file)
    pictures = (history_chart(read(file)), history_chart(()), compare_chart(compare("net_fp32", "net_w8a8", file)))
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "colour"}, "kind of a measurement"),
        ({"created": "yesterday"}, "expected a time"),
        ({"created": "2026-01-01T12:00:00"}, "in UTC"),
        ({"created": "2026-01-01T12:00:00+02:00"}, "in UTC"),
        ({"samples_ms": ()}, "expected samples or a median"),
        ({"kind": ACCURACY}, "expected an image set"),
    ],
)
def test_what_is_no_measurement_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(measured(), **change)
