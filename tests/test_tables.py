"""Every table of the command line fits a narrow terminal, and can be read there."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import printed_reports
import pytest
from rich.cells import cell_len
from rich.text import Text

import apps.terminal
from apps.columns import Column, Kind
from apps.table_layout import Layout, lay_out
from apps.terminal import add_row, new_table, say, show, styled

_CODES = re.compile("\x1b\\[[0-9;?]*[A-Za-z]")
# As written in a cell: 12, +0.012, 98.7%, x1.32, 1.2e-07; what stands around it in prose is taken off first.
_NUMBER = re.compile(r"[-+±×x#]?\d[\d.,:]*(e[-+]\d+)?[%x]?")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(monkeypatch: pytest.MonkeyPatch, print_it: Callable[[], None], width: int) -> list[str]:
    """The lines on a terminal of this width, without styles."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with monkeypatch.context() as context:
        context.setattr(sys, "stdout", stream)
        print_it()
    return _CODES.sub("", stream.getvalue()).splitlines()


def numbers(lines: Sequence[str]) -> set[str]:
    words = (word.strip("()[],;") for line in lines for word in line.split())
    return {word for word in words if _NUMBER.fullmatch(word)}


@pytest.fixture
def layouts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Column], Layout]]:
    """What is laid out from here on: columns as they were given, and what became of them."""
    found: list[tuple[list[Column], Layout]] = []

    def recording(columns: Sequence[Column], width: int, *, ellipsis: str) -> Layout:
        layout = lay_out(columns, width, ellipsis=ellipsis)
        found.append((list(columns), layout))
        return layout

    monkeypatch.setattr(apps.terminal, "lay_out", recording)
    return found


