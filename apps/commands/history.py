"""``edge-sr history`` and ``edge-sr compare``: measurements kept over time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from apps.commands.options import MOST_THREADS, Figure, Json, draw, save, working
from apps.destinations import check_destination, check_folder, is_stdout
from apps.streams import complain
from edge_sr.errors import ConfigError

HistoryFile = Annotated[
    Path | None,
    typer.Option(
        "--history",
        help="History file. Default: EDGE_SR_HISTORY, else history.sqlite3 in your data folder.",
        show_default=False,
        metavar="FILE",
    ),
]
NoHistory = Annotated[bool, typer.Option("--no-history", help="Keep this measurement out of the history.")]


def history(
    history_file: HistoryFile = None,
    artifact: Annotated[
        str | None, typer.Option("--artifact", help="Folder name (* allowed) or first digits of the hash.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Network.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Part of the device's name, or its kind.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="Day or UTC time, included.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Day or UTC time, included.")] = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="Write what fits as JSON lines to this file.", show_default=False)
    ] = None,
    add: Annotated[
        Path | None, typer.Option("--import", help="First add the measurements of this JSON lines file.")
    ] = None,
    figure: Figure = None,
    json_file: Json = None,
) -> None:
    """Show the measurements kept so far, oldest first.

    profile and verify keep theirs. The file only ever grows; import skips what is there already, so two machines can
    exchange theirs.
    """
    from apps.history.history_view import history_chart, print_history
    from apps.history.report import HistoryReport
    from apps.history.store import Filter, export_lines, history_path, import_lines, read
    from apps.terminal import say

    path = history_path(history_file)
    wanted = Filter(artifact=artifact, model=model, device=device, since=since, until=until)
    if export is not None:
        _check_export(export)
    with working(json_file, figure=figure):
        if add is not None:
            new, known = import_lines(path, add)
            say(f"{add}: {new} new, {known} already there")
        report = HistoryReport(path=path, measurements=read(path, wanted))
    print_history(report.measurements)
    save("history", report, json_file)
    if export is not None:
        say(f"{export}: {export_lines(path, export, wanted)} measurements")
    draw(figure, lambda: history_chart(report.measurements))


def compare(
    a: Annotated[str, typer.Argument(help="Artifact folder, its name, its hash, a span of days, or NAME@SPAN.")],
    b: Annotated[str, typer.Argument(help="The same; verdicts speak of this one.")],
    history_file: HistoryFile = None,
    device: Annotated[str | None, typer.Option("--device", help="Part of the device's name, or its kind.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Only this number of threads.", min=1, max=MOST_THREADS)
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Smallest difference that is called one, in percent.")
    ] = 3.0,
    fail_on_slower: Annotated[
        bool, typer.Option("--fail-on-slower", help="Exit status 3 where B is slower anywhere.")
    ] = False,
    figure: Figure = None,
    json_file: Json = None,
) -> None:
    """Compare artifacts, or spans of time, by what the history has.

    Two artifacts, or two versions of one, by device and threads. Medians and their ratio come with 95% intervals; B is
    called slower or faster only where the whole interval says so.
    """
    from apps.history.compare import compare as compare_sides
    from apps.history.history_view import compare_chart, print_compare
    from apps.history.store import history_path

    with working(json_file, figure=figure):
        report = compare_sides(
            a, b, history_path(history_file), device=device, threads=threads, tolerance_percent=tolerance
        )
    print_compare(report)
    save("compare", report, json_file)
    draw(figure, lambda: compare_chart(report))
    if fail_on_slower and report.slower:
        complain(f"B is slower in {report.slower} of {len(report.latency)} comparisons")
        raise typer.Exit(3)


def open_history(option: Path | None, left_out: bool) -> Path | None:
    """The history that a measurement goes into, tried before the work; None where it is to stay out.

    Raises:
        DataError: the file is damaged, of another program, of a newer release, or stays locked.
        ConfigError: a new file cannot be made there.
    """
    if left_out:
        return None
    from apps.history.store import append, history_path

    path = history_path(option)
    if path.is_file():
        append([], path)
    elif path.parent.exists():
        check_destination(path, "--history")
    else:
        check_folder(path.parent, "--history")
    return path


def _check_export(path: Path) -> None:
    if is_stdout(path) or (path.exists() and not path.is_file()):
        raise ConfigError(f"expected a file for --export, got {path}, name a file; --json - writes to stdout")
    check_destination(path, "--export", is_own=_holds_measurements)


def _holds_measurements(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as stream:
            first = stream.readline()
        return not first or "artifact_sha256" in json.loads(first)
    except (OSError, ValueError, TypeError):
        return False
