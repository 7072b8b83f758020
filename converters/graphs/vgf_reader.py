"""What an ExecuTorch program for Arm's neural accelerators holds: one call of one delegate, whose payload is a VGF.

The VGF is not taken apart: its compiler writes the same bytes for the same network, so its hash stands for what it
computes. Operations and weights of such an artifact are listed nowhere.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from converters.graphs.executorch_reader import ExecuTorchProgram, only_delegate
from converters.graphs.graph import ComputeGraph, Node, Value
from edge_sr.errors import ArtifactError, refuse_damaged

VGF = "VgfBackend"
_DTYPES = {"CHAR": "int8", "FLOAT": "float32"}


def read_vgf(path: Path) -> ComputeGraph:
    """The graph of a program that is one VGF delegate with nothing outside: one node, the delegate.

    Raises:
        ArtifactError: it is damaged, or holds something else.
        MissingToolError: executorch is not installed.
    """
    program, delegate = _open(path)
    with refuse_damaged(f"an ExecuTorch program in {path}", ArtifactError):
        plan = program.plan
        instructions = [step["instr_args"] for chain in plan["chains"] or [] for step in chain["instructions"] or []]
        ends = [*plan["inputs"].tolist(), *plan["outputs"].tolist()]
        if [kind for kind, _ in instructions] != ["DelegateCall"] or instructions[0][1]["args"].tolist() != ends:
            raise ArtifactError(f"expected one call of the delegate in {path}, got something else: export it again")
        values = tuple(_value(plan, index, name) for index, name in zip(ends, ("input", "output"), strict=True))
        attributes = {
            "plan": json.dumps(plan, sort_keys=True, default=_plain),
            "payload_sha256": hashlib.sha256(program.payload(delegate)).hexdigest(),
        }
        node = Node(kind=VGF, inputs=(0,), outputs=(1,), attributes=attributes)
        return ComputeGraph(values=values, nodes=(node,), inputs=(0,), outputs=(1,))


def read_vgf_payload(path: Path) -> bytes:
    """The VGF inside such a program; errors as of :func:`read_vgf`."""
    program, delegate = _open(path)
    with refuse_damaged(f"an ExecuTorch program in {path}", ArtifactError):
        return program.payload(delegate)


def _open(path: Path) -> tuple[ExecuTorchProgram, dict[str, Any]]:
    program = ExecuTorchProgram(path)
    with refuse_damaged(f"an ExecuTorch program in {path}", ArtifactError):
        return program, only_delegate(program, VGF, title="VGF")


def _value(plan: dict[str, Any], index: int, name: str) -> Value:
    kind, value = plan["values"][index]["val"]
    if kind != "Tensor":
        raise ArtifactError(f"expected a tensor as {name} of the program, got {kind}: export it again")
    dtype = _DTYPES.get(value["scalar_type"], value["scalar_type"])
    return Value(name=name, dtype=dtype, shape=tuple(int(size) for size in value["sizes"]))


def _plain(value: Any) -> Any:
    """JSON of what schemas hold beside plain values: arrays and numbers of numpy."""
    return value.tolist()
