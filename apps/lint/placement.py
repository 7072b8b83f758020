"""A backend that is asked: its own compiler or partitioner says where every operator runs, and nothing is forecast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from apps.lint.accelerator import GraphCheck
from apps.lint.graph import Graph, Op
from apps.lint.rules import ERROR, OBSERVED, WARNING, Finding, Requirement, Rule, place_of
from converters.artifact import Artifact

UNANSWERED = Rule(
    id="not-asked",
    severity=WARNING,
    confidence=OBSERVED,
    why="the backend could not be asked here, so nothing is known of this artifact on it.",
    fix="install what the detail names, or ask on another machine.",
    source="asked",
)
REFUSED = Rule(
    id="file-refused",
    severity=ERROR,
    confidence=OBSERVED,
    why="the backend was asked and refuses the file.",
    fix="export the artifact again; where that does not help, spell what the detail names in another way.",
    source="asked",
)
OUTSIDE = Rule(
    id="outside",
    severity=ERROR,
    confidence=OBSERVED,
    why="the backend was asked and leaves these operators to other code.",
    fix="spell them as the reason wants; several smaller operators that are taken beat one that is not.",
    source="asked",
)


@dataclass(frozen=True, kw_only=True)
class Outside:
    """``count`` operators of one kind that a backend leaves out, and why in its own words, empty where it has none."""

    kind: str
    count: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What a backend said of one artifact.

    Attributes:
        ops_total, ops_taken: operators of the file, and those that run on the backend.
        outside: what it leaves out, by kind. Fewer than the difference of the two where it names causes only.
        partitions: pieces that it takes; None where it does not say.
    """

    ops_total: int
    ops_taken: int
    outside: tuple[Outside, ...]
    partitions: int | None


@dataclass(frozen=True, kw_only=True)
class AskedBackend:
    """A backend that can be asked on this machine, at least where its tools are installed.

    Attributes:
        name: as typed on the command line; ``title`` as printed.
        formats: targets whose artifacts it reads.
        ask: artifact and its operators -> placement; raises MissingToolError where it cannot be asked here, and any
            other EdgeSRError where it refuses the file.
        advice: kind of operator -> what only costs speed; ``graph_checks`` of the whole model.
        caveat: what was asked, and what its answer does not say.
    """

    name: str
    title: str
    formats: tuple[str, ...]
    ask: Callable[[Artifact, Graph], Placement]
    advice: dict[str, tuple[Requirement, ...]]
    graph_checks: tuple[GraphCheck, ...] = ()
    caveat: str


def outside_findings(placement: Placement, graph: Graph, backend: str) -> list[Finding]:
    """One error for each kind and reason, at the operators of that kind; one for all where none is named."""
    if placement.ops_taken == placement.ops_total:
        return []
    left = placement.ops_total - placement.ops_taken
    if not placement.outside:
        return [Finding(rule=OUTSIDE, accelerator=backend, detail=f"{left} operators, none named", places=())]
    found = []
    for entry in placement.outside:
        places = tuple(place_of(op) for op in graph.ops if op.kind == entry.kind)
        detail = f"{entry.count} {entry.kind}" + (f": {entry.reason}" if entry.reason else "")
        found.append(Finding(rule=OUTSIDE, accelerator=backend, detail=detail, places=places))
    return found


def is_outside(op: Op, graph: Graph, placement: Placement) -> bool | None:
    """Whether an operator is left out; None where the backend's answer does not tell it from its like."""
    kinds = {entry.kind for entry in placement.outside}
    named = sum(entry.count for entry in placement.outside if entry.kind == op.kind)
    if op.kind in kinds:
        return True if named == sum(other.kind == op.kind for other in graph.ops) else None
    complete = sum(entry.count for entry in placement.outside) == placement.ops_total - placement.ops_taken
    return False if complete else None
