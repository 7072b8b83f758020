"""Which photos become which files: decided, and refused, before any pixel is computed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apps.destinations import is_stdout
from edge_sr.choices import expect_choice
from edge_sr.errors import ConfigError, DataError, EdgeSRError
from edge_sr.image_folders import describe_suffixes, image_files, images_below, other_files
from edge_sr.images import check_writable
from edge_sr.photos.formats import FORMATS
from edge_sr.photos.reading import MAX_MEGAPIXELS, PhotoHeader, check_megapixels, read_header


@dataclass(frozen=True, kw_only=True)
class Job:
    """One photo, where its result goes, and its header."""

    source: Path
    output: Path
    header: PhotoHeader


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A photo that gave no result, and why."""

    source: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class JobList:
    """What there is to do.

    Attributes:
        jobs: in the order given.
        failures: photos whose header cannot be read.
        skipped: results that are there already, left as they are.
    """

    jobs: tuple[Job, ...]
    failures: tuple[Failure, ...]
    skipped: tuple[Path, ...]


def list_jobs(
    sources: Sequence[Path],
    output: Path | None,
    *,
    scale: int,
    suffix: str | None = None,
    frames: bool = False,
    max_megapixels: float = MAX_MEGAPIXELS,
    skip_existing: bool = False,
    overwrite: bool = False,
) -> JobList:
    """Decide which photos become which files.

    Args:
        sources: photos, and folders, which are searched with all folders in them. Results of earlier runs
            (``photo_x4.png`` beside ``photo.jpg``) are no sources.
        output: a file for one photo; a folder for any number, made where it is missing; None for beside each photo.
        scale: upscaling factor, part of the names made here.
        suffix: of the names made here; None for ``.png``; for several pictures in a file its own, or ``.tif``.
        frames: all pictures of a file are upscaled.
        max_megapixels: larger photos fail.
        skip_existing, overwrite: what becomes of results that are there already; else they are refused.
    Raises:
        ConfigError: one file for several photos, or results that exist.
        DataError: no photo in what was named.
        ImageError: a result that cannot be written there.
        EdgeSRError: of the only photo named, what reading its header raised.
    """
    if suffix is not None:
        expect_choice("format", suffix[1:], [name[1:] for name in FORMATS])
    photos = _photos(sources, scale)
    to_file = output is not None and _is_file(output, sources, photos, frames=frames)
    jobs, failures = [], []
    for source, base in photos:
        try:
            header = read_header(source)
            check_megapixels(source, header.height, header.width, max_megapixels)
        except EdgeSRError as error:
            if len(photos) == 1:
                raise
            failures.append(Failure(source=source, reason=str(error)))
            continue
        several = frames and header.frames > 1
        path = output if to_file and output is not None else _beside(source, base, output, scale, suffix, several)
        jobs.append(Job(source=source, output=path, header=header))
    jobs = _told_apart(jobs)
    _refuse_one_place_for_two(jobs)
    there = {job.output for job in jobs if os.path.lexists(job.output)}
    if not (skip_existing or overwrite):
        _refuse_existing(there)
    skipped = there if skip_existing else set()
    jobs = [job for job in jobs if job.output not in skipped]
    for job in jobs:
        size = (scale * job.header.height, scale * job.header.width)
        check_writable(job.output, size=size, frames=frames and job.header.frames > 1, overwrite=True)
    return JobList(jobs=tuple(jobs), failures=tuple(failures), skipped=tuple(sorted(skipped)))


def _is_file(output: Path, sources: Sequence[Path], photos: Sequence[object], *, frames: bool) -> bool:
    """Whether ``-o`` is the file of one result; a folder is made where it is one."""
    if is_stdout(output) or (output.exists() and not output.is_dir() and not output.is_file()):
        raise ConfigError(f"expected a file or a folder for -o, got {output}; pictures are not written into streams")
    if output.suffix.lower() in FORMATS and not output.is_dir():
        if len(photos) > 1 or any(source.is_dir() for source in sources):
            raise ConfigError(f"expected a folder for the results of several photos, got the file {output}")
        return True
    if output.suffix and not output.is_dir():
        check_writable(output, frames=frames)  # says which suffixes there are
    output.mkdir(parents=True, exist_ok=True)
    return False


def _refuse_existing(there: set[Path]) -> None:
    if there:
        named = ", ".join(path.name for path in sorted(there)[:3]) + (", ..." if len(there) > 3 else "")
        raise ConfigError(
            f"expected new files, got {len(there)} that exist ({named}); leave them with --skip-existing, replace them "
            "with --overwrite, or name another place with -o"
        )


def _photos(sources: Sequence[Path], scale: int) -> list[tuple[Path, Path]]:
    """(photo, folder that its place in a result folder is counted from), each photo once."""
    found: dict[Path, tuple[Path, Path]] = {}
    for source in sources:
        if not source.is_dir():
            found.setdefault(source.resolve(), (source, source.parent))
            continue
        readable = [*image_files(source), *images_below(source)]
        names = {(file.parent, name) for file in readable for name in (file.stem, _with_suffix(file))}
        ending = f"_x{scale}"
        photos = [
            file
            for file in readable
            if not (file.stem.endswith(ending) and (file.parent, file.stem.removesuffix(ending)) in names)
        ]
        if not photos:
            seen = describe_suffixes(other_files(source, below=True)) or "none"
            raise DataError(f"expected photos in {source}, got {seen}; name another folder")
        for photo in photos:
            found.setdefault(photo.resolve(), (photo, source))
    return list(found.values())


def _beside(source: Path, base: Path, folder: Path | None, scale: int, suffix: str | None, several: bool) -> Path:
    own = source.suffix.lower()
    ending = suffix or (".png" if not several else own if own in FORMATS and FORMATS[own].frames else ".tif")
    parent = source.parent if folder is None else folder / source.parent.relative_to(base)
    parent.mkdir(parents=True, exist_ok=True)
    return parent / f"{source.stem}_x{scale}{ending}"


def _told_apart(jobs: list[Job]) -> list[Job]:
    """``a.png`` and ``a.jpg`` in one place get names with the suffix in them."""
    counts = Counter(job.output for job in jobs)
    return [job if counts[job.output] == 1 else _renamed(job) for job in jobs]


def _renamed(job: Job) -> Job:
    name = job.output.name.replace(job.source.stem, _with_suffix(job.source), 1)
    return Job(source=job.source, output=job.output.with_name(name), header=job.header)


def _with_suffix(photo: Path) -> str:
    return f"{photo.stem}_{photo.suffix[1:]}"


def _refuse_one_place_for_two(jobs: list[Job]) -> None:
    first: dict[Path, Job] = {}
    for job in jobs:
        other = first.setdefault(job.output.resolve(), job)
        if other is not job:
            raise ConfigError(
                f"expected a place of its own for each result, got {job.output} for both {other.source} and "
                f"{job.source}; rename one of them, or upscale them into different folders"
            )
        if job.output.exists() and job.output.resolve() == job.source.resolve():
            raise ConfigError(
                f"expected another file than the photo for its result, got {job.output}; name one with -o"
            )
