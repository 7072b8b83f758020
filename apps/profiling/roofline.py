"""How far an artifact is from what this machine can do with the same arithmetic in the same runtime.

The machine's own peak is measured, not looked up: networks of dense 3x3 convolutions, 64 to 64 channels, are exported
like the artifact (target and scheme; random weights, calibrated on noise) and run by the same runtime with the same
threads, on a tile of at most 64x64, whose values stay in a core's cache. Two depths are timed, and the peak is what the
deeper one computes more, over what it takes longer: turning pixels into tensors, the first and the last layer cancel.
It is the best that these kernels do on a friendly shape, no promise of the processor's maker, and no bound: a layer of
another shape can exceed it.

The artifact's own rate counts everything that ``edge-sr profile`` counts, conversions of pixels included. Artifact and
peak are timed in turns, one child process each, and compared round by round, so that a clock that drifts cancels, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apps.profiling.host import profile_artifacts
from apps.profiling.layer_results import quantile
from apps.profiling.layers import file_macs
from apps.progress import Progress, quiet
from apps.results import plain
from apps.runnable import reason_not_timed
from converters.artifact import Artifact, load_artifact
from converters.export import export_artifact
from edge_sr.errors import ConfigError, RunnerError
from edge_sr.sizes import format_size
from quantization.calibration import calibrate
from quantization.quantizer import prepare
from quantization.schemes import get_scheme

PEAK_CHANNELS = 64
# Float values of one layer take 1 MiB then. With 128x128 the very same convolutions gave a quarter less.
PEAK_SIDE = 64
# Convolutions of the two networks.
PEAK_DEPTHS = (4, 12)
_NO_CHECKPOINT = "0" * 64
# (artifact path, threads) -> milliseconds of each run, from a process of its own.
Timer = Callable[[Path, int], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class RooflineRow:
    """One artifact with one number of threads; ``round_*`` are empty where ``reason`` says why.

    Attributes:
        macs: of one run of the artifact.
        peak_macs: of the shallow and the deep peak network.
        round_ms: medians of the artifact, one per round.
        round_peak_ms: medians of the two peak networks, one pair per round.
    """

    artifact_path: Path
    model: str
    scheme: str
    target: str
    tile: tuple[int, int]
    threads: int
    macs: int
    peak_macs: tuple[int, int]
    round_ms: tuple[float, ...] = ()
    round_peak_ms: tuple[tuple[float, float], ...] = ()
    reason: str | None = None

    def __post_init__(self) -> None:
        if len(self.round_ms) != len(self.round_peak_ms) or bool(self.round_ms) == (self.reason is not None):
            raise ConfigError(
                f"expected as many rounds of the peak as of the artifact, or a reason, got {len(self.round_peak_ms)} "
                f"and {len(self.round_ms)}; time both in every round"
            )

    @property
    def label(self) -> str:
        return self.artifact_path.name

    @property
    def round_gmacs(self) -> tuple[float, ...]:
        """Billions of multiply-accumulates a second of the artifact, one per round."""
        return tuple(self.macs / (taken * 1e6) for taken in self.round_ms)

    @property
    def round_peak_gmacs(self) -> tuple[float, ...]:
        """Those of the machine: more MACs over more time."""
        more = self.peak_macs[1] - self.peak_macs[0]
        return tuple(more / ((deep - shallow) * 1e6) for shallow, deep in self.round_peak_ms)

    @property
    def round_percent(self) -> tuple[float, ...]:
        """Percent of the peak, each round against its own."""
        return tuple(100.0 * own / peak for own, peak in zip(self.round_gmacs, self.round_peak_gmacs, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Everything, with each round."""
        names = ("model", "scheme", "target", "tile", "threads", "macs", "peak_macs", "round_ms", "round_peak_ms")
        spreads = {"gmacs": self.round_gmacs, "peak_gmacs": self.round_peak_gmacs, "percent": self.round_percent}
        found = {
            "artifact_name": self.label,
            **{name: getattr(self, name) for name in names},
            **{name: None if not rounds else spread(rounds) for name, rounds in spreads.items()},
            "reason": self.reason,
        }
        return plain(found)  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class RooflineReport:
    """All artifacts with all thread counts."""

    rows: tuple[RooflineRow, ...]
    rounds: int
    peak: str = (
        f"dense 3x3 convolutions, {PEAK_CHANNELS} to {PEAK_CHANNELS} channels, tiles up to {PEAK_SIDE}x{PEAK_SIDE}"
    )

    def to_json(self) -> dict[str, Any]:
        return {"rounds": self.rounds, "peak": self.peak, "rows": [row.to_json() for row in self.rows]}


