"""Measuring scripts use an artifact again only while weights and toolchains are the same."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import kept

NUMPY = metadata.version("numpy")


@pytest.mark.parametrize(
    ("name", "weights", "versions", "found"),
    [
        ("a", "1" * 64, {"numpy": NUMPY, "python": "3", "not-installed-anywhere": "1"}, True),
        ("a", "1" * 64, {"numpy": "0.0"}, False),
        ("a", "2" * 64, {"numpy": NUMPY}, False),
        ("b", "1" * 64, {"numpy": NUMPY}, False),
    ],
    ids=["the same", "other tools", "other weights", "no such folder"],
)
def test_kept_artifact(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, weights: str, versions: dict[str, str], found: bool
) -> None:
    (tmp_path / "a").mkdir()
    meta = SimpleNamespace(checkpoint_sha256="1" * 64, tool_versions=versions)
    monkeypatch.setattr(kept, "load_artifact", lambda path: SimpleNamespace(path=path, meta=meta))
    assert (kept.kept_artifact(tmp_path, name, weights_sha256=weights) is not None) is found
