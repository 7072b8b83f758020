"""LiteRT's ahead-of-time compilers: a ``.tflite`` file -> the same file with what an NPU takes already compiled.

The compilers are the NPU vendors' plugins in ai-edge-litert; each wants its vendor's libraries. What a plugin takes
becomes operators of the kind DISPATCH_OP, whose bytes lie behind the model; what it leaves stays as it was.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from converters.artifact_meta import Delegation
from converters.tflite_graph import Model, Operator, only_graph, operator_name, read_model
from edge_sr.errors import ArtifactError, ConversionError, MissingToolError, refuse_damaged

DISPATCH = "DISPATCH_OP"
_LOG = re.compile(r"See (\S+\.error)")
_PLACE = re.compile(r"\b[A-Z]+: \[[^\]]*\]\s*")


@dataclass(frozen=True, kw_only=True)
class Bytecode:
    """What one DISPATCH_OP runs.

    Attributes:
        name: of the compiled graph.
        data: the vendor's binary.
    """

    name: str
    data: bytes


def compile_ahead(
    source: Path, destination: Path, *, vendor: str, soc: str, libraries: str | None = None
) -> Delegation:
    """Compile a ``.tflite`` file for one system on a chip.

    Args:
        source: the file; it is not changed.
        destination: file to write.
        vendor: folder of the vendor's plugin in ai-edge-litert: qualcomm, mediatek, google_tensor or samsung.
        soc: as the vendor's plugin spells it.
        libraries: search path of the vendor's libraries; None for those of the vendor's SDK for LiteRT.
    Returns:
        partitions, and operators that stay outside of them by name.
    Raises:
        MissingToolError: ai-edge-litert is not installed.
        ConversionError: the compiler refused the file, or took nothing of it.
    """
    try:
        from ai_edge_litert.aot.core import apply_plugin
        from ai_edge_litert.aot.core.aot_types import Model
    except ImportError as error:
        raise MissingToolError(
            f"compiling for an NPU needs ai-edge-litert, got {error}; pip install ai-edge-litert"
        ) from None
    component = apply_plugin.ApplyPlugin()
    before, after = Model.create_from_path(Path(source)), Model.create_from_path(Path(destination))
    what = f"expected {vendor}'s compiler to take the network for {soc}"
    try:
        backend = _backend(vendor, soc)
        if libraries is None:
            backend.call_component(before, after, component)
        else:
            plugins = str(apply_plugin.common.get_resource(Path("vendors") / vendor / "compiler", is_dir=True))
            maker = backend.soc_manufacturer
            component(before, after, maker, backend.soc_model, libs=plugins, sdk_libs_path=libraries)
    except (ValueError, OSError) as error:
        destination.unlink(missing_ok=True)
        raise ConversionError(f"{what}, got {_reason(error)}") from None
    delegation = compiled_delegation(destination)
    if not delegation.delegates:
        raise ConversionError(f"{what}, got all of it left outside")
    return delegation


def compiled_delegation(path: Path) -> Delegation:
    """Partitions of a compiled file, and the operators outside of them by name; ArtifactError where it is damaged."""
    with refuse_damaged(f"a compiled file at {path}", ArtifactError):
        model = read_model(path)
        counts = Counter(_kind(model, operator) for operator in only_graph(model).operators)
    return Delegation(delegates=counts.pop(DISPATCH, 0), ops_outside=dict(sorted(counts.items())))


def read_bytecode(path: Path) -> Bytecode:
    """The binary of a compiled file that is one DISPATCH_OP and nothing else.

    Raises:
        ArtifactError: damaged, or a file of another form.
    """
    from flatbuffers import flexbuffers

    with refuse_damaged(f"a compiled file at {path}", ArtifactError):
        model = read_model(path)
        operators = only_graph(model).operators
        if len(operators) != 1 or _kind(model, operators[0]) != DISPATCH:
            raise ArtifactError(f"expected one {DISPATCH} in {path}, got {len(operators)} operators; export it again")
        options: dict[str, Any] = flexbuffers.Loads(bytes(operators[0].customOptions))
        start, size = int(options["bytecode_offset"]), int(options["bytecode_size"])
        content = path.read_bytes()
        if start <= 0 or size <= 0 or start + size > len(content):
            raise ArtifactError(f"expected {size} bytes of bytecode in {path}, got a file cut short; export it again")
        return Bytecode(name=str(options["name"]), data=content[start : start + size])


def _backend(vendor: str, soc: str) -> Any:
    from ai_edge_litert.aot.core.aot_types import CompilationConfig
    from ai_edge_litert.aot.vendors.import_vendor import import_vendor

    target = import_module(f"ai_edge_litert.aot.vendors.{vendor}.target")
    import_module(f"ai_edge_litert.aot.vendors.{vendor}.{vendor}_backend")
    config = CompilationConfig(target=target.Target(target.SocModel(soc))).to_dict()
    return import_vendor(config["backend_id"]).create(config)


def _reason(error: Exception) -> str:
    """The compiler's error as one line; its log, which it leaves in a temporary file, is read and removed."""
    found = _LOG.search(str(error))
    if found is None:
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]
    log = Path(found[1])
    lines = [" ".join(line.split()) for line in log.read_text(errors="replace").splitlines() if line.strip()]
    log.unlink(missing_ok=True)
    # Of its last words many are places in its source, and its banner says "Failed" without more.
    said = [_PLACE.sub("", line) for line in lines if re.search(r"ERROR|Failed to", line)]
    return next((line[:300] for line in reversed(said) if " " in line), "no word of why")


def _kind(model: Model, operator: Operator) -> str:
    name = operator_name(model, operator)
    custom = model.operatorCodes[operator.opcodeIndex].customCode
    return custom.decode(errors="replace") if name == "CUSTOM" and isinstance(custom, bytes) else name