# ------------------------------------------------------------------------------------------------------- every table
@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", printed_reports.REPORTS)
def test_a_report_fits_the_terminal_and_every_number_in_it_is_whole(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    print_it, expected = printed_reports.REPORTS[name]
    lines = printed(monkeypatch, print_it, width)
    assert max(map(cell_len, lines)) <= width
    for number in expected:
        assert any(number in line for line in lines), number
    unbroken = numbers(printed(monkeypatch, print_it, 1000))
    assert len(unbroken) >= len([number for number in expected if _NUMBER.fullmatch(number)])
    assert unbroken - numbers(lines) == set()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", printed_reports.REPORTS)
def test_names_of_a_report_stay_apart_and_no_word_is_broken(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch, layouts: list[tuple[list[Column], Layout]]
) -> None:
    lines = printed(monkeypatch, printed_reports.REPORTS[name][0], width)
    assert layouts
    for given, layout in layouts:
        heads = [column.head.plain for column in given]
        assert len(set(heads)) == len(heads), "a head that is said above the table must mean one column"
        before = {column.head.plain: column for column in given}
        for column, own_width in (entry for part in layout.parts for entry in part):
            cells = [cell.plain for cell in column.cells]
            words = [word for text in (column.head.plain, *cells) for word in text.split()]
            assert own_width >= max(map(cell_len, words), default=0)
            if column.kind in (Kind.NAME, Kind.NUMBER):
                assert own_width >= max(cell_len(line) for cell in cells for line in cell.split("\n"))
            if column.kind is Kind.NAME:
                shown = dict(zip((cell.plain for cell in before[column.head.plain].cells), cells, strict=True))
                assert len(set(shown.values())) == len(shown)
                assert all(any(cell in line for line in lines) for cell in cells)
        shown_heads = {column.head.plain for part in layout.parts for column, _ in part} - {"#"}
        said = {line.split(": ")[0] for line in layout.above}
        assert all(head in shown_heads or any(head.startswith(start) for start in said) for head in heads)


def test_artifacts_of_a_report_are_told_apart_by_scheme_target_and_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("verify", "profile", "history", "lint", "plan", "roofline", "waterfall", "gate"):
        lines = printed(monkeypatch, printed_reports.REPORTS[name][0], 80)
        for artifact in printed_reports.ARTIFACTS:
            assert any(f"…{artifact.removeprefix('idsa_net_')}" in line.split() for line in lines), (name, artifact)


# ---------------------------------------------------------------------------------------------------------- mechanism
def column(head: str, kind: Kind, *cells: str) -> Column:
    return Column(head=Text(head), kind=kind, cells=tuple(map(Text, cells)))


def shown(layout: Layout) -> list[list[list[str]]]:
    """The cells of every part, column by column, with the head in front."""
    return [[[part.head.plain, *(cell.plain for cell in part.cells)] for part, _ in parts] for parts in layout.parts]


def test_a_table_that_fits_is_left_as_it_is() -> None:
    columns = [column("artifact", Kind.NAME, "net_x4_fp32", "net_x4_w8a8"), column("ms", Kind.NUMBER, "1.00", "1.00")]
    layout = lay_out(columns, 17)  # 11, a gap of 2, 4
    assert layout.parts == [list(zip(columns, (11, 4), strict=True))]
    assert (layout.above, layout.notes) == ([], [])


def test_what_names_begin_with_goes_first_and_what_they_end_with_only_where_that_is_not_enough() -> None:
    names = column("artifact", Kind.NAME, "net_x4_fp32_lite_64x64", "net_x4_w8a8_torch_64x64", "–")
    numbers = column("ms", Kind.NUMBER, "1.00", "2.00", "–")
    roomy = lay_out([names, numbers], 28)
    assert shown(roomy)[0][0] == ["artifact", "…fp32_lite_64x64", "…w8a8_torch_64x64", "–"]
    assert roomy.above == ["artifact: net_x4_…"]
    narrow = lay_out([names, numbers], 20)
    assert shown(narrow)[0][0] == ["artifact", "…fp32_lite…", "…w8a8_torch…", "–"]
    assert narrow.above == ["artifact: net_x4_…_64x64"]


def test_a_common_beginning_ends_at_a_separator_and_leaves_a_name_of_each() -> None:
    names = column("artifact", Kind.NAME, "network_w8a8", "network_w8a16", "network_w8a8_mixed")
    layout = lay_out([names, column("ms", Kind.NUMBER, "1", "2", "3")], 18)
    assert shown(layout)[0][0] == ["artifact", "…w8a8", "…w8a16", "…w8a8_mixed"]


def test_a_name_that_shares_nothing_loses_its_beginning_and_never_what_tells_it_from_another() -> None:
    names = ("first network of a long name", "second net of another")
    numbers = column("ms", Kind.NUMBER, "123456.7", "2")
    (part,) = shown(lay_out([column("artifact", Kind.NAME, *names), numbers], 25))
    assert part[0] == ["artifact", "…of a long name", "…net of another"]  # 25 less a gap of 2 and 8 of numbers
    alike = ("FirstNetworkOfALongName", "OtherNetworkOfALongName")
    (part,) = shown(lay_out([column("artifact", Kind.NAME, *alike), numbers], 25))
    assert part[0] == ["artifact", *alike]


def test_long_prose_is_a_note_said_once_and_short_prose_stays() -> None:
    why = "expected a Mac, got Linux; copy the artifact to a Mac and run it there"
    table = [column("artifact", Kind.NAME, "a", "b", "c"), column("note", Kind.PROSE, why, "fine", why)]
    layout = lay_out(table, 40)
    assert shown(layout) == [[["artifact", "a", "b", "c"], ["note", "[1]", "fine", "[1]"]]]
    assert layout.notes == [f"[1] {why}"]
    assert lay_out(table, 60).notes == []  # 8, a gap of 2, 50: no column of prose is narrower


def test_prose_of_all_rows_is_said_above() -> None:
    why = "few launches: the interval is rather too narrow"
    layout = lay_out([column("artifact", Kind.NAME, "a", "b"), column("note", Kind.PROSE, why, why)], 40)
    assert layout.above == [f"note: {why}"]
    assert (shown(layout), layout.notes) == ([[["artifact", "a", "b"]]], [])


def test_columns_that_do_not_fit_go_into_a_second_part_behind_what_tells_the_rows_apart() -> None:
    table = [
        column("artifact", Kind.NAME, "first", "first", "other"),
        column("threads", Kind.NUMBER, "1", "2", "1"),
        *(column(head, Kind.NUMBER, "1234.56", "2345.67", "3456.78") for head in ("load", "median", "p95")),
    ]
    key = [["artifact", "first", "first", "other"], ["threads", "1", "2", "1"]]
    heads = [[own[0] for own in part] for part in shown(lay_out(table, 40))]
    assert heads == [["artifact", "threads", "load", "median"], ["artifact", "threads", "p95"]]
    assert all(part[:2] == key for part in shown(lay_out(table, 40)))


def test_rows_are_numbered_where_names_would_stand_in_three_parts() -> None:
    rows = ("a network of some name", "another network of a name")
    wide = [column(f"column {letter}", Kind.NUMBER, "123456789", "234567891") for letter in "abcde"]
    parts = shown(lay_out([column("artifact", Kind.NAME, *rows), *wide], 40))
    assert [[own[0] for own in part] for part in parts] == [
        ["#", "artifact", "column a"],
        ["#", "column b", "column c", "column d"],
        ["#", "column e"],
    ]
    assert all(part[0] == ["#", "1", "2"] for part in parts)


def test_a_sum_is_not_torn_apart() -> None:
    heads = ("score", "drop", "= tiling", "+ quant.")
    numbers = [column(head, Kind.NUMBER, "+12345.678", "+1.0") for head in heads]
    parts = shown(lay_out([column("artifact", Kind.NAME, "first", "other"), *numbers], 50))
    assert [[own[0] for own in part] for part in parts] == [
        ["artifact", "score"],
        ["artifact", "drop", "= tiling", "+ quant."],
    ]


def test_a_single_row_keeps_its_numbers_in_the_table() -> None:
    table = [
        column("artifact", Kind.NAME, "a_network_of_a_very_long_name_that_is_wider_than_this"),
        column("ms", Kind.NUMBER, "1.00"),
        column("runtime", Kind.TEXT, "ai-edge-litert 2.3.0"),
    ]
    layout = lay_out(table, 30)
    assert layout.above == ["artifact: a_network_of_a_very_long_name_that_is_wider_than_this"]
    assert shown(layout) == [[["ms", "1.00"], ["runtime", "ai-edge-litert 2.3.0"]]]


def test_what_is_said_above_is_in_the_order_of_the_columns() -> None:
    table = [
        column("artifact", Kind.NAME, "net_x4_fp32", "net_x4_w8a8"),
        column("set", Kind.TEXT, "Set14", "Set14"),
        column("device", Kind.TEXT, "a device of a very long name", "a device of a very long name"),
        column("ms", Kind.NUMBER, "1.00", "2.00"),
    ]
    assert lay_out(table, 17).above == ["artifact: net_x4_…", "set: Set14", "device: a device of a very long name"]


@pytest.mark.parametrize("width", [1, 20])
def test_a_terminal_that_is_too_narrow_loses_nothing(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    print_it, expected = printed_reports.REPORTS["verify"]
    lines = printed(monkeypatch, print_it, width)
    for number in expected[:5]:
        assert any(number in line for line in lines), number


def test_words_are_wrapped_into_three_lines_at_most() -> None:
    text = "eight words of a text that wraps here"
    for length in range(1, 9):
        cut = " ".join(text.split()[:length])
        own = column("what", Kind.TEXT, cut)
        lines, used = 1, 0
        for word in cut.split():  # greedy, as terminals' readers wrap
            fits = used == 0 or used + 1 + len(word) <= own.least
            lines, used = (lines, used + (used > 0) + len(word)) if fits else (lines + 1, len(word))
        assert lines <= 3


def test_wide_characters_count_as_two_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    table = new_table("name", "ms", right=(1,), names=(0,))
    for name in ("网络网络网络网络网络一", "网络网络网络网络网络二"):  # 22 cells each
        add_row(table, name, f"123.{len(table.rows)}")
    lines = printed(monkeypatch, lambda: show(table), 24)
    assert max(map(cell_len, lines)) <= 24
    assert [line.split() for line in lines[3:5]] == [["…网络网络网络一", "123.0"], ["…网络网络网络二", "123.1"]]


def test_sections_and_styles_stay_with_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    table = new_table("artifact", *(f"number {letter}" for letter in "abcdef"), right=range(1, 7), names=(0,))
    add_row(table, "first", *["123456.789"] * 6)
    table.add_section()
    add_row(table, "other", *["2"] * 6, style="yellow")
    lines = [line.rstrip() for line in printed(monkeypatch, lambda: show(table), 60)]
    firsts = [index for index, line in enumerate(lines) if line.startswith(" first")]
    assert len(firsts) == 2
    assert all(lines[index + 1] == "" and lines[index + 2].startswith(" other") for index in firsts)


# ------------------------------------------------------------------------------------------------------------- streams
def test_a_line_is_broken_between_words_at_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/a/folder/that/is/rather/long/for/a/narrow/terminal"
    text = f"  written to {path}, 123.45 s in all"
    assert printed(monkeypatch, lambda: say(text), 30) == ["  written to", f"    {path},", "    123.45 s in all"]
    monkeypatch.setenv("COLUMNS", "30")
    say(text)
    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize(("columns", "expected"), [("80", 80), ("0", 200), ("wide", 200), (None, 200)])
def test_a_pipe_is_as_wide_as_columns_asks_or_wide_enough_for_whole_tables(columns: str | None, expected: int) -> None:
    script = "from apps.terminal import console; print(console().width)"
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1])} | ({} if columns is None else {"COLUMNS": columns})
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, check=True, env=environment, stdin=subprocess.DEVNULL)
    assert int(done.stdout) == expected


def test_a_head_of_a_style_is_a_cell_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    table = new_table("status", "what")
    add_row(table, styled("failed", "bold red"), "nothing")
    assert any(line.split() == ["failed", "nothing"] for line in printed(monkeypatch, lambda: show(table), 80))
