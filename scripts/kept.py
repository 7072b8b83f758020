"""Artifacts that a measuring script exported before."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from converters.artifact import Artifact, load_artifact


def kept_artifact(folder: Path, name: str, *, weights_sha256: str) -> Artifact | None:
    """The artifact of that name, if the folder holds it, made of these weights by the toolchains installed now.

    A change of the project's own converters is not noticed: delete the folder after one.

    Args:
        folder: where artifacts are kept.
        name: of the artifact's folder.
        weights_sha256: as :attr:`ArtifactMeta.checkpoint_sha256` has it.
    Raises:
        ArtifactError: it is there and damaged.
    """
    if not (folder / name).is_dir():
        return None
    artifact = load_artifact(folder / name)
    same = artifact.meta.checkpoint_sha256 == weights_sha256
    return artifact if same and _of_installed(artifact.meta.tool_versions) else None


def _of_installed(versions: dict[str, str]) -> bool:
    for package, version in versions.items():
        try:
            if metadata.version(package) != version:
                return False
        except metadata.PackageNotFoundError:
            continue  # Python itself, or the project run from source
    return True
