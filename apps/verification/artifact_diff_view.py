"""``edge-sr diff`` on a terminal: only what differs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from apps.formatting import format_bytes, format_db
from apps.terminal import add_row, new_table, say, show
from apps.verification.artifact_diff import ArtifactDiff, GraphChange
from apps.verification.layer_diff import ScaleChange

# Rows of a table of layers; the whole list is in --json.
_MOST_LAYERS = 6
_LONGEST_CELL = 120
_NONE = "–"
# Longer cells are broken, so that before and after stand side by side in a narrow terminal.
_BROKEN_FROM = 24


def print_diff(diff: ArtifactDiff) -> None:
    """The verdict, then tables of what differs, the largest first where there is an order."""
    say(verdict(diff))
    rows = list(_rows(diff))
    if rows:
        say(f"before: {diff.before.name}")
        say(f"after: {diff.after.name}")
        table = new_table("what", "before", "after", names=(0,))
        for name, before, after in rows:
            add_row(table, name, _lines(before), _lines(after))
        show(table)
    if diff.graph is not None:
        _print_graph(diff.graph)
    else:
        say(f"not looked into: {diff.graph_reason}")
    _print_outputs(diff)


def verdict(diff: ArtifactDiff) -> str:
    """One line: whether the two compute the same."""
    if diff.same_bytes and diff.same_computation:
        return "same: every model file is identical"
    if diff.same_computation:
        return "same: other bytes, but the same graph, constants, interface and tiling"
    if diff.before.name == diff.after.name:
        return f"different: {diff.before} and {diff.after}"
    return "different"


def _rows(diff: ArtifactDiff) -> Iterator[tuple[str, str, str]]:
    """Name and both sides of everything that is one value each."""
    for change in diff.fields:
        yield change.name, _text(change.before), _text(change.after)
    for change in diff.tools:
        yield f"version of {change.name}", _text(change.before), _text(change.after)
    if diff.size_bytes[0] != diff.size_bytes[1]:
        yield "size", *map(format_bytes, diff.size_bytes)  # type: ignore[misc]
    for change in diff.files:
        yield f"file {change.name}", _size(change.before), _size(change.after)
    for change in diff.delegation:
        yield change.name, _text(change.before), _text(change.after)
    if diff.graph is not None:
        yield from _graph_rows(diff.graph)


def _graph_rows(graph: GraphChange) -> Iterator[tuple[str, str, str]]:
    if graph.weight_bytes[0] != graph.weight_bytes[1]:
        yield "constants", *map(format_bytes, graph.weight_bytes)  # type: ignore[misc]
    for change in graph.ops:
        yield f"ops: {change.name}", str(change.before or 0), str(change.after or 0)
    if graph.activations.counts[0] != graph.activations.counts[1]:
        yield "grids of computed values", *map(str, graph.activations.counts)  # type: ignore[misc]
    if any(graph.unmatched):
        yield "layers of their own", *(", ".join(labels) or _NONE for labels in graph.unmatched)  # type: ignore[misc]


def _print_graph(graph: GraphChange) -> None:
    for what, scales in (("scales of computed values", graph.activations), ("scales of weights", graph.weights)):
        if scales.changed:
            say(f"{what}: {_scales(scales)}")
    changed = graph.changed_layers
    if not changed:
        return
    say(f"weights: {len(changed)} of {len(graph.layers)} layers differ")
    table = new_table(
        "layer",
        "largest difference",
        "of largest weight",
        "bias",
        "scales",
        "note",
        right=(1, 2, 3, 4),
        names=(0,),
        prose=(5,),
    )
    for layer in changed[:_MOST_LAYERS]:
        notes = ["channels reordered"] if layer.reordered else []
        notes += [f"beside {layer.after}"] if layer.after != layer.before else []
        ratio = _NONE if layer.scale_ratio is None else f"×{layer.scale_ratio:.4f}"
        add_row(
            table,
            layer.before,
            f"{layer.max_difference:.3g}",
            f"{100 * layer.relative_difference:.2f}%",
            f"{layer.bias_difference:.3g}",
            ratio,
            ", ".join(notes),
        )
    show(table)
    if len(changed) > _MOST_LAYERS:
        say(f"and {len(changed) - _MOST_LAYERS} more, in --json")


def _scales(scales: ScaleChange) -> str:
    note = f" ({scales.note})" if scales.note else ""
    return f"{scales.changed} of {scales.compared} differ, at most ×{scales.largest_ratio:.4f} at {scales.where}{note}"


def _print_outputs(diff: ArtifactDiff) -> None:
    if not diff.outputs:
        if diff.outputs_reason and not diff.same_computation:
            say(f"not run: {diff.outputs_reason}")
        return
    table = new_table(
        *(
            "image",
            "PSNR-Y before",
            "PSNR-Y after",
            "change",
            "between them",
            "max levels",
            "mean levels",
            "pixels that differ",
        ),
        right=range(1, 8),
        names=(0,),
    )
    for entry in diff.outputs:
        before, after = entry.psnr_y_db
        change = 0.0 if before == after else after - before
        add_row(
            table,
            f"{entry.set_name}/{entry.image}",
            format_db(before),
            format_db(after),
            f"{change:+.3f}",
            format_db(entry.between_db, 1),
            str(entry.max_levels),
            f"{entry.mean_levels:.4f}",
            f"{entry.differing_percent:.2f}%",
        )
    show(table)


def _size(value: Any) -> str:
    return _NONE if value is None else format_bytes(value)


def _text(value: Any) -> str:
    """A value as a short cell: hashes by their first digits, lists by their entries."""
    if value is None or value in ((), [], {}, ""):
        return _NONE
    if isinstance(value, list | tuple):
        return "; ".join(_text(entry) for entry in value)
    text = str(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return f"{text[:12]}…"
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"


def _lines(cell: str) -> tuple[str, ...]:
    return tuple(textwrap.wrap(cell, _BROKEN_FROM, break_long_words=False, break_on_hyphens=False)) or (cell,)
