"""A history that several processes begin at once, that is damaged, or that is asked and given what makes no sense."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import all_at_once

from apps.cli import main
from apps.history.measurement import ACCURACY, Measurement
from apps.history.store import Filter, append, import_lines, moment, read
from edge_sr.errors import DataError
from fakes import FAKE_MEASUREMENT

EXAMPLE = replace(FAKE_MEASUREMENT, details={"notes": ["a line"], "ratio": 0.5})


def score(number: int) -> Measurement:
    return replace(EXAMPLE, kind=ACCURACY, samples_ms=(), set_name="Set5", psnr_y_db=30.0 + number, ssim=0.9, images=5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "history.sqlite3"


# ----------------------------------------------------------------------------------------------------- several at once
WRITER = """
import json, sys
from dataclasses import replace
from pathlib import Path
from apps.history.measurement import Measurement
from apps.history.store import append, read
example = Measurement.from_json(json.loads(sys.argv[2]))
print("ready", flush=True)
for line in sys.stdin:
    for number in range(20):
        append([replace(example, load_ms=float(number))], Path(sys.argv[1]))
    read(Path(sys.argv[1]))
"""


def test_several_processes_begin_a_history_at_once_and_nothing_is_lost(file: Path) -> None:
    examples = [json.dumps(replace(EXAMPLE, device=f"processor {number}").to_json()) for number in range(6)]
    all_at_once(WRITER, [(file, example) for example in examples])
    kept = read(file)
    assert {(row.device, row.load_ms) for row in kept} == {
        (f"processor {number}", float(load)) for number in range(6) for load in range(20)
    }
    assert len(kept) == 120
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# --------------------------------------------------------------------------------------------------------------- damage
def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """One to 64 bits flipped, a byte replaced, or a run of bytes zeroed."""
    damaged = np.frombuffer(content, np.uint8).copy()
    at = int(rng.integers(len(damaged)))
    match rng.choice(["bits", "byte", "zeros"]):
        case "bits":
            places = rng.integers(len(damaged), size=int(rng.choice([1, 1, 1, 8, 64])))
            damaged[places] ^= np.uint8(1) << rng.integers(8, size=len(places), dtype=np.uint8)
        case "byte":
            damaged[at] = rng.integers(256)
        case "zeros":
            damaged[at : at + int(rng.integers(1, 200))] = 0
    return damaged.tobytes()


def test_whatever_is_flipped_in_the_file_the_rows_are_those_appended_or_it_is_refused(file: Path) -> None:
    kept = [replace(EXAMPLE, load_ms=float(number), created=f"2026-01-{number:02}T00:00:00+00:00") for number in (1, 2)]
    append([*kept, *map(score, range(3))], file)
    expected, content = read(file), file.read_bytes()
    refusals = []
    for number in range(400):
        damaged = file.with_name(f"{number}.sqlite3")
        damaged.write_bytes(flipped(content, np.random.default_rng((7, number))))
        try:
            assert read(damaged) == expected, number
        except DataError as error:
            refusals.append(error)
    assert all(map(one_line, refusals))
    assert len(refusals) > 100, "most of the file means something"


COLUMNS = ("fingerprint", "kind", "created", "artifact_name", "artifact_sha256", "model", "target", "device")
CONTENTS: dict[str, object] = {
    "a digit": json.dumps(replace(EXAMPLE, threads=2).to_json()),
    "no JSON": "{",
    "another type": 5,
    "nothing": "",
    "bytes": b"\xff\xfe",
    "deep": "[" * 100_000,
    "an object of nothing": "{}",
}


@pytest.mark.parametrize("wanted", [Filter(), Filter(model="another")])
@pytest.mark.parametrize("column", [*COLUMNS, *CONTENTS])
def test_a_row_that_was_changed_is_named_with_the_cure_whatever_is_asked_for(
    file: Path, column: str, wanted: Filter
) -> None:
    append([EXAMPLE, score(1), score(2)], file)
    with closing(sqlite3.connect(file)) as connection, connection:
        name, value = (column, "2027") if column in COLUMNS else ("content", CONTENTS[column])
        connection.execute(f"UPDATE measurements SET {name} = ? WHERE id = 2", (value,))
    with pytest.raises(DataError, match=r"expected row 2 of the history .* as it was appended") as caught:
        read(file, wanted)
    assert one_line(caught.value)
    cure = str(caught.value).rpartition('"DELETE')[2].rstrip('"')
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(f"DELETE{cure}")
    assert set(map(str, read(file))) == {str(EXAMPLE), str(score(2))}


def test_rows_of_a_release_with_fewer_fields_are_as_good_as_ever(file: Path) -> None:
    append([EXAMPLE], file)
    older = {key: value for key, value in EXAMPLE.to_json().items() if key not in ("ssim", "images")}
    # As a release that knew fewer fields made it.
    digest = hashlib.sha256(json.dumps(older, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(
            "UPDATE measurements SET content = ?, fingerprint = ?", (json.dumps(older, sort_keys=True), digest)
        )
    assert read(file) == (EXAMPLE,)


def test_an_empty_file_is_no_history_to_read_and_one_to_begin(file: Path) -> None:
    file.parent.mkdir()
    file.touch()
    with pytest.raises(DataError, match="got an empty file"):
        read(file)
    assert append([EXAMPLE], file) == 1


# -------------------------------------------------------------------------------------------------------- foreign text
def with_field(**changes: Any) -> bytes:
    return json.dumps(EXAMPLE.to_json() | changes).encode()


LINES: dict[str, bytes] = {
    "no UTF-8": b'{"kind": "\xff\xfe"}',
    "half a character": with_field(artifact_name="\ud800"),
    "half a character within": with_field(details={"a": ["\udfff"]}),
    "deep lists": b"[" * 100_000,
    "deep details": with_field(details={"a": json.loads("[" * 400 + "]" * 400)}),
    "NaN": with_field(load_ms=float("nan")),
    "infinite": with_field(samples_ms=[float("inf")]),
    "no number": with_field(samples_ms=["nan"]),
    "a number beyond floats": with_field(samples_ms=[10**400]),
    "a number of 10000 digits": b'{"scale": ' + b"9" * 10_000 + b"}",
    "a count beyond machines": with_field(threads=10**30),
    "a bool": with_field(scale=True),
    "a negative count": with_field(threads=-1),
    "a tile of words": with_field(tile=["a", "b"]),
    "a tile of three": with_field(tile=[1, 2, 3]),
    "a name that is none": with_field(model=5),
    "a name of null": with_field(device=None),
    "statistics of words": with_field(statistics={"median_ms": "fast"}),
    "statistics in a list": with_field(statistics=[1]),
    "a time of null": with_field(created=None),
    "a list": b"[1]",
    "a byte order mark": b"\xef\xbb\xbf" + with_field(),
}


@pytest.mark.parametrize("kind", LINES)
def test_a_line_that_is_no_measurement_is_named_and_nothing_imported(file: Path, tmp_path: Path, kind: str) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(with_field(load_ms=1.0) + b"\r\n\n" + LINES[kind] + b"\n")
    with pytest.raises(DataError, match=r"lines\.jsonl, line 3: .*nothing was imported") as caught:
        import_lines(file, lines)
    assert one_line(caught.value)
    assert not file.exists()


def test_a_line_ends_where_it_ends_not_within_a_text(file: Path, tmp_path: Path) -> None:
    odd = replace(EXAMPLE, device="a\u2028b\x1cc\x85d")
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps(odd.to_json(), ensure_ascii=False), encoding="utf-8")
    assert import_lines(file, lines) == (1, 0)
    assert read(file) == (odd,)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(EXAMPLE.to_json())), value=JSON_VALUES)
def test_any_value_in_any_field_makes_a_measurement_or_is_refused_in_one_line(name: str, value: object) -> None:
    refusal = None
    try:
        made = Measurement.from_json(EXAMPLE.to_json() | {name: value})
        json.dumps(made.to_json(), allow_nan=False)
        assert made.fingerprint == Measurement.from_json(made.to_json()).fingerprint
    except DataError as error:
        refusal = error
    assert refusal is None or one_line(refusal)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2026-01-31", "2026-01-31T00:00:00+00:00", "2026-01-31T23:59:59+00:00"),
        ("20260131", "2026-01-31T00:00:00+00:00", "2026-01-31T23:59:59+00:00"),
        ("2026-W05-6", "2026-01-31T00:00:00+00:00", "2026-01-31T23:59:59+00:00"),
        ("2026-01-31T12", "2026-01-31T12:00:00+00:00", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31T01:00:00+14:00", "2026-01-30T11:00:00+00:00", "2026-01-30T11:00:00+00:00"),
        ("0001-01-01", "0001-01-01T00:00:00+00:00", "0001-01-01T23:59:59+00:00"),
        ("9999-12-31", "9999-12-31T00:00:00+00:00", "9999-12-31T23:59:59+00:00"),
    ],
)
def test_days_and_times_are_utc_and_a_day_is_all_of_it(text: str, first: str, last: str) -> None:
    assert (moment(text, end=False), moment(text, end=True)) == (first, last)


@pytest.mark.parametrize(
    "text",
    [
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-00:01", "", "yesterday", "2026-13-01", "2026-02-30"),
        *("10000-01-01", "2026-01-31T25:00", "2026-01-31T00:00+25:00", "\udcff", "1e400", "2026-01-31T12:00:00+00:00Z"),
    ],
)
def test_a_time_that_is_none_is_one_line(file: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    append([EXAMPLE], file)
    for option in ("--since", "--until"):
        assert main(["history", "--history", str(file), option, text]) == 2
        assert capsys.readouterr().err.startswith("error: expected a day such as 2026-01-31 or a UTC time, got ")


@pytest.mark.parametrize("option", ["--model", "--device", "--artifact"])
def test_a_word_that_is_no_text_is_one_line(file: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    append([EXAMPLE], file)
    assert main(["history", "--history", str(file), option, "caf\udce9"]) == 2
    assert capsys.readouterr().err.startswith("error: expected text to look for in the history, got 'caf\\udce9'")
