"""The ``.mlpackage`` folder, written so that equal models give equal bytes: a protobuf, a weight file, a manifest.

``MLModel.save`` of coremltools 9.0 differs from run to run (random identifiers in the manifest, the date and map order
in the protobuf) and adds ``executorch_debug_handle_mapping.json``, 1-4 MB that the manifest does not list and that no
device reads. Hence a writer of our own.

    NAME.mlpackage/
        Manifest.json
        Data/com.apple.CoreML/model.mlmodel
        Data/com.apple.CoreML/weights/weight.bin      (absent where every constant is in model.mlmodel)
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from edge_sr.errors import ArtifactError

AUTHOR = "com.apple.CoreML"
MANIFEST = "Manifest.json"
PROGRAM = f"Data/{AUTHOR}/model.mlmodel"
WEIGHTS = f"Data/{AUTHOR}/weights/weight.bin"
# Names the identifiers of this project's packages apart from those of anyone else's uuid5.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "mlpackage.edge-sr")


def write_package(path: Path, *, spec: Any, weights_dir: Path) -> tuple[str, ...]:
    """Write ``spec`` and the weights beside it as an ``.mlpackage``.

    Args:
        path: the folder to make; its parent exists, it does not.
        spec: ``coremltools.proto.Model_pb2.Model``.
        weights_dir: where coremltools put ``weight.bin`` (``MLModel.weights_dir``).
    Returns:
        The files written, relative to ``path``, with forward slashes, sorted.
    Raises:
        ArtifactError: ``path`` exists.
    """
    if path.exists():
        raise ArtifactError(f"expected a new path for the package, got {path} which exists: remove it first")
    program, weights = path / PROGRAM, path / WEIGHTS
    weights.parent.mkdir(parents=True)
    program.write_bytes(spec.SerializeToString(deterministic=True))
    source = weights_dir / weights.name
    items = [(program, program, "CoreML Model Specification")]
    if source.exists():
        shutil.copyfile(source, weights)
        items.append((weights.parent, weights, "CoreML Model Weights"))
    else:
        weights.parent.rmdir()
    entries = {
        _identifier(item.name, content): {
            "author": AUTHOR,
            "description": description,
            "name": item.name,
            "path": item.relative_to(path / "Data").as_posix(),
        }
        for item, content, description in items
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": dict(sorted(entries.items())),
        "rootModelIdentifier": _identifier(program.name, program),
    }
    (path / MANIFEST).write_text(json.dumps(manifest, indent=4) + "\n", encoding="utf-8")
    return tuple(sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()))


def _identifier(name: str, content: Path) -> str:
    """An identifier that depends on nothing but the item's name and bytes."""
    return str(uuid.uuid5(_NAMESPACE, f"{name}:{hashlib.sha256(content.read_bytes()).hexdigest()}"))
