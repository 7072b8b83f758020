"""What a rule is, what it found, and where each rule was read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from apps.lint.graph import Op

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
DOCUMENTED, OBSERVED, FOLKLORE = "documented", "observed", "folklore"
CONFIDENCES = (DOCUMENTED, OBSERVED, FOLKLORE)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a rule was read: a document or a file, its place, and which state of it was seen."""

    title: str
    where: str
    seen: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    @property
    def line(self) -> str:
        return f"{self.title}, {self.where} ({self.seen})"


_LITERT = "github.com/google-ai-edge/LiteRT"
_COREML_GUIDE = "apple.github.io/coremltools/docs-guides/source"

SOURCES: dict[str, Source] = {
    "xnnpack-readme": Source(
        title="XNNPACK backend for TensorFlow Lite: limitations and supported operators",
        where=f"{_LITERT}: tflite/delegates/xnnpack/README.md",
        seen="commit 3a653aa8",
    ),
    "asked": Source(
        title="the backend itself, asked on this machine or at export",
        where="apps/lint/backends.py",
        seen="each time",
    ),
    "xnnpack-asked": Source(
        title="the interpreter itself, asked with hand-made models",
        where="tests/test_lint.py",
        seen="ai-edge-litert 2.3.0, x86-64",
    ),
    "xnnpack-timed": Source(
        title="single operators timed in LiteRT and ExecuTorch, 64 channels, 64x64 and 48 channels, 128x128",
        where="measured while this project's networks were designed",
        seen="ai-edge-litert 2.3.0 and executorch 1.4.1, x86-64, one thread",
    ),
    "coreml-typed": Source(
        title="Typed Execution Workflow Example",
        where=f"{_COREML_GUIDE}/typed-execution-example.html",
        seen="coremltools 9 guide",
    ),
    "coreml-quantization": Source(
        title="Quantization: performance",
        where=f"{_COREML_GUIDE}/opt-quantization-perf.html",
        seen="coremltools 9 guide",
    ),
    "coreml-flexible": Source(
        title="answer of an Apple engineer on models with range flexibility; Flexible Input Shapes",
        where=f"developer.apple.com/forums/thread/724930; {_COREML_GUIDE}/flexible-inputs.html",
        seen="2023; coremltools 9 guide",
    ),
    "coreml-rank": Source(
        title="Core ML does not support tensors with a rank greater than five (maintainers)",
        where="github.com/apple/coremltools issues 1723 and 2291",
        seen="2023-01-09, 2024-07-31",
    ),
    "ane-transformers": Source(
        title="Deploying Transformers on the Apple Neural Engine",
        where="machinelearning.apple.com/research/neural-engine-transformers",
        seen="2022-06",
    ),
    "ane-layout-quoted": Source(
        title="Deploying Transformers on the Apple Neural Engine, as others quote it",
        where="machinelearning.apple.com/research/neural-engine-transformers",
        seen="second-hand: the sentence on 64-byte rows was read in quotations only",
    ),
    "ane-layers": Source(
        title="Which Core ML layers are not supported by the ANE?",
        where="github.com/hollance/neural-engine: docs/unsupported-layers.md",
        seen="commit 06a7632e; its author calls some of it guesses",
    ),
    "ane-sizes": Source(
        title="Optimization Guidelines for the Apple Neural Engine",
        where="gist.github.com/antmikinka/715499ae63630575065b22e5cb6ad8dd",
        seen="2024-05-16",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that an accelerator will not do, or does slowly.

    Attributes:
        id: stable name, ``xnnpack-rank`` for example.
        severity: ``error`` (falls back for certain), ``warning`` (likely slower, or may fall back), ``note``.
        confidence: ``documented`` by the vendor (its code counts), ``observed`` in the runtime, or ``folklore``.
        why: one sentence.
        fix: what to do, one sentence.
        source: key of :data:`SOURCES`.
    """

    id: str
    severity: str
    confidence: str
    why: str
    fix: str
    source: str

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES or self.confidence not in CONFIDENCES or self.source not in SOURCES:
            raise ValueError(f"rule {self.id}: unknown severity, confidence or source")
        if self.severity == ERROR and self.confidence == FOLKLORE:
            raise ValueError(f"rule {self.id}: folklore is no certainty; make it a warning")


@dataclass(frozen=True, kw_only=True)
class Place:
    """An operator that a finding is about."""

    index: int
    kind: str
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A rule that applies, at one or more places, with what was found there in ``detail``."""

    rule: Rule
    accelerator: str
    detail: str
    places: tuple[Place, ...]

    @property
    def source(self) -> Source:
        return SOURCES[self.rule.source]

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule.id,
            "severity": self.rule.severity,
            "confidence": self.rule.confidence,
            "accelerator": self.accelerator,
            "detail": self.detail,
            "why": self.rule.why,
            "fix": self.rule.fix,
            "source": self.source.to_json(),
            "places": [{**asdict(place), "shape": list(place.shape)} for place in self.places],
        }


def place_of(op: Op) -> Place:
    """Where an operator is, for a finding."""
    return Place(index=op.index, kind=op.kind, name=op.name, shape=op.output.shape)


# What is wrong with an operator, or None.
Check = Callable[[Op], str | None]


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A rule and the check that says whether an operator breaks it."""

    rule: Rule
    check: Check


def needs(rule: Rule, *parts: Check) -> tuple[Requirement, ...]:
    """One requirement of ``rule`` for each check."""
    return tuple(Requirement(rule=rule, check=part) for part in parts)
