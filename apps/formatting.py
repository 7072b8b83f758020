"""Numbers as people read them: bytes, decibels, latencies, delegation."""

from __future__ import annotations

from collections.abc import Mapping

from apps.results import Timing
from converters.runners import RUNTIMES
from converters.targets import TARGETS


def format_subject(target: str, scheme: str, runtime: str = "") -> str:
    """What was measured: target and scheme, and the runtime where it is not the target's own."""
    where = f" ({RUNTIMES[runtime].title})" if runtime not in ("", target) else ""
    return f"{TARGETS[target].title} {scheme}{where}"


def format_bytes(size: int | None) -> str:
    """Bytes in decimal units."""
    if size is None:
        return "–"
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def format_db(value: float | None, digits: int = 3) -> str:
    """Decibels (or an SSIM), or a dash where there are none."""
    return "–" if value is None else f"{value:.{digits}f}"


def format_drop(value: float | None) -> str:
    """A drop in dB with its sign, but for what rounds to nothing: positive is a loss."""
    if value is None:
        return "–"
    return f"{value:+.3f}" if abs(value) >= 0.0005 else "0.000"


def format_timing(timing: Timing | None) -> str:
    """The median in ms; a noisy one carries an exclamation mark."""
    return "–" if timing is None else f"{timing.median_ms:.1f}{'!' if timing.noisy else ''}"


def format_licence(license_name: str) -> str:
    """The line about weights whose licence is recorded, as that of all bundled ones is."""
    limits = " (not for commercial use)" if "-NC" in license_name else ""
    return f"weights: {license_name}{limits}; see edge_sr/weights/README.md"


def format_ops(ops: Mapping[str, int] | None, delegates: int | None) -> str:
    """Ops left outside of the delegates; a dash where nothing can tell."""
    if ops is None or (delegates is None and not ops):
        return "–"
    return ", ".join(f"{count} {name}" for name, count in ops.items()) or "none"
