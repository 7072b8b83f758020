"""What changed between two artifacts: how they were made, what they hold, what they compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apps.progress import Progress, quiet
from apps.results import plain
from apps.verification.layer_diff import LayerChange, ScaleChange, compare_activations, compare_layers, compare_weights
from apps.verification.output_diff import OutputChange, compare_outputs
from converters.artifact import Artifact, ArtifactMeta, TensorSpec, load_artifact
from converters.graphs import read_graph
from converters.graphs.graph import canonical_sha256
from converters.graphs.summary import ArtifactSummary, summarize
from edge_sr.errors import ArtifactError, refuse_damaged

SAME, DIFFERENT = 0, 1
# Compared on their own, or no property of the model.
_NOT_FIELDS = ("format", "sha256", "files", "tool_versions", "delegation", "measured", "io", "self_test")
# Of those that are left: they decide what comes out of a picture that is larger than a tile, or how to feed the model.
_COMPUTING_FIELDS = ("scale", "target", "tile", "overlap", "input", "output")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that differs; None where one of the two has no such thing."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class GraphChange:
    """What the two main files hold, where both could be looked into.

    Attributes:
        ops: kinds whose counts differ; by the names that the formats share where the targets differ.
        weight_bytes: constants of each.
        activations, weights: quantization grids of computed values and of weights.
        layers: weights and biases of the layers that match.
        unmatched: labels of layers that have no counterpart, of the first and of the second.
    """

    ops: tuple[Change, ...]
    weight_bytes: tuple[int, int]
    activations: ScaleChange
    weights: ScaleChange
    layers: tuple[LayerChange, ...]
    unmatched: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def changed_layers(self) -> tuple[LayerChange, ...]:
        """Layers with other weights or biases, the largest change first."""
        changed = [layer for layer in self.layers if layer.differs]
        return tuple(sorted(changed, key=lambda layer: -layer.relative_difference))


@dataclass(frozen=True, kw_only=True)
class ArtifactDiff:
    """Two artifacts side by side.

    Attributes:
        before, after: the folders.
        same_computation: both give the same picture for every input: the same graph, constants, interface and tiling.
        same_bytes: every model file is the same.
        fields: what ``artifact.json`` says differently.
        tools: versions that differ.
        files: (size in bytes, of each) of the files whose content differs; None where there is none.
        size_bytes: of the main model.
        delegation: what of it differs.
        graph: None where a file could not be looked into; ``graph_reason`` then says why.
        outputs: what they make of pictures; empty where that was not asked for; ``outputs_reason`` says why not.
        canonical_sha256: of each, None where the file could not be looked into.
        summaries: of each, for JSON.
    """

    before: Path
    after: Path
    same_computation: bool
    same_bytes: bool
    fields: tuple[Change, ...]
    tools: tuple[Change, ...]
    files: tuple[Change, ...]
    size_bytes: tuple[int, int]
    delegation: tuple[Change, ...]
    graph: GraphChange | None
    graph_reason: str
    outputs: tuple[OutputChange, ...]
    outputs_reason: str
    canonical_sha256: tuple[str | None, str | None]
    summaries: tuple[ArtifactSummary | None, ArtifactSummary | None]

    @property
    def exit_code(self) -> int:
        """As ``diff`` has it: 0 where both compute the same, 1 where they differ."""
        return SAME if self.same_computation else DIFFERENT

    def to_json(self) -> dict[str, Any]:
        own = asdict(self)
        own["summaries"] = [None if entry is None else entry.to_json() for entry in self.summaries]
        own["outputs"] = [entry.to_json() for entry in self.outputs]
        return plain(own)  # type: ignore[no-any-return]


def diff_artifacts(
    before: Path,
    after: Path,
    *,
    data: Path | None = None,
    sets: Sequence[str] | None = None,
    images: int | None = None,
    outputs: bool = True,
    threads: int = 1,
    progress: Progress = quiet,
) -> ArtifactDiff:
    """Compare two artifacts of any targets and schemes.

    Args:
        before, after: artifact folders.
        data, sets: image sets for the comparison of what comes out; default the sample photos.
        images: at most so many images of each set; default two sample photos, or all images of ``data``.
        outputs: whether to run the artifacts at all. Without ``data``, two that compute the same are not run either.
        threads: CPU threads of the runtimes.
        progress: called after each image.
    Raises:
        ArtifactError: a folder is no artifact, is damaged or was altered.
        MissingToolError: the package that reads a format, or runs it, is not installed.
        ConfigError, DataError: no such data.
        RunnerError: an artifact cannot run.
    """
    first, second = load_artifact(Path(before)), load_artifact(Path(after))
    one, one_reason = _summary_of(first)
    other, other_reason = _summary_of(second)
    fields = _changes(_fields(first.meta), _fields(second.meta))
    same_files = _main_files(first) == _main_files(second)
    same_graph = same_files if one is None or other is None else one.canonical_sha256 == other.canonical_sha256
    same = same_graph and all(change.name not in _COMPUTING_FIELDS for change in fields)
    measured: tuple[OutputChange, ...] = ()
    reason = _why_not_run(first.meta, second.meta, asked=outputs, same=same and data is None)
    if not reason:
        limit = images if images is not None or data is not None else 2
        measured = compare_outputs(
            first, second, data=data, sets=sets, images=limit, threads=threads, progress=progress
        )
    return ArtifactDiff(
        before=first.path,
        after=second.path,
        same_computation=same,
        same_bytes=first.meta.files == second.meta.files,
        fields=fields,
        tools=_changes(first.meta.tool_versions, second.meta.tool_versions),
        files=_changes(_sizes(first.meta, second.meta), _sizes(second.meta, first.meta), keep=True),
        size_bytes=(first.meta.size_bytes, second.meta.size_bytes),
        delegation=_changes(asdict(first.meta.delegation), asdict(second.meta.delegation)),
        graph=None if one is None or other is None else _compare(one, other),
        graph_reason=one_reason or other_reason,
        outputs=measured,
        outputs_reason=reason,
        canonical_sha256=(
            None if one is None else one.canonical_sha256,
            None if other is None else other.canonical_sha256,
        ),
        summaries=(one, other),
    )


def _summary_of(artifact: Artifact) -> tuple[ArtifactSummary | None, str]:
    """The summary, or None and why the file could not be looked into (its hash is right, so it is not damaged)."""
    target = artifact.meta.target
    try:
        with refuse_damaged(f"a model file of {target} at {artifact.main_path}", ArtifactError):
            graph = read_graph(artifact.main_path, target)
            return summarize(graph, target=target, canonical_sha256=canonical_sha256(graph, target=target)), ""
    except ArtifactError as error:
        return None, str(error)


def _compare(one: ArtifactSummary, other: ArtifactSummary) -> GraphChange:
    same_target = one.target == other.target
    ops = _changes(one.ops, other.ops) if same_target else _changes(one.common_ops, other.common_ops)
    layers, unmatched = compare_layers(one.layers, other.layers)
    return GraphChange(
        ops=ops,
        weight_bytes=(one.weight_bytes, other.weight_bytes),
        activations=compare_activations(one, other),
        weights=compare_weights(layers),
        layers=layers,
        unmatched=unmatched,
    )


def _why_not_run(first: ArtifactMeta, second: ArtifactMeta, *, asked: bool, same: bool) -> str:
    if not asked:
        return "not asked for"
    if first.scale != second.scale:
        return f"x{first.scale} and x{second.scale} make pictures of different sizes"
    return "they compute the same" if same else ""


def _fields(meta: ArtifactMeta) -> dict[str, Any]:
    """What ``artifact.json`` says, nested names joined with dots; interfaces as one line each."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                add(f"{prefix}.{name}", inner)
        else:
            flat[prefix] = value

    for name, value in meta.to_json().items():
        if name not in _NOT_FIELDS:
            add(name, value)
    main = meta.io[meta.main_file]
    flat["input"], flat["output"] = _describe(main.input), _describe(main.output)
    flat["other interfaces"] = sorted(name for name in meta.io if name != meta.main_file)
    return flat


def _describe(spec: TensorSpec) -> str:
    shape = "x".join(map(str, spec.shape))
    low, high = spec.value_range
    grid = "" if spec.qscale is None else f", scale {spec.qscale:.9g}, zero point {spec.zero_point}"
    return f"{spec.name}: {spec.dtype} {spec.layout} {shape} {spec.channels}, {low:g} to {high:g}{grid}"


def _main_files(artifact: Artifact) -> dict[str, str]:
    main = artifact.meta.main_file
    return {
        name: entry.sha256 for name, entry in artifact.meta.files.items() if name == main or name.startswith(f"{main}/")
    }


def _sizes(meta: ArtifactMeta, other: ArtifactMeta) -> dict[str, int]:
    """Sizes of the files whose content differs from the other's."""
    return {name: entry.size_bytes for name, entry in meta.files.items() if other.files.get(name) != entry}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], *, keep: bool = False) -> tuple[Change, ...]:
    """Entries that differ, in the order of the first; ``keep`` those that are equal too."""
    names = dict.fromkeys((*before, *after))
    return tuple(
        Change(name=name, before=before.get(name), after=after.get(name))
        for name in names
        if keep or before.get(name) != after.get(name)
    )
