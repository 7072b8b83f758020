"""What can happen to a file, drawn from fixed seeds, and to ``artifact.json`` with its digest made anew; and children
that open one damaged copy after another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from converters.artifact import Artifact
from converters.isolation import Child, IsolatedRunner
from edge_sr.errors import EdgeSRError

# A damaged size must not become memory of this machine: the child gets an address space of its own size.
MEMORY_LIMIT_BYTES = 24 * 2**30
TIMEOUT_S = 60.0


class ReusedRunner(IsolatedRunner):
    """An isolated runner that does not start, or end, its child."""

    def __init__(self, artifact: Artifact, child: Child, runtime: str | None) -> None:
        self.scale, self.tile, self.timeout_s, self._child = artifact.meta.scale, artifact.meta.tile, TIMEOUT_S, child
        request = {
            "do": "open",
            "artifact": str(artifact.path),
            "file": artifact.meta.main_file,
            "threads": 1,
            "runtime": runtime,
        }
        self.name = child.ask(request, timeout_s=TIMEOUT_S)[0]["name"]


def limited_child(what: str, *, environment: Mapping[str, str] | None = None) -> Child:
    """A child process with an end to its memory."""
    child = Child(what=what, environment=environment)
    process = psutil.Process(child._process.pid)
    if hasattr(process, "rlimit"):
        process.rlimit(psutil.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    return child


def damages(content: bytes, other: bytes, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of ``count`` kinds of damage, after a few that always belong."""
    yield "emptied", b""
    yield "one byte left", content[:1]
    yield "last byte lost", content[:-1]
    yield "random bytes", np.random.default_rng(seed).bytes(len(content))
    yield "random bytes behind the true header", content[:16] + np.random.default_rng(seed).bytes(len(content) - 16)
    yield "zeroed", bytes(len(content))
    yield "another network's", other
    yield "text", b"<!DOCTYPE html><html>404 not found</html>"
    yield "first byte lost", content[1:]
    for number in range(count):
        drawn = one_damage(content, np.random.default_rng((seed, 0, number)))
        if drawn[1] != content:  # zeros written over zeros are none
            yield drawn
        yield weight_damage(content, other, np.random.default_rng((seed, 1, number)))


def one_damage(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    damaged = bytearray(content)
    kind = rng.choice(["truncated", "bits", "run", "zeros", "ones", "inserted", "removed", "swapped"])
    at, length = int(rng.integers(len(content))), int(rng.integers(1, max(2, len(content) // 8)))
    match kind:
        case "truncated":
            del damaged[at:]
        case "bits":
            length = int(rng.choice([1, 8, 64]))
            for place in rng.integers(8 * len(content), size=length):
                damaged[place // 8] ^= 1 << (place % 8)
        case "run":
            damaged[at : at + length] = rng.bytes(len(damaged[at : at + length]))
        case "zeros" | "ones":
            damaged[at : at + length] = (b"\0" if kind == "zeros" else b"\xff") * len(damaged[at : at + length])
        case "inserted":
            damaged[at:at] = rng.bytes(length)
        case "removed":
            del damaged[at : at + length]
        case "swapped":
            half = damaged[at : at + length]
            del damaged[at : at + length]
            damaged += half
    return f"{kind} ({length} at {at})", bytes(damaged)


def weight_damage(content: bytes, other: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Changed weights in a file whose structure stays whole: two networks' files differ in weights and scales."""
    own, brother = (np.frombuffer(data, np.uint8) for data in (content, other))
    shared = min(len(own), len(brother))
    places = np.flatnonzero(own[:shared] != brother[:shared])
    count = min(int(rng.choice([1, 1, 4, 16, 64])), len(places))
    chosen = rng.choice(places, size=count, replace=False)
    damaged = own.copy()
    damaged[chosen] ^= rng.integers(1, 256, size=count, dtype=np.uint8)
    return f"{count} bytes of weights (the first at {chosen[0]} of {len(places)})", damaged.tobytes()


def one_line(error: EdgeSRError) -> bool:
    text = str(error)
    return bool(text) and "\n" not in text and len(text) < 2000


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change ``artifact.json`` as someone would who knows how its digest is made."""
    data = json.loads((path / "artifact.json").read_text())
    del data["sha256"]
    change(data)
    write_digested(path / "artifact.json", data)


def write_digested(path: Path, data: Any) -> None:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**data, "sha256": hashlib.sha256(text.encode()).hexdigest()}))


def resize(data: dict[str, Any], height: int, width: int, scale: int) -> None:
    data.update(tile=[height, width], scale=scale)
    for variant in data["io"].values():
        for side, factor in (("input", 1), ("output", scale)):
            tall, wide = factor * height, factor * width
            shapes = {"image": [tall, wide], "NHWC": [1, tall, wide, 3], "NCHW": [1, 3, tall, wide]}
            variant[side]["shape"] = shapes[variant[side]["layout"]]
