"""Lint artifacts: what each backend takes of them, asked of it where that is possible and forecast where it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.lint.accelerator import Accelerator, whole_model
from apps.lint.backends import BACKENDS
from apps.lint.graph import Graph, Op
from apps.lint.neural_engine import NEURAL_ENGINE
from apps.lint.partitions import partition
from apps.lint.placement import REFUSED, UNANSWERED, AskedBackend, Placement, is_outside, outside_findings
from apps.lint.reader import read_operators
from apps.lint.rules import ERROR, SEVERITIES, Finding, Requirement, Rule, place_of
from apps.progress import Progress, quiet
from converters.artifact import Artifact, load_artifact
from edge_sr.choices import expect_choice
from edge_sr.errors import ArtifactError, ConfigError, EdgeSRError, MissingToolError, refuse_damaged

ON, OFF, UNSURE = "on", "off", "unsure"
FORECAST, ASKED, UNKNOWN = "FORECAST", "ASKED", "UNKNOWN"
DISCLAIMER = "asked: by this machine's tools; forecast: from rules; nothing was run on a device"

_ALL: tuple[AskedBackend | Accelerator, ...] = (*BACKENDS, NEURAL_ENGINE)
ACCELERATORS = tuple(accelerator.name for accelerator in _ALL)


@dataclass(frozen=True, kw_only=True)
class OpForecast:
    """Where one operator would run: ``on`` the accelerator, ``off`` it, or ``unsure``."""

    index: int
    kind: str
    name: str
    state: str
    macs: int


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """One artifact on one accelerator.

    Attributes:
        ops: every operator in execution order.
        macs_share: part of the multiply-accumulates that is known to be on the accelerator, 0 to 1; None where that
            is not known.
        partitions: pieces that the accelerator gets, doubtful operators counted as taken; None where it did not say.
        findings: worst first.
        caveat: what the forecast assumes, or who was asked.
        label: how this is known: ``FORECAST`` from rules, ``ASKED`` of the backend, or ``UNKNOWN``.
        placement: what the backend that was asked said.
    """

    artifact_path: Path
    target: str
    scheme: str
    accelerator: str
    title: str
    ops: tuple[OpForecast, ...]
    macs: int
    macs_share: float | None
    partitions: int | None
    findings: tuple[Finding, ...]
    caveat: str
    label: str = FORECAST
    placement: Placement | None = None

    def count(self, state: str) -> int:
        """Number of operators in this state; a backend that was asked knows it even where it does not name them."""
        if self.placement is not None:
            taken = self.placement.ops_taken
            return {ON: taken, OFF: self.placement.ops_total - taken, UNSURE: 0}[state]
        return sum(op.state == state for op in self.ops)

    def worst(self) -> str | None:
        """Severity of the worst finding, None where there is none."""
        return min((finding.rule.severity for finding in self.findings), key=SEVERITIES.index, default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "artifact_name": self.artifact_path.name,
            "target": self.target,
            "scheme": self.scheme,
            "accelerator": self.accelerator,
            "caveat": self.caveat,
            "ops_total": len(self.ops),
            "ops_on": self.count(ON),
            "ops_unsure": self.count(UNSURE),
            "ops_off": self.count(OFF),
            "macs": self.macs,
            "macs_share_on": self.macs_share,
            "partitions": self.partitions,
            "findings": [finding.to_json() for finding in self.findings],
            "ops": [vars(op) for op in self.ops],
        }


@dataclass(frozen=True, kw_only=True)
class LintReport:
    """All artifacts on all accelerators that were asked for and fit."""

    forecasts: tuple[Forecast, ...]

    def breaches(self, severity: str) -> int:
        """Number of findings at least as bad as ``severity``."""
        limit = SEVERITIES.index(severity)
        return sum(SEVERITIES.index(f.rule.severity) <= limit for row in self.forecasts for f in row.findings)

    def to_json(self) -> dict[str, Any]:
        return {"note": DISCLAIMER, "forecasts": [row.to_json() for row in self.forecasts]}


def lint_artifacts(
    paths: Sequence[Path], *, accelerators: Sequence[str] | None = None, progress: Progress = quiet
) -> LintReport:
    """Say what accelerators take of artifacts.

    Args:
        paths: artifact folders.
        accelerators: of :data:`ACCELERATORS`; None for all that read an artifact's format.
        progress: called after each artifact.
    Raises:
        ConfigError: no artifact, an unknown accelerator, or one that reads none of an artifact's format.
        ArtifactError: a folder is missing, damaged or altered.
        MissingToolError: the package that reads a format is not installed.
    """
    if not paths:
        raise ConfigError("expected at least one artifact folder, got none, give the folder that export wrote")
    for name in accelerators or ():
        expect_choice("--for", name, ACCELERATORS)
    artifacts = [load_artifact(Path(path)) for path in paths]
    chosen = [_fitting(artifact.meta.target, artifact.path.name, accelerators) for artifact in artifacts]
    forecasts: list[Forecast] = []
    for artifact, fitting in zip(artifacts, chosen, strict=True):
        progress(f"lint {artifact.path.name}", 0, 1)
        graph = read_operators(artifact.main_path, artifact.meta.target)
        with refuse_damaged(f"a model file of {artifact.meta.target} at {artifact.main_path}", ArtifactError):
            forecasts += [_looked_at(artifact, graph, accelerator) for accelerator in fitting]
        progress(f"lint {artifact.path.name}", 1, 1)
    return LintReport(forecasts=tuple(forecasts))


def _looked_at(artifact: Artifact, graph: Graph, accelerator: AskedBackend | Accelerator) -> Forecast:
    if isinstance(accelerator, AskedBackend):
        return asked(artifact, graph, accelerator)
    return forecast(graph, accelerator, path=artifact.path, scheme=artifact.meta.scheme)


def asked(artifact: Artifact, graph: Graph, backend: AskedBackend) -> Forecast:
    """What ``backend`` itself says of an artifact; a row of unsure operators where it cannot be asked here."""
    placement: Placement | None = None
    findings: list[Finding] = []
    try:
        placement = backend.ask(artifact, graph)
        findings += outside_findings(placement, graph, backend.name)
    except MissingToolError as error:
        findings.append(whole_model(UNANSWERED, backend.name, str(error)))
    except EdgeSRError as error:
        findings.append(whole_model(REFUSED, backend.name, str(error)))
    findings += _gather(graph, backend.name, {}, backend.advice)
    for check in backend.graph_checks:
        findings += check(graph, backend.name)
    states = [_asked_state(op, graph, placement) for op in graph.ops]
    known = placement is not None and UNSURE not in states
    return Forecast(
        artifact_path=artifact.path,
        target=graph.format,
        scheme=artifact.meta.scheme,
        accelerator=backend.name,
        title=backend.title,
        ops=_op_rows(graph, states),
        macs=graph.macs,
        macs_share=_share_on(graph, states) if known else None,
        partitions=None if placement is None else placement.partitions,
        findings=_worst_first(findings),
        caveat=backend.caveat,
        label=UNKNOWN if placement is None else ASKED,
        placement=placement,
    )


def _asked_state(op: Op, graph: Graph, placement: Placement | None) -> str:
    if placement is None:
        return UNSURE
    return {True: OFF, False: ON, None: UNSURE}[is_outside(op, graph, placement)]


def forecast(graph: Graph, accelerator: Accelerator, *, path: Path, scheme: str) -> Forecast:
    """What ``accelerator`` takes of ``graph``."""
    breaches = {op.index: _breaches(op, accelerator) for op in graph.ops}
    states = [_state(op, [rule for rule, _ in breaches[op.index]], accelerator) for op in graph.ops]
    findings = _gather(graph, accelerator.name, breaches, accelerator.advice)
    for check in accelerator.graph_checks:
        findings += check(graph, accelerator.name)
    return Forecast(
        artifact_path=path,
        target=graph.format,
        scheme=scheme,
        accelerator=accelerator.name,
        title=accelerator.title,
        ops=_op_rows(graph, states),
        macs=graph.macs,
        macs_share=_share_on(graph, states),
        partitions=len(partition(graph, [state != OFF for state in states])),
        findings=_worst_first(findings),
        caveat=accelerator.caveat,
    )


def _op_rows(graph: Graph, states: Sequence[str]) -> tuple[OpForecast, ...]:
    return tuple(
        OpForecast(index=op.index, kind=op.kind, name=op.name, state=states[op.index], macs=op.macs) for op in graph.ops
    )


def _share_on(graph: Graph, states: Sequence[str]) -> float | None:
    on = sum(op.macs for op in graph.ops if states[op.index] == ON)
    return on / graph.macs if graph.macs else None


def _worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.rule.severity)))


def _fitting(target: str, name: str, wanted: Sequence[str] | None) -> list[AskedBackend | Accelerator]:
    """The accelerators that read artifacts of ``target``."""
    reading = [accelerator for accelerator in _ALL if target in accelerator.formats]
    if not reading:
        raise ConfigError(f"expected an artifact that lint reads, got {name} of target {target}; see its artifact.json")
    fitting = [accelerator for accelerator in reading if wanted is None or accelerator.name in wanted]
    if not fitting:
        readers = ", ".join(accelerator.name for accelerator in reading)
        raise ConfigError(f"expected --for {readers} for the {target} artifact {name}, got {', '.join(wanted or ())}")
    return fitting


def _breaches(op: Op, accelerator: Accelerator) -> list[tuple[Rule, str]]:
    """Rules that decide where an operator runs, and what broke them."""
    if op.kind not in accelerator.table:
        return [(accelerator.unsupported, op.kind)]
    return _broken(op, (*accelerator.table[op.kind], *accelerator.everywhere))


def _broken(op: Op, requirements: Sequence[Requirement]) -> list[tuple[Rule, str]]:
    found = ((requirement.rule, requirement.check(op)) for requirement in requirements)
    return [(rule, detail) for rule, detail in found if detail is not None]


def _state(op: Op, rules: list[Rule], accelerator: Accelerator) -> str:
    if any(rule.severity == ERROR or rule.id in accelerator.outside for rule in rules):
        return OFF
    return UNSURE if any(rule.id in accelerator.doubtful for rule in rules) else ON


def _gather(
    graph: Graph,
    accelerator: str,
    breaches: Mapping[int, list[tuple[Rule, str]]],
    advice: Mapping[str, tuple[Requirement, ...]],
) -> list[Finding]:
    """One finding per rule and detail, with all the operators it names."""
    places: dict[tuple[str, str], tuple[Rule, str, list[Op]]] = {}
    for op in graph.ops:
        for rule, detail in (*breaches.get(op.index, ()), *_broken(op, advice.get(op.kind, ()))):
            places.setdefault((rule.id, detail), (rule, detail, []))[2].append(op)
    return [
        Finding(rule=rule, accelerator=accelerator, detail=detail, places=tuple(map(place_of, ops)))
        for rule, detail, ops in places.values()
    ]