def spread(rounds: Sequence[float]) -> dict[str, float]:
    """Median, least and largest of some rounds."""
    return {"median": quantile(rounds, 0.5), "least": min(rounds), "largest": max(rounds)}


class DensePeak(nn.Module):
    """Dense 3x3 convolutions with ReLU between an entry and an upscaling exit; (1, 3, h, w) -> (1, 3, 2h, 2w)."""

    model_name = "dense_peak"
    scale = 2
    tile_multiple = 1
    context = 1

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, PEAK_CHANNELS, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(PEAK_CHANNELS, PEAK_CHANNELS, 3, padding=1) for _ in range(depth))
        self.tail = nn.Conv2d(PEAK_CHANNELS, 3 * self.scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(self.scale)
        self.context = depth + 2
        for weight in (parameter for parameter in self.body.parameters() if parameter.dim() == 4):
            # So that values neither vanish nor explode on the way: nothing denormal, nothing infinite.
            nn.init.kaiming_normal_(weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.head(x))
        for conv in self.body:
            x = torch.relu(conv(x))
        y: Tensor = self.shuffle(self.tail(x))
        return y


def measure_roofline(
    paths: Sequence[Path],
    *,
    threads: Sequence[int] = (1,),
    rounds: int = 3,
    runs: int = 20,
    max_seconds: float = 10.0,
    depths: tuple[int, int] = PEAK_DEPTHS,
    timer: Timer | None = None,
    progress: Progress = quiet,
) -> RooflineReport:
    """Measure artifacts against this machine's own peak.

    Args:
        paths: artifact folders.
        threads: CPU thread counts, each measured.
        rounds: how often artifact and peak take turns.
        runs: timed runs of each in each round.
        max_seconds: stop one of them after this long (ten runs are always made).
        depths: convolutions of the two peak networks, the shallower first.
        timer: what times an artifact; default a child process of this machine.
        progress: called while peak networks are exported, and after each timing.
    Returns:
        one row per artifact and thread count; a row that could not be measured says why.
    Raises:
        ConfigError: no artifact, or a number out of range.
        ArtifactError: a folder is missing, damaged or altered.
        MissingToolError, ConversionError, RunnerError: a toolchain or runtime is missing, or failed.
    """
    if not paths:
        raise ConfigError("expected at least one artifact folder, got none, give the folder that export wrote")
    if not threads or min(threads) < 1 or rounds < 1 or runs < 1 or max_seconds <= 0:
        raise ConfigError(f"threads, rounds, runs and seconds must be positive, got {threads}, {rounds}, {runs}")
    if not 1 <= depths[0] < depths[1]:
        raise ConfigError(f"expected two growing depths of the peak network, got {depths}; use {PEAK_DEPTHS}")
    artifacts = [load_artifact(Path(path)) for path in paths]
    timed = timer or _child_timer(runs, max_seconds)
    rows = []
    # Artifacts alike share a peak network; it lives as long as this call.
    with tempfile.TemporaryDirectory(prefix="edge-sr-peak-") as folder:
        peaks: dict[tuple[Any, ...], tuple[Artifact, Artifact]] = {}
        for artifact in artifacts:
            reason = reason_not_timed(artifact.meta.target)
            for count in dict.fromkeys(threads):
                if reason is not None:
                    rows.append(_row(artifact, count, macs=0, peak_macs=(0, 0), reason=reason))
                    continue
                pair = _peaks_like(artifact, depths, Path(folder), peaks, progress)
                rows.append(_measure(artifact, pair, count, rounds, timed, progress))
    return RooflineReport(rows=tuple(rows), rounds=rounds)


def export_peak(depth: int, *, target: str, scheme: str, tile: tuple[int, int], out_dir: Path) -> Artifact:
    """Export a dense network with random weights, calibrated on noise where the scheme quantizes."""
    # Its own generator state: the caller's random numbers go on as if nothing happened.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        float_network = DensePeak(depth).eval()
        noise = torch.rand(1, 3, *tile)
    network: nn.Module = float_network
    if get_scheme(scheme).quantized:
        quantized = prepare(float_network, scheme)
        calibrate(quantized, [noise])
        network = quantized
    return export_artifact(
        network=network,
        scheme=scheme,
        target=target,
        tile=tile,
        out_dir=out_dir / f"depth_{depth}",
        overlap=0,
        checkpoint_sha256=_NO_CHECKPOINT,
        notes=("random weights: made to measure this machine, not pictures",),
    )


def _peaks_like(
    artifact: Artifact,
    depths: tuple[int, int],
    folder: Path,
    peaks: dict[tuple[Any, ...], tuple[Artifact, Artifact]],
    progress: Progress,
) -> tuple[Artifact, Artifact]:
    meta = artifact.meta
    tile = (min(meta.tile[0], PEAK_SIDE), min(meta.tile[1], PEAK_SIDE))
    key = (meta.target, meta.scheme, tile)
    if key not in peaks:
        what = f"export peak {meta.scheme} {meta.target} {format_size(tile)}"
        made = []
        for index, depth in enumerate(depths):
            progress(what, index, 2)
            made.append(export_peak(depth, target=meta.target, scheme=meta.scheme, tile=tile, out_dir=folder))
        progress(what, 2, 2)
        peaks[key] = (made[0], made[1])
    return peaks[key]


def _measure(
    artifact: Artifact,
    pair: tuple[Artifact, Artifact],
    threads: int,
    rounds: int,
    timer: Timer,
    progress: Progress,
) -> RooflineRow:
    what = f"roofline {artifact.path.name}, {threads} thread{'s' if threads > 1 else ''}"
    own, peak = [], []
    for number in range(rounds):
        progress(what, number, rounds)
        shallow, middle, deep = (
            quantile(timer(measured.path, threads), 0.5) for measured in (pair[0], artifact, pair[1])
        )
        if deep <= shallow:
            raise RunnerError(
                f"expected {pair[1].path.name} to take longer the deeper it is, got {shallow:.2f} and {deep:.2f} ms: "
                "this machine is too busy to be measured; try again when it is idle"
            )
        own.append(middle)
        peak.append((shallow, deep))
    progress(what, rounds, rounds)
    return _row(
        artifact,
        threads,
        macs=file_macs(artifact),
        peak_macs=(file_macs(pair[0]), file_macs(pair[1])),
        round_ms=tuple(own),
        round_peak_ms=tuple(peak),
    )


def _child_timer(runs: int, max_seconds: float) -> Timer:
    def timed(path: Path, threads: int) -> Sequence[float]:
        report = profile_artifacts([path], threads=(threads,), runs=runs, max_seconds=max_seconds, until_settled=False)
        (row,) = report.rows
        if row.timing is None:
            raise RunnerError(row.reason or f"expected {path} to be timed, got nothing; export it again")
        return row.timing.samples_ms

    return timed


def _row(
    artifact: Artifact,
    threads: int,
    *,
    macs: int,
    peak_macs: tuple[int, int],
    round_ms: tuple[float, ...] = (),
    round_peak_ms: tuple[tuple[float, float], ...] = (),
    reason: str | None = None,
) -> RooflineRow:
    return RooflineRow(
        artifact_path=artifact.path,
        model=artifact.meta.model,
        scheme=artifact.meta.scheme,
        target=artifact.meta.target,
        tile=artifact.meta.tile,
        threads=threads,
        macs=macs,
        peak_macs=peak_macs,
        round_ms=round_ms,
        round_peak_ms=round_peak_ms,
        reason=reason,
    )
