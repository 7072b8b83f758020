"""Sizes are typed and read width first, whatever they are the size of."""

from __future__ import annotations

from pathlib import Path

import pytest

from apps import cli
from converters.artifact import artifact_name
from edge_sr.errors import ConfigError
from edge_sr.sizes import format_size, parse_size, short_size


def test_what_is_typed_is_width_first() -> None:
    assert parse_size("4000x3000", "picture", "4000x3000") == (3000, 4000)
    assert parse_size(" 128X64 ", "tile", "128x128") == (64, 128)


@pytest.mark.parametrize("text", ["", "128", "128x", "x64", "0x64", "64x0", "1x2x3", "-1x5", "12.5x8", "a x b"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a tile as WIDTHxHEIGHT, got .*, write 96x64, say"):
        parse_size(text, "tile", "96x64")


def test_a_size_that_can_be_taken_for_its_reverse_is_spelled_out() -> None:
    assert format_size((64, 128)) == "128 wide, 64 high"
    assert format_size((128, 128)) == "128x128"
    assert short_size((64, 128)) == "128x64"


def test_the_name_of_an_artifact_is_width_first_too() -> None:
    name = artifact_name(model="net", scale=4, scheme="w8a8", target="tflite", tile=parse_size("128x64", "tile", ""))
    assert name == "net_x4_w8a8_tflite_128x64"


@pytest.mark.parametrize("command", ["export", "demo", "sensitivity", "plan"])
def test_every_command_that_takes_a_size_says_width_first(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert "WIDTHxHEIGHT" in said
    assert "HEIGHTxWIDTH" not in said
    assert "height x width" not in said


def test_a_tile_that_is_not_square_is_said_again_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "--checkpoint", "none", "--tile", "128x64", "--out", str(tmp_path)]) == 2
    assert "tile: 128 wide, 64 high" in capsys.readouterr().err
