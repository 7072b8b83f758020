"""The doctor: what is missing gets a cure, what breaks costs one line, and what works was really tried."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import apps.doctor
import apps.machine
from apps.cli import main
from apps.doctor import BROKEN, NOTE, OK, Check, DoctorReport, check_target, examine, pip_install
from apps.doctor_probe import ProbeNetwork, probe_target
from apps.machine import describe_machine, package_version, package_versions
from apps.tables import DoctorPrinter
from converters.targets import TARGETS, WITHOUT_DEPENDENCIES
from edge_sr.errors import ConfigError, ConversionError, RunnerError


def _answer(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def run_in_child(function: str, arguments: dict[str, Any], *, timeout_s: float) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(apps.doctor, "run_in_child", run_in_child)


def test_missing_toolchain_is_broken_and_its_cure_is_a_pip_command() -> None:
    target = replace(TARGETS["tflite"], converter_packages=("no-such-tool",), runtime_packages=("no-such-runtime",))
    check = check_target(target)
    assert (check.status, check.cure) == (BROKEN, "pip install no-such-tool")
    assert "no-such-tool" in check.detail


def test_runtime_without_converter_still_runs_artifacts_made_elsewhere() -> None:
    target = replace(TARGETS["tflite"], converter_packages=("no-such-tool",), runtime_packages=("numpy",))
    check = check_target(target)
    assert check.status == NOTE
    assert "made elsewhere run with numpy" in check.detail


@pytest.mark.parametrize("error", [RunnerError("got SIGABRT in its process"), ConversionError("refused")])
def test_toolchain_that_dies_or_refuses_is_one_broken_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, error)
    check = check_target(replace(TARGETS["tflite"], converter_packages=("numpy",)))
    assert check.status == BROKEN
    assert str(error) in check.detail
    assert check.cure.startswith("pip install 'numpy")


def test_target_that_converts_and_runs_is_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, "converts, runs")
    check = check_target(replace(TARGETS["tflite"], converter_packages=("numpy",)))
    assert (check.status, check.detail, check.cure) == (OK, "converts, runs", "")


@pytest.mark.skipif("sys.platform == 'darwin'", reason="Core ML is missing: this tests what happens without it")
def test_core_ml_is_a_note_away_from_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, "converts")
    check = check_target(replace(TARGETS["coreml"], converter_packages=("numpy",)))
    assert check.status == NOTE
    assert "Mac" in check.cure


def test_quick_examination_covers_every_group_and_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, AssertionError("a process was started"))
    report = examine(quick=True)
    assert {check.group for check in report.checks} == {
        *("python", "packages", "weights", "targets", "devices", "training")
    }
    assert {check.name for check in report.checks if check.group == "targets"} == set(TARGETS)
    assert all(check.cure for check in report.broken)


def test_what_is_instant_is_found_before_anything_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    _answer(monkeypatch, "converts, runs")
    events: list[str] = []
    report = examine(found=lambda check: events.append(check.group), trying=lambda what: events.append(f"... {what}"))
    assert [check.group for check in report.checks] == [event for event in events if not event.startswith("...")]
    instant, first_try = events[: events.index("training")], "... training: importing torch"
    assert set(instant) == {"python", "packages", "weights", "devices", first_try}
    assert instant[-1] == first_try
    slow = events[events.index(f"... tflite, target 1 of {len(TARGETS)}: converting and running one convolution") :]
    tried = [event.split(",")[0] for event in slow]
    assert tried == [event for name in TARGETS for event in (f"... {name}", "targets")]


def test_a_finding_fits_80_columns_and_its_cure_stands_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    printer = DoctorPrinter()
    printer(Check(group="packages", name="numpy", status=OK, detail="2.0"))
    printer(Check(group="packages", name="torch", status=BROKEN, detail="not installed " * 9, cure="pip install torch"))
    printer(Check(group="targets", name="tflite", status=OK, detail=""))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["packages", "targets"]
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["numpy", "ok", "2.0"]
    cure = next(number for number, line in enumerate(lines) if "cure:" in line)
    assert lines[cure].strip() == "cure: pip install torch"
    assert lines[cure].index("cure") == lines[1].index("2.0")
    assert " ".join(" ".join(lines[2:cure]).split()) == f"torch broken {'not installed ' * 9}".strip()


@pytest.mark.parametrize("words", [["--quick"], ["--quick", "--json", "-"]])
def test_the_doctor_prints_what_its_json_says(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [
        Check(group="g", name="one", status=OK, detail="d"),
        Check(group="g", name="two", status=BROKEN, detail=""),
    ]

    def examined(*, quick: bool, found: Any, trying: Any) -> DoctorReport:
        assert quick
        trying("one thing")
        for check in checks:
            found(check)
        return DoctorReport(checks=tuple(checks), machine=describe_machine())

    monkeypatch.setattr(apps.doctor, "examine", examined)
    assert main(["doctor", *words]) == 1
    out, err = capsys.readouterr()
    assert "... one thing" in err
    if "--json" in words:
        assert [check["name"] for check in json.loads(out)["checks"]] == ["one", "two"]
    assert "two                 broken" in (err if "--json" in words else out)


def test_pip_command_asks_for_the_pinned_version_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ['litert-torch==0.10.0; extra == "tflite"', "scikit-image>=0.25"]
    monkeypatch.setattr(apps.doctor.metadata, "requires", lambda name: lines)
    assert pip_install(["litert-torch"]) == "pip install litert-torch==0.10.0"
    assert pip_install(["scikit-image", "other"]) == "pip install 'scikit-image>=0.25' other"


def test_pip_command_leaves_the_dependencies_alone_of_what_would_take_others_away() -> None:
    alone = f"pip install --no-deps tosa-tools=={WITHOUT_DEPENDENCIES['tosa-tools']}"
    assert pip_install(["tosa-tools"]) == alone
    assert pip_install(["other", "tosa-tools"]) == f"pip install other; {alone}"


def test_unknown_status_is_refused() -> None:
    with pytest.raises(ConfigError):
        Check(group="g", name="n", status="fine", detail="")


def test_probe_network_upscales_by_two() -> None:
    import torch

    assert ProbeNetwork()(torch.zeros(1, 3, 5, 6)).shape == (1, 3, 10, 12)


def test_tflite_probe_converts_and_runs_for_real() -> None:
    for package in TARGETS["tflite"].converter_packages:
        if package_version(package) is None:
            pytest.skip(f"{package} is missing")
    assert "runs" in probe_target("tflite")


def test_machine_is_described_without_failing() -> None:
    machine = describe_machine()
    assert machine.cpu_model
    assert machine.logical_cores >= 1
    assert machine.cpu_model in machine.line
    versions = package_versions()
    assert versions["torch"] is not None
    assert package_version("no-such-package") is None


def test_governor_and_temperature_are_those_of_the_system_files(tmp_path: Path) -> None:
    for number, word in enumerate(("performance", "powersave", "performance")):
        folder = tmp_path / "cpus" / f"cpu{number}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{word}\n")
    for number, text in enumerate(("41000\n", "67500\n", "no reading\n")):
        zone = tmp_path / "zones" / f"thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(text)
    assert apps.machine._governor(tmp_path / "cpus") == "performance, powersave"
    assert apps.machine._temperature(tmp_path / "zones") == "68 °C"
    assert apps.machine._governor(tmp_path) == apps.machine._temperature(tmp_path) == "not told by this system"


def test_cpu_features_are_those_of_cpuinfo() -> None:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        pytest.skip("/proc/cpuinfo is missing")
    words = set(path.read_text().split())
    assert all(feature in words for feature in apps.machine.describe_machine().cpu_features)
    assert ("avx2" in words) == ("avx2" in apps.machine.describe_machine().cpu_features)
