"""What to do with fresh artifacts: which file an app takes, and the commands that go on from here."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.artifact import Artifact, TensorSpec
from converters.targets import TARGETS
from edge_sr.sizes import format_size


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One model file of an artifact. ``takes`` and ``gives`` describe a tile and its result, for people."""

    artifact: Artifact
    path: Path
    takes: str
    gives: str

    @property
    def target_title(self) -> str:
        return TARGETS[self.artifact.meta.target].title


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """``what`` in a few words, and the command for it."""

    what: str
    command: str


def model_files(artifacts: Sequence[Artifact]) -> Iterator[ModelFile]:
    """Every runnable file of every artifact, the one that takes a picture's bytes first."""
    for artifact in artifacts:
        for name in sorted(artifact.meta.io, key=lambda name: artifact.meta.io[name].input.dtype != "uint8"):
            variant = artifact.meta.io[name]
            yield ModelFile(
                artifact=artifact,
                path=artifact.path / name,
                takes=_described(variant.input),
                gives=_described(variant.output),
            )


def next_steps(artifacts: Sequence[Artifact]) -> tuple[NextStep, ...]:
    """Commands that use these artifacts: upscale a photo, and measure on a phone; int8 artifacts come before others."""
    chosen = _int8_first(artifacts)
    by_target = {artifact.meta.target: artifact for artifact in reversed(chosen)}
    steps = [_step("Upscale a photo", "upscale", "photo.jpg", "--artifact", str(one.path)) for one in chosen[:1]]
    if (tflite := by_target.get("tflite")) is not None:
        steps.append(_step("Try it on any phone", "profile", str(tflite.path), "--device", "browser", "--lan"))
    android = by_target.get("tflite") or by_target.get("executorch")
    if android is not None:
        steps.append(_step("Measure on Android", "profile", str(android.path), "--device", "adb"))
    if (coreml := by_target.get("coreml")) is not None:
        steps.append(_step("Measure on Apple", "profile", str(coreml.path), "--device", "apple"))
    return tuple(steps)


def next_lines(artifacts: Sequence[Artifact]) -> tuple[str, ...]:
    """The same for a terminal, in at most four lines, with the file that an app takes."""
    steps = [f"{step.what}: {step.command}" for step in next_steps(artifacts)]
    app = [f"Put it into an app: {file.path} ({file.takes})" for file in model_files(_int8_first(artifacts)[:1])]
    return (*steps[:1], *app[:1], *steps[1:3])


def _int8_first(artifacts: Sequence[Artifact]) -> list[Artifact]:
    return sorted(artifacts, key=lambda artifact: "8" not in artifact.meta.scheme)


def _step(what: str, *words: str) -> NextStep:
    return NextStep(what=what, command=shlex.join(["edge-sr", *words]))


def _described(spec: TensorSpec) -> str:
    size, (black, white) = format_size(spec.image_size), spec.value_range
    if spec.layout == "image":
        return f"{size} picture"
    return f"{size} {spec.channels}, {spec.layout}, {spec.dtype} from {black:g} to {white:g}"
