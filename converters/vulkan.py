"""A software Vulkan: where one is, and the variables of a process that is to use it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_sr.errors import MissingToolError

_CHROMIUM = ("/usr/lib/chromium", "/opt/google/chrome")
_LAVAPIPE = ("/usr/share/vulkan/icd.d/lvp_icd.json", "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")


def swiftshader() -> Path:
    """The driver of Chromium's SwiftShader, which computes in float32; MissingToolError where there is none."""
    folder = _chromium("vk_swiftshader_icd.json")
    if folder is None or not (folder / "libvk_swiftshader.so").is_file():
        raise MissingToolError("a Vulkan in software is needed, got no SwiftShader; scripts/install_browser.sh")
    return folder / "vk_swiftshader_icd.json"


def lavapipe() -> Path:
    """The driver of mesa's lavapipe, which has float16 as phones' GPUs do; MissingToolError where there is none."""
    driver = next((Path(path) for path in _LAVAPIPE if Path(path).is_file()), None)
    if driver is None:
        raise MissingToolError(
            "a Vulkan in software with float16 is needed, got no lavapipe; scripts/install_vulkan.sh"
        )
    return driver


def software_vulkan(driver: Path, *, libraries: Sequence[Path] = ()) -> dict[str, str]:
    """Variables of a process that is to use ``driver``, with ``libraries`` in front of its own folders.

    Chromium's loader is taken where there is one: that of Debian 12 (1.3.239) puts Arm's emulation layers in the wrong
    order whatever the variables say.

    Raises:
        MissingToolError: this is no Linux.
    """
    if not sys.platform.startswith("linux"):
        raise MissingToolError(f"a Vulkan in software is used on Linux, got {sys.platform}; ask there")
    loader = _chromium("libvulkan.so.1")
    paths = [*map(str, libraries), *([] if loader is None else [str(loader)])]
    paths += [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if path]
    # The first name is the one of loaders before 1.3.207, which read no other.
    return {
        "VK_ICD_FILENAMES": str(driver),
        "VK_DRIVER_FILES": str(driver),
        "LD_LIBRARY_PATH": os.pathsep.join(paths),
    }


def _chromium(name: str) -> Path | None:
    """The folder of a Chromium that has such a file."""
    return next((Path(path) for path in _CHROMIUM if (Path(path) / name).is_file()), None)
