"""Text from outside is shown, whatever it holds: on a terminal, in charts, in pages, in results of CI."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

import apps.progress
from apps.figures import Panel, compose_rows, figure_png
from apps.pages import write_page
from apps.profiling.adb.device_state import parse_device
from apps.profiling.adb.results import AdbReport
from apps.profiling.adb_view import print_adb
from apps.streams import complain
from apps.terminal import add_row, console, new_table, say, show, styled
from edge_sr.errors import reason_of
from edge_sr.foreign_text import one_line, visible

NAMES = [
    "[/x]",
    "[bold]x[/bold]",
    ":smile:",
    "a\nb",
    "\x1b[31mred",
    "\u202egpj.exe",
    "\udcff.png",
    "$x$^",
    "<b>&",
    "\0",
]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 模 – [x]", "plain ü 模 – [x]"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J\x9b", r"\x1b[2J\x9b"),
        ("\u202e\u2066\u200b", r"\u202e\u2066\u200b"),
        ("\udcff\ud800", r"\udcff\ud800"),
        ("5\xa0ms", "5 ms"),
        ("abcdef", "abcd…"),
        ("\n\n\n", r"\n\n…"),
    ],
)
def test_what_is_not_printable_is_spelled(text: str, shown: str) -> None:
    assert visible(text, limit=5 if shown.endswith("…") else 100) == shown


@given(text=st.text(st.characters(), max_size=40), limit=st.integers(1, 20))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_any_text_is_one_printable_line_of_bounded_length(text: str, limit: int) -> None:
    for shown in (visible(text, limit=limit), one_line(text, limit=limit)):
        assert shown.isprintable()
        assert len(shown) <= limit
        shown.encode()


def test_a_reason_is_prose_in_one_line() -> None:
    assert reason_of(ValueError("first\n  second\x1b[0m")) == r"first second\x1b[0m"
    assert reason_of(ValueError()) == "ValueError"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is_in_tables_and_lines(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table("head", name, title=name)
    add_row(table, name, (name, "below"))
    add_row(table, styled(name, "red"), "", style="yellow")
    show(table)
    say(name)
    complain(name)
    out, err = capsys.readouterr()
    assert out.count(visible(name)) == 6  # head, title, two cells, a styled one, the line
    assert err == f"error: {one_line(name)}\n"
    assert all(line.isprintable() for line in out.split("\n"))


def test_no_text_is_wider_than_its_column_where_the_encoding_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace"))
    table = new_table("name", "value")
    add_row(table, "é→", "1")
    add_row(table, "e", "2")
    show(table)
    sys.stdout.flush()
    text = raw.getvalue().decode("ascii")
    assert r"\xe9\u2192" in text
    assert len({len(line) for line in text.splitlines()}) == 1


def test_a_terminal_gets_no_escape_code_of_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    with apps.progress._bars(stream) as report:
        report("[/x]\x1b[31m", 1, 1, "[bold]\n")
    shown = stream.getvalue()
    assert r"[/x]\x1b[31m" in shown
    assert r"[bold]\n" in shown
    lines = io.StringIO()
    apps.progress.LogLines(lines)("a\x1b[31m\nb", 1, 1)
    assert lines.getvalue().startswith(r"a\x1b[31m\nb: 1/1")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_drawn_as_it_is(name: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.barh([0], [1.0])
    axes.set_yticks([0], [name])
    axes.text(0.5, 0, name)
    chart = figure_png(figure)
    picture = compose_rows([[Panel(label=name, image=np.zeros((4, 4, 3), np.uint8), note=name)]], side=16)
    assert chart.startswith(b"\x89PNG")
    assert picture.shape[2] == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is_in_a_page(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jinja2

    class Loader(jinja2.DictLoader):
        def __init__(self, package: str) -> None:
            super().__init__({package: "", "page": "<p>{{ name }}|{{ [name] | join }}|{{ noise | png }}</p>"})

    monkeypatch.setattr(jinja2, "PackageLoader", Loader)
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    facts: dict[str, Any] = {"name": name, "noise": noise}
    page = write_page(tmp_path / "p.html", "page", title="", command="", facts=facts).read_text(encoding="utf-8")
    spelled = visible(name).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    head, picture = f"<p>{spelled}|{spelled}|data:image/png;base64,", page.removesuffix("</p>").partition("base64,")[2]
    assert page == f"{head}{picture}</p>"
    # Noise does not shrink: longer than any text may be, and whole.
    np.testing.assert_array_equal(np.asarray(PillowImage.open(io.BytesIO(base64.b64decode(picture)))), noise)


def test_a_phone_of_any_name_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = "@@props\n[ro.product.model]: [[/x]\x1b[31m:smile:]\n@@end\n"
    print_adb(AdbReport(device=parse_device(text, "serial"), rows=(), interrupted=False, left_behind=None))
    assert r"calling itself unknown [/x]\x1b[31m:smile: (serial serial)" in capsys.readouterr().out


def test_markup_of_our_own_is_not_read_either(capsys: pytest.CaptureFixture[str]) -> None:
    console().print("[red]:x:[/red]")
    assert capsys.readouterr().out == "[red]:x:[/red]\n"


def test_nothing_is_printed_or_drawn_past_the_helpers() -> None:
    apps_folder = Path(apps.progress.__file__).parent
    own = {"Table(": "terminal.py", ".savefig(": "figures.py", "rich.markup": None, "typer.echo(": None}
    sources = {file: file.read_text(encoding="utf-8") for file in apps_folder.rglob("*.py")}
    assert len(sources) > 50
    found = {(word, file.name) for file, text in sources.items() for word in own if word in text}
    assert found == {(word, file) for word, file in own.items() if file is not None}
