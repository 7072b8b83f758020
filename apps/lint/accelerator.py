"""An accelerator that nobody can ask here, as data: what it takes under which conditions, and what slows it down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from apps.lint.graph import Graph, Op
from apps.lint.rules import Finding, Requirement, Rule, place_of

GraphCheck = Callable[[Graph, str], tuple[Finding, ...]]


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One place where a model can run.

    Attributes:
        name: as typed on the command line; ``title`` as printed.
        formats: targets whose artifacts it reads.
        table: operator kind -> what it must fulfil to be taken. An error's breach leaves the operator outside; a
            warning's leaves it in doubt where the rule is in :attr:`doubtful`.
        everywhere: requirements of all operators that are taken.
        unsupported: rule for a kind that is not in the table.
        advice: requirements that only cost speed; nothing falls back for them.
        graph_checks: of the whole model.
        outside: ids of milder rules whose breach leaves an operator outside all the same.
        doubtful: ids of warnings that may make an operator fall back.
        caveat: what this forecast assumes.
    """

    name: str
    title: str
    formats: tuple[str, ...]
    table: Mapping[str, tuple[Requirement, ...]]
    everywhere: tuple[Requirement, ...] = ()
    unsupported: Rule
    advice: Mapping[str, tuple[Requirement, ...]] = field(default_factory=dict)
    graph_checks: tuple[GraphCheck, ...] = ()
    outside: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()
    caveat: str


def whole_model(rule: Rule, accelerator: str, detail: str, ops: tuple[Op, ...] = ()) -> Finding:
    """A finding about the model as a whole, or about many operators at once."""
    return Finding(rule=rule, accelerator=accelerator, detail=detail, places=tuple(place_of(op) for op in ops))
