"""The gate: what an artifact promised, what it did, and which broken promise comes first.

Every part of verification speaks to the gate in :class:`GateCheck`: the scores here, other parts (agreement between
runtimes, the colour card, seams) with checks of their own. ``gate_view.py`` turns checks into what CI systems read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from apps.formatting import format_drop
from apps.results import plain
from apps.verification.rows import VerifyRow
from edge_sr.errors import ConfigError, GateError
from edge_sr.evaluation import image_drops

Status = Literal["passed", "failed", "skipped"]
STATUSES: tuple[Status, ...] = ("passed", "failed", "skipped")
NOTHING_RAN = "expected at least one artifact that runs here, got none, so the gate has nothing to go by"


@dataclass(frozen=True, kw_only=True)
class GateLimits:
    """What is asked of every artifact on every set; None asks nothing.

    Attributes:
        max_drop_db: most decibels that the mean over a set may lose against the float network on whole images.
        max_image_drop_db: most decibels that any single image may lose.
        min_psnr_y_db: least mean PSNR on luma.
    Raises:
        ConfigError: a limit is no finite number.
    """

    max_drop_db: float | None = None
    max_image_drop_db: float | None = None
    min_psnr_y_db: float | None = None

    def __post_init__(self) -> None:
        for name, words in (("max_drop_db", "max drop"), ("max_image_drop_db", "max image drop")):
            self._check(name, words, "0.05")
        self._check("min_psnr_y_db", "min PSNR", "30")

    def _check(self, name: str, words: str, example: str) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not number:
            raise ConfigError(f"{words} must be a number of dB, got {value!r}, use {example}, say")

    @property
    def ask(self) -> bool:
        """Whether anything is asked at all."""
        return any(value is not None for value in asdict(self).values())


@dataclass(frozen=True, kw_only=True)
class GateCheck:
    """One promise about one artifact.

    Attributes:
        name: what is promised, such as "mean drop".
        artifact: whose promise it is; empty for one about all of them.
        set_name: on which images; None where it is not about a set.
        status: ``passed``, ``failed``, or ``skipped`` where it could not be looked at here.
        message: one line that does not name the subject again; for a failure: expected, got; for a passed check: what
            was found; for a skipped one: why.
        measured, limit: the two numbers, in ``unit``, where the promise has them.
        unit: of both, such as "dB" or "levels".
        seconds: how long the check took, where that is known.
        file: a file that the check is about, for annotations; relative to the repository.
    """

    name: str
    artifact: str
    set_name: str | None = None
    status: Status
    message: str
    measured: float | None = None
    limit: float | None = None
    unit: str = "dB"
    seconds: float | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ConfigError(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}")

    @property
    def subject(self) -> str:
        """``ARTIFACT on SET``, or what there is of it."""
        return " on ".join(part for part in (self.artifact, self.set_name) if part)

    @property
    def line(self) -> str:
        """The message with its subject in front."""
        return f"{self.subject}: {self.message}" if self.subject else self.message

    @property
    def margin(self) -> float | None:
        """How far a passed check is from its limit, in ``unit``; None where it has no two numbers."""
        if self.status != "passed" or self.measured is None or self.limit is None:
            return None
        return abs(self.limit - self.measured)

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))  # type: ignore[no-any-return]


def check_rows(rows: Sequence[VerifyRow], limits: GateLimits) -> tuple[GateCheck, ...]:
    """The scores as checks: per row that it ran, then one check per limit.

    A row that cannot run on this system is skipped: it neither passes nor fails. If something is asked and nothing
    could run, that is a failure of its own, because nothing was shown.
    """
    names = _names(rows)
    checks = [check for row, name in zip(rows, names, strict=True) for check in _row_checks(row, name, limits)]
    if limits.ask and all(check.status == "skipped" for check in checks):
        checks.insert(0, GateCheck(name="anything runs", artifact="", status="failed", message=NOTHING_RAN))
    return tuple(checks)


def failures(checks: Iterable[GateCheck]) -> tuple[GateCheck, ...]:
    """The failed checks, worst first.

    What gave no number is worse than any number; then decibels by how far they are beyond the limit; then other units
    by the same as a share of the limit, because levels and decibels do not compare.
    """
    return tuple(sorted((check for check in checks if check.status == "failed"), key=_badness))


def failure_lines(checks: Iterable[GateCheck]) -> tuple[str, ...]:
    """One line per failed check, worst first."""
    return tuple(check.line for check in failures(checks))


def enforce(checks: Iterable[GateCheck]) -> None:
    """Raise GateError (exit status 3) with the worst broken promise, where there is one."""
    lines = failure_lines(checks)
    if lines:
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise GateError(lines[0] + more)


def passed_line(checks: Sequence[GateCheck]) -> str:
    """One line about a gate that holds: how many checks there are of what, and which came nearest to its limit."""
    counts = count_statuses(checks)
    names = ", ".join(dict.fromkeys(check.name for check in checks if check.status == "passed"))
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    line = f"gate passed: {counts['passed']} check{'s' if counts['passed'] != 1 else ''} held ({names}){skipped}"
    nearest = min((check for check in checks if check.margin is not None), key=_share_left, default=None)
    if nearest is None:
        return line
    found, limit = f"{nearest.measured:.3f}", f"{nearest.limit:g} {nearest.unit}"
    return f"{line}; nearest to its limit: {nearest.name} of {nearest.subject}, {found} of {limit}"


def count_statuses(checks: Iterable[GateCheck]) -> dict[Status, int]:
    """Status -> number of checks, every status included."""
    counted = Counter(check.status for check in checks)
    return {status: counted[status] for status in STATUSES}


def _row_checks(row: VerifyRow, name: str, limits: GateLimits) -> list[GateCheck]:
    if row.artifact is None:
        status: Status = "failed" if row.failed else "skipped"
        message = f"expected a score, got none: {row.reason}" if row.failed else row.reason or "cannot run here"
        return [GateCheck(name="runs", artifact=name, set_name=row.set_name, status=status, message=message)]
    psnr = row.artifact.psnr_y_db
    ran = f"ran, PSNR {psnr:.2f} dB, drop {format_drop(row.drop_db)} dB"
    checks = [GateCheck(name="runs", artifact=name, set_name=row.set_name, status="passed", message=ran)]
    if limits.max_drop_db is not None:
        split = f"tiling {format_drop(row.tiling_drop_db)}, quantization {format_drop(row.quantization_drop_db)}"
        drop = math.nan if row.drop_db is None else row.drop_db
        checks.append(_at_most("mean drop", row, name, drop, limits.max_drop_db, "a drop", f"({split})"))
    if limits.max_image_drop_db is not None:
        image, drop = _worst_image(row)
        what = "a drop on every image"
        checks.append(_at_most("worst image", row, name, drop, limits.max_image_drop_db, what, f"on {image}"))
    if limits.min_psnr_y_db is not None:
        least = f"at least {limits.min_psnr_y_db:g} dB"
        held = psnr >= limits.min_psnr_y_db
        got = f"{psnr:.3f} dB"
        message = f"a mean PSNR of {got}, {least} asked" if held else f"expected a mean PSNR of {least}, got {got}"
        checks.append(_limit_check("mean PSNR", row, name, held, message, psnr, limits.min_psnr_y_db))
    return checks


def _at_most(name: str, row: VerifyRow, artifact: str, drop: float, limit: float, what: str, detail: str) -> GateCheck:
    held = drop <= limit  # False for NaN, so NaN fails
    got = f"{drop:.3f} dB {detail}"
    message = f"a drop of {got}, within {limit:g} dB" if held else f"expected {what} of at most {limit:g} dB, got {got}"
    return _limit_check(name, row, artifact, held, message, drop, limit)


def _limit_check(
    name: str, row: VerifyRow, artifact: str, held: bool, message: str, measured: float, limit: float
) -> GateCheck:
    return GateCheck(
        name=name,
        artifact=artifact,
        set_name=row.set_name,
        status="passed" if held else "failed",
        message=message,
        measured=measured,
        limit=limit,
    )


def _worst_image(row: VerifyRow) -> tuple[str, float]:
    """Name and drop of the image that lost most; a NaN counts as most."""
    assert row.artifact is not None
    drops = image_drops(row.float_whole, row.artifact).items()
    return max(drops, key=lambda drop: math.inf if math.isnan(drop[1]) else drop[1])


def _names(rows: Sequence[VerifyRow]) -> list[str]:
    """Labels; with the folder in front where artifacts in different folders have one name."""
    paths: dict[str, set[str]] = {}
    for row in rows:
        paths.setdefault(row.label, set()).add(str(row.artifact_path))
    return [
        row.label if len(paths[row.label]) == 1 else (row.artifact_path.parent / row.label).as_posix() for row in rows
    ]


def _share_left(check: GateCheck) -> tuple[bool, float]:
    """Decibels by the margin, then other units by the margin's share of the limit; the two do not compare."""
    assert check.margin is not None
    assert check.limit is not None
    return check.unit != "dB", check.margin if check.unit == "dB" else check.margin / max(abs(check.limit), 1e-9)


def _badness(check: GateCheck) -> tuple[int, float]:
    if check.measured is None or check.limit is None or not math.isfinite(check.measured):
        return 0, 0.0
    beyond = abs(check.measured - check.limit)
    if check.unit == "dB":
        return 1, -beyond
    return 2, -beyond / max(abs(check.limit), 1e-9)
