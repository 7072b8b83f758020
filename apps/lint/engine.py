"""Lint artifacts: what each accelerator would take of them, as a forecast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.lint.accelerator import Accelerator, whole_model
from apps.lint.gpu_delegate import GPU_DELEGATE, ONE_PARTITION
from apps.lint.graph import Graph, Op
from apps.lint.hexagon import HEXAGON
from apps.lint.neural_engine import NEURAL_ENGINE
from apps.lint.nnapi import NNAPI
from apps.lint.partitions import partition
from apps.lint.reader import read_operators
from apps.lint.rules import ERROR, SEVERITIES, Finding, Requirement, Rule, place_of
from apps.lint.xnnpack import XNNPACK, XNNPACK_EXECUTORCH
from apps.progress import Progress, quiet
from converters.artifact import load_artifact
from edge_sr.choices import expect_choice
from edge_sr.errors import ArtifactError, ConfigError, refuse_damaged

ON, OFF, UNSURE = "on", "off", "unsure"
LABEL = "FORECAST"
DISCLAIMER = "forecast from rules, nothing was run on a device"

_ALL = (NEURAL_ENGINE, XNNPACK, XNNPACK_EXECUTORCH, GPU_DELEGATE, NNAPI, HEXAGON)
ACCELERATORS = tuple(dict.fromkeys(accelerator.name for accelerator in _ALL))


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
        ops: every operator in execution order; ``on``, ``off`` and ``unsure`` count them.
        macs_share: part of the multiply-accumulates on the accelerator, 0 to 1; None for a model without any.
        partitions: pieces that the accelerator gets, doubtful operators counted as taken.
        findings: worst first.
        caveat: what the forecast assumes.
    """

    artifact_path: Path
    target: str
    scheme: str
    accelerator: str
    title: str
    ops: tuple[OpForecast, ...]
    macs: int
    macs_share: float | None
    partitions: int
    findings: tuple[Finding, ...]
    caveat: str

    def count(self, state: str) -> int:
        """Number of operators in this state."""
        return sum(op.state == state for op in self.ops)

    def worst(self) -> str | None:
        """Severity of the worst finding, None where there is none."""
        return min((finding.rule.severity for finding in self.findings), key=SEVERITIES.index, default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "label": LABEL,
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
        return {"label": LABEL, "note": DISCLAIMER, "forecasts": [row.to_json() for row in self.forecasts]}


def lint_artifacts(
    paths: Sequence[Path], *, accelerators: Sequence[str] | None = None, progress: Progress = quiet
) -> LintReport:
    """Forecast what accelerators take of artifacts, from their files.

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
            forecasts += [
                forecast(graph, accelerator, path=artifact.path, scheme=artifact.meta.scheme) for accelerator in fitting
            ]
        progress(f"lint {artifact.path.name}", 1, 1)
    return LintReport(forecasts=tuple(forecasts))


def forecast(graph: Graph, accelerator: Accelerator, *, path: Path, scheme: str) -> Forecast:
    """What ``accelerator`` takes of ``graph``."""
    breaches = {op.index: _breaches(op, accelerator) for op in graph.ops}
    states = [_state(op, [rule for rule, _ in breaches[op.index]], accelerator) for op in graph.ops]
    pieces = partition(graph, [state != OFF for state in states])
    partitions = len(pieces) if graph.delegates is None else graph.delegates
    findings = _gather(graph, accelerator, breaches)
    if accelerator.partitions_used is not None and len(pieces) > accelerator.partitions_used:
        states = _keep_largest(states, pieces, accelerator.partitions_used)
        detail = f"{len(pieces)} partitions, {accelerator.partitions_used} is run"
        lost = tuple(op for op in graph.ops if states[op.index] == OFF and not breaches[op.index])
        findings.append(whole_model(ONE_PARTITION, accelerator.name, detail, lost))
        partitions = accelerator.partitions_used
    for check in accelerator.graph_checks:
        findings += check(graph, accelerator.name)
    on = sum(op.macs for op in graph.ops if states[op.index] == ON)
    return Forecast(
        artifact_path=path,
        target=graph.format,
        scheme=scheme,
        accelerator=accelerator.name,
        title=accelerator.title,
        ops=tuple(
            OpForecast(index=op.index, kind=op.kind, name=op.name, state=states[op.index], macs=op.macs)
            for op in graph.ops
        ),
        macs=graph.macs,
        macs_share=on / graph.macs if graph.macs else None,
        partitions=partitions,
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.rule.severity))),
        caveat=accelerator.caveat,
    )


def _fitting(target: str, name: str, wanted: Sequence[str] | None) -> list[Accelerator]:
    """The accelerators that read artifacts of ``target``."""
    reading = [accelerator for accelerator in _ALL if accelerator.format == target]
    if not reading:
        raise ConfigError(f"expected an artifact that rules are known for, got {name} of target {target}; leave it out")
    fitting = [accelerator for accelerator in reading if wanted is None or accelerator.name in wanted]
    if not fitting:
        readers = ", ".join(accelerator.name for accelerator in reading)
        raise ConfigError(f"expected --for {readers} for the {target} artifact {name}, got {', '.join(wanted or ())}")
    return fitting


def _breaches(op: Op, accelerator: Accelerator) -> list[tuple[Rule, str]]:
    """Rules that decide where an operator runs, and what broke them."""
    if op.settled is not None:
        return [] if op.settled else [(accelerator.unsupported, op.kind)]
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


def _gather(graph: Graph, accelerator: Accelerator, breaches: dict[int, list[tuple[Rule, str]]]) -> list[Finding]:
    """One finding per rule and detail, with all the operators it names."""
    places: dict[tuple[str, str], tuple[Rule, str, list[Op]]] = {}
    for op in graph.ops:
        advice = _broken(op, accelerator.advice.get(op.kind, ()))
        for rule, detail in (*breaches[op.index], *advice):
            places.setdefault((rule.id, detail), (rule, detail, []))[2].append(op)
    return [
        Finding(rule=rule, accelerator=accelerator.name, detail=detail, places=tuple(map(place_of, ops)))
        for rule, detail, ops in places.values()
    ]


def _keep_largest(states: list[str], pieces: list[list[int]], kept: int) -> list[str]:
    largest = sorted(pieces, key=len, reverse=True)[:kept]
    inside = {index for piece in largest for index in piece}
    return [state if index in inside else OFF for index, state in enumerate(states)]
