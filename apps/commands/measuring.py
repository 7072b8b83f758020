"""``edge-sr profile``: how fast artifacts are, on this machine, a phone over adb, a browser, or Apple's devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apps.commands.history import HistoryFile, NoHistory, open_history
from apps.commands.making import fail_on
from apps.commands.options import MOST_THREADS, Artifacts, Json, choice, save, working
from edge_sr.errors import ConfigError

if TYPE_CHECKING:
    from apps.history.collect import ProfiledReport
    from apps.profiling.adb.planning import AdbOptions
    from apps.profiling.browser.session import BrowserOptions

INTERRUPTED = 130


DEVICES = ("host", "adb", "apple", "browser")
_ADB, _APPLE, _BROWSER = "With --device adb", "With --device apple", "With --device browser"


# What only some devices know; given beside another one it would be left out without a word.
_ONLY_WITH = {
    "serial": ("adb", "apple"),
    "backend": ("adb", "browser"),
    **dict.fromkeys(("benchmark_model", "executor_runner", "pin", "cool_down", "cool_below"), ("adb",)),
    **dict.fromkeys(("place", "compute_unit", "team"), ("apple",)),
    **dict.fromkeys(("lan", "https", "port", "open_page", "headless", "fetch"), ("browser",)),
}


def profile(
    context: typer.Context,
    artifacts: Artifacts,
    device: Annotated[
        str,
        choice(
            "--device",
            known=DEVICES,
            help="host is this machine; adb an Android phone; apple a Mac or iPhone; browser any device.",
        ),
    ] = "host",
    threads: Annotated[
        list[int] | None,
        typer.Option(
            "--threads",
            help="CPU threads; may be given again. Default: 1 (browser: and 4).",
            min=1,
            max=MOST_THREADS,
        ),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", help="Timed runs per measurement, at least.", min=1)] = 50,
    max_seconds: Annotated[float, typer.Option("--max-seconds", help="Stop one measurement after this long.")] = 20.0,
    serial: Annotated[
        str | None, typer.Option("--serial", help="adb, apple: which device, where several are connected.")
    ] = None,
    benchmark_model: Annotated[
        Path | None,
        typer.Option("--benchmark-model", help="LiteRT's tool for Android; remembered.", rich_help_panel=_ADB),
    ] = None,
    executor_runner: Annotated[
        Path | None,
        typer.Option("--executor-runner", help="ExecuTorch's tool for Android; remembered.", rich_help_panel=_ADB),
    ] = None,
    backend: Annotated[
        list[str] | None,
        choice(
            "--backend",
            known=("xnnpack", "gpu", "nnapi", "wasm", "webgpu"),
            help="adb: xnnpack, gpu, nnapi; browser: wasm, webgpu; may be given again.",
        ),
    ] = None,
    pin: Annotated[
        bool | None,
        typer.Option(
            "--pin/--no-pin", help="On the fastest cores only, or on any. Default: both.", rich_help_panel=_ADB
        ),
    ] = None,
    cool_down: Annotated[
        float,
        typer.Option(
            "--cool-down", help="Wait this many seconds at most for the device to cool.", rich_help_panel=_ADB
        ),
    ] = 120.0,
    cool_below: Annotated[
        float, typer.Option("--cool-below", help="Cool is at most this many °C.", rich_help_panel=_ADB)
    ] = 36.0,
    place: Annotated[
        str,
        choice("--place", known=("mac", "iphone"), help="mac, or iphone for a connected one.", panel=_APPLE),
    ] = "mac",
    compute_unit: Annotated[
        list[str] | None,
        choice(
            "--compute-unit",
            known="apps.profiling.apple:COMPUTE_UNITS",
            help="ALL, CPU_ONLY, CPU_AND_GPU, CPU_AND_NE; may be given again. Default: all four.",
            panel=_APPLE,
        ),
    ] = None,
    team: Annotated[
        str | None, typer.Option("--team", help="Development team, for an iPhone.", rich_help_panel=_APPLE)
    ] = None,
    lan: Annotated[
        bool,
        typer.Option(
            "--lan", help="Let devices in the network in; prints address and QR code.", rich_help_panel=_BROWSER
        ),
    ] = False,
    https: Annotated[
        bool,
        typer.Option(
            "--https", help="With --lan, give phones threads and WebGPU (self-signed).", rich_help_panel=_BROWSER
        ),
    ] = False,
    port: Annotated[
        int, typer.Option("--port", help="Port to listen on; 0 takes a free one.", min=0, rich_help_panel=_BROWSER)
    ] = 0,
    open_page: Annotated[
        bool,
        typer.Option("--open/--no-open", help="Open the page here, where there is a screen.", rich_help_panel=_BROWSER),
    ] = True,
    headless: Annotated[
        bool,
        typer.Option("--headless", help="Run Chromium here without a window; labelled so.", rich_help_panel=_BROWSER),
    ] = False,
    fetch: Annotated[
        bool,
        typer.Option(
            "--fetch", help="Fetch LiteRT.js first (38 MB, by npm) where it is missing.", rich_help_panel=_BROWSER
        ),
    ] = False,
    history_file: HistoryFile = None,
    no_history: NoHistory = False,
    json_file: Json = None,
) -> None:
    """Measure latency: here, on a phone, in a browser, on a Mac.

    One tile per run; raw samples go into --json, every measurement into the history. On this machine each measurement
    has a process of its own. Runs are added until the median's 95% confidence interval is at most 3% of it wide, or
    --max-seconds are over; "~" marks a median that stayed less certain. "!" marks an IQR above 10% of the median: the
    machine was busy.
    """
    _refuse_options_of_others(context, device)
    keep = _keeper(history_file, no_history)
    match device:
        case "host":
            _host(artifacts, tuple(threads or (1,)), runs, max_seconds, keep, json_file)
        case "adb":
            from apps.profiling.adb.planning import AdbOptions

            options = AdbOptions(
                threads=tuple(threads or (1,)),
                backends=tuple(backend or ("xnnpack",)),
                pinning=(True, False) if pin is None else (pin,),
                runs=runs,
                max_seconds=max_seconds,
                cool_down_s=cool_down,
                cool_below_c=cool_below,
            )
            _adb(artifacts, serial, options, benchmark_model, executor_runner, keep, json_file)
        case "apple":
            _apple(artifacts, place, compute_unit, runs, team, serial, keep, json_file)
        case "browser":
            from apps.profiling.browser.session import BrowserOptions

            wanted = BrowserOptions(
                lan=lan,
                https=https,
                port=port,
                open_page=open_page,
                headless=headless,
                fetch=fetch,
                backends=tuple(backend or ("wasm", "webgpu")),
                threads=tuple(threads or ()),
                runs=runs,
                max_seconds=max_seconds,
            )
            _browser(artifacts, wanted, keep, json_file)


def _refuse_options_of_others(context: typer.Context, device: str) -> None:
    given = {name for name in context.params if str(context.get_parameter_source(name)).endswith("COMMANDLINE")}
    for parameter in context.command.params:
        devices = _ONLY_WITH.get(parameter.name or "", (device,))
        if parameter.name in given and device not in devices:
            raise ConfigError(
                f"{parameter.opts[0]} goes with --device {' or '.join(devices)}, got --device {device}; leave one out"
            )


def _host(
    artifacts: list[Path],
    threads: tuple[int, ...],
    runs: int,
    max_seconds: float,
    keep: Callable[[ProfiledReport], None],
    json_file: Path | None,
) -> None:
    from apps.machine import describe_machine
    from apps.profiling.host import profile_artifacts
    from apps.tables import print_profile
    from apps.terminal import say

    with working(json_file) as progress:
        report = profile_artifacts(artifacts, threads=threads, runs=runs, max_seconds=max_seconds, progress=progress)
    print_profile(report)
    keep(report)
    save("profile", report, json_file)
    cores = describe_machine().logical_cores
    if max(threads) > cores:
        say(f"only {cores} logical core{'s' if cores > 1 else ''} may be used here: more threads than that share them")
    fail_on(sorted({f"{row.label}: {row.reason}" for row in report.rows if row.failed}))


def _adb(
    artifacts: list[Path],
    serial: str | None,
    options: AdbOptions,
    benchmark_model: Path | None,
    executor_runner: Path | None,
    keep: Callable[[ProfiledReport], None],
    json_file: Path | None,
) -> None:
    from apps.profiling.adb.harness import profile_over_adb
    from apps.profiling.adb_view import print_adb

    with working(json_file) as progress:
        report = profile_over_adb(
            artifacts,
            serial=serial,
            options=options,
            benchmark_model=benchmark_model,
            executor_runner=executor_runner,
            progress=progress,
        )
    print_adb(report)
    keep(report)
    save("profile-adb", report, json_file)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
    wrong = [row for row in report.rows if row.numerics.agrees is False]
    fail_on(
        sorted({f"{row.artifact_path.name}: {row.reason}" for row in report.rows if row.failed})
        + sorted({f"{row.artifact_path.name}: its result on the device is not this machine's" for row in wrong})
    )


def _apple(
    artifacts: list[Path],
    place: str,
    compute_units: list[str] | None,
    runs: int,
    team: str | None,
    device_name: str | None,
    keep: Callable[[ProfiledReport], None],
    json_file: Path | None,
) -> None:
    from apps.profiling.adb_view import print_apple
    from apps.profiling.apple import COMPUTE_UNITS, profile_on_apple

    with working(json_file) as progress:
        report = profile_on_apple(
            artifacts,
            place=place,
            compute_units=tuple(compute_units or COMPUTE_UNITS),
            runs=runs,
            development_team=team,
            device_name=device_name,
            progress=progress,
        )
    print_apple(report)
    keep(report)
    save("profile-apple", report, json_file)
    fail_on(sorted({f"{row.artifact_path.name}: {row.reason}" for row in report.rows if row.failed}))


def _browser(
    artifacts: list[Path],
    options: BrowserOptions,
    keep: Callable[[ProfiledReport], None],
    json_file: Path | None,
) -> None:
    from apps.profiling.browser.session import profile_in_browser
    from apps.profiling.browser_view import print_browser

    with working(json_file) as progress:
        report = profile_in_browser(artifacts, options=options, progress=progress)
    print_browser(report)
    keep(report)
    save("profile-browser", report, json_file)
    if report.ended == "interrupted":
        raise typer.Exit(INTERRUPTED)
    fail_on(sorted({f"{row.label}, {row.configuration.label}: {row.reason}" for row in report.rows if row.failed}))
    if not report.complete:
        fail_on([f"expected a browser to measure everything, got {report.ended}; open the page again"])


def _keeper(option: Path | None, left_out: bool) -> Callable[[ProfiledReport], None]:
    """What puts a report into the history; tried before anything is measured."""
    path = open_history(option, left_out)

    def keep(report: ProfiledReport) -> None:
        if path is not None:
            from apps.history.collect import append_profile

            append_profile(report, path)

    return keep
