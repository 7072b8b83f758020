"""How many partitions a delegate gets, by the interpreter's own way of cutting a graph."""

from __future__ import annotations

from collections.abc import Sequence

from apps.lint.graph import Graph


def partition(graph: Graph, taken: Sequence[bool]) -> list[list[int]]:
    """Cut a graph as LiteRT's ``PartitionGraphIntoIndependentNodeSubsets`` does.

    Subsets follow one another; each holds only operators that the delegate takes, or only others, and as many as are
    ready: the first operator that can run decides the kind, then every one of that kind whose inputs are there joins.

    Args:
        graph: in execution order.
        taken: of each operator, whether the delegate takes it.
    Returns:
        operator indices of each partition that the delegate gets.
    """
    ready = {tensor.name for op in graph.ops for tensor in op.inputs if tensor is not None and tensor.constant}
    ready |= {tensor.name for tensor in graph.inputs}
    made = set(graph.producers)
    waiting = list(range(len(graph.ops)))
    found: list[list[int]] = []
    while waiting:
        subset: list[int] = []
        kind: bool | None = None
        moved = True
        while moved:
            moved = False
            for index in list(waiting):
                names = {tensor.name for tensor in graph.ops[index].computed_inputs}
                if (kind is not None and taken[index] != kind) or not names <= ready | (names - made):
                    continue
                kind = taken[index]
                subset.append(index)
                waiting.remove(index)
                ready |= {tensor.name for tensor in graph.ops[index].outputs}
                moved = True
        if not subset:  # a cycle: no file that an interpreter takes has one
            break
        if kind:
            found.append(subset)
    return found
