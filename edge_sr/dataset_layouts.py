"""How downloads of benchmark sets lay out their files. Only names are looked at here; datasets.py reads the images.

A *set folder* holds one image set. :func:`find_set_folders` lists those under a data folder, :func:`read_set_folder`
pairs the HR with the LR files of one of them at one scale.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PillowImage

from edge_sr.errors import DataError
from edge_sr.image_folders import describe_suffixes, image_files, images_below, other_files, subfolders

# Written as here in tables; every download spells them in its own way.
BENCHMARKS = ("Set5", "Set14", "BSD100", "Urban100")
_ALIASES = {name.casefold(): name for name in BENCHMARKS} | {
    "b100": "BSD100",
    "bsds100": "BSD100",
    "cbsd100": "BSD100",
}

# An HR folder and the LR folders that come with it in one and the same download, in order of preference.
_HR_FAMILIES = (
    (r"HR", ("LRx{s}", "LR_x{s}", "LR_bicubic/X{s}", "LR/X{s}", "LRBI/X{s}", "LRbicx{s}")),
    (r"GTmod\d+", ("LRbicx{s}", "LR_bicx{s}", "LRx{s}", "LR_bicubic/X{s}")),
    (r"GT", ("LRbicx{s}", "LRx{s}", "LR_bicubic/X{s}")),
    (r"original", ("LRx{s}",)),
)
_SIBLING_LR = ("{n}_LR_bicubic/X{s}", "{n}_LRx{s}", "{n}_LR_x{s}", "{n}_LR_X{s}", "{n}_LRbicx{s}")
# A folder of LR images must never be scored as if it were HR.
_LR_FOLDER = re.compile(r"(.*[_-])?LR[_-]?(bicubic|bic|BI|BD|DN|unknown|mild|difficult|wild)?[_-]?(x?\d)?|X\d", re.I)
_SELFEX_FOLDER = re.compile(r"image_SRF_(\d)", re.I)
_SELFEX_FILE = re.compile(r"(?P<name>.+)_SRF_(?P<scale>\d)_(?P<kind>HR|LR)", re.I)
# Urban100 photos are 1024 pixels long; the HR files of one well-known download's x2 folder are half of that.
_URBAN_HALF_SIDE = 512


@dataclass(frozen=True, kw_only=True)
class SetFolder:
    """A folder that holds one image set: ``name`` as tables write it, ``depth`` below the data folder."""

    name: str
    path: Path
    depth: int


@dataclass(frozen=True, kw_only=True)
class PairedFiles:
    """One image: its name, HR file, and LR file (None: to be made from HR)."""

    name: str
    hr: Path
    lr: Path | None = None


@dataclass(frozen=True, kw_only=True)
class SetFiles:
    """What a set folder holds at one scale: pairs, the layout they were found in, and what a reader should know."""

    pairs: tuple[PairedFiles, ...]
    layout: str
    notices: tuple[str, ...] = ()


def canonical_name(name: str) -> str:
    """``Set5``, ``Set14``, ``BSD100`` or ``Urban100`` for any spelling of those; any other name unchanged."""
    return _ALIASES.get(re.sub(r"[\s_-]", "", name).casefold(), name)


def find_set_folders(data: Path) -> list[SetFolder]:
    """The set folders that ``data`` is or holds, by name.

    ``data`` may be a set folder itself, a folder of set folders, or a folder around such a folder (``benchmark/Set5``).
    Plain folders of images count where they lie in ``data`` directly, or are named as a benchmark. Where there is none
    of all these, ``data`` is one set if any folder below it holds images.
    """
    if _SELFEX_FOLDER.fullmatch(data.resolve().name):
        data = data.resolve().parent
    if _is_structured(data):
        return [_set_folder(data, 0)]
    found = [_set_folder(data, 0)] if image_files(data) else []
    for folder in subfolders(data):
        if _LR_FOLDER.fullmatch(folder.name):
            continue
        if _is_structured(folder) or image_files(folder):
            found.append(_set_folder(folder, 1))
        else:
            found += [_set_folder(inner, 2) for inner in subfolders(folder) if _is_known_set(inner)]
    if not found and images_below(data, without=_LR_FOLDER):
        found = [_set_folder(data, 0)]
    return sorted(found, key=lambda entry: (entry.name, entry.depth, entry.path))


def read_set_folder(folder: SetFolder, scale: int) -> SetFiles:
    """Pair the files of one set folder.

    Raises:
        DataError: an LR folder is incomplete, or the download is one that is known to be wrong.
    """
    path = folder.path
    for reader in (_read_selfex, _read_hr_folder, _read_sibling_folders):
        found = reader(path, folder.name, scale)
        if found is not None:
            return found
    files, layout = image_files(path), "plain folder"
    deeper = images_below(path, without=_LR_FOLDER)
    skipped = describe_suffixes(other_files(path, below=not files))
    notices = [f"{path}: {skipped} not read: no pictures that can be read"] if skipped else []
    if not files:
        files, layout = deeper, "folders of images"
    elif deeper and folder.depth:  # those right inside the data folder are sets of their own
        notices.append(f"{path}: {describe_suffixes(deeper)} in folders inside it not read; name such a folder itself")
    pairs = tuple(
        PairedFiles(name=name, hr=file)
        for name, file in zip(_names(files, path, lambda file: file.stem), files, strict=True)
    )
    return SetFiles(pairs=pairs, layout=layout, notices=tuple(notices))


# ---------------------------------------------------------------------------------------------------------- what is it
def _set_folder(path: Path, depth: int) -> SetFolder:
    name = path.resolve().name
    sibling = name[: -len("_HR")] if _is_sibling_hr(path) else name
    return SetFolder(name=canonical_name(sibling), path=path, depth=depth)


def _is_structured(folder: Path) -> bool:
    return (
        bool(_hr_folders(folder, canonical_name(folder.resolve().name)))
        or any(_SELFEX_FOLDER.fullmatch(entry.name) for entry in subfolders(folder))
        or any(_SELFEX_FILE.fullmatch(file.stem) for file in image_files(folder))
        or _is_sibling_hr(folder)
    )


def _is_known_set(folder: Path) -> bool:
    named = canonical_name(folder.name) in BENCHMARKS and bool(image_files(folder))
    return named or _is_structured(folder)


def _is_sibling_hr(folder: Path) -> bool:
    name = folder.resolve().name
    return len(name) > 3 and name.upper().endswith("_HR") and bool(image_files(folder))


def _hr_folders(folder: Path, name: str) -> list[tuple[Path, tuple[str, ...]]]:
    """HR folders of a set folder with the LR folders each may have, by preference.

    ``original`` alone is an HR folder in a benchmark's folder only: elsewhere it is a photographer's word.
    """
    inside = [entry for entry in subfolders(folder) if image_files(entry)]
    found: list[tuple[Path, tuple[str, ...]]] = []
    for pattern, partners in _HR_FAMILIES:
        matching = [entry for entry in inside if re.fullmatch(pattern, entry.name, re.I)]
        if pattern == "original" and not found and name not in BENCHMARKS:
            continue
        found += [(entry, partners) for entry in sorted(matching, key=_modulus, reverse=True)]
    return found


def _modulus(folder: Path) -> int:
    digits = re.search(r"\d+$", folder.name)
    return int(digits.group()) if digits else 0


# --------------------------------------------------------------------------------------------------------- the readers
def _read_hr_folder(path: Path, name: str, scale: int) -> SetFiles | None:
    candidates = _hr_folders(path, name)
    if not candidates:
        return None
    # A lone HR folder goes with whatever LR there is; of several, the first that has its own download's LR.
    every = tuple(dict.fromkeys(partner for _, partners in _HR_FAMILIES for partner in partners))
    options = [(candidates[0][0], every)] if len(candidates) == 1 else candidates
    for hr_folder, partners in options:
        lr_folder = _first_folder(path, (partner.format(s=scale) for partner in partners))
        if lr_folder is not None:
            layout = f"{hr_folder.name} + {lr_folder.relative_to(path).as_posix()}"
            return SetFiles(pairs=_pair(hr_folder, lr_folder, scale), layout=layout, notices=_cropped(hr_folder, scale))
    hr_folder = candidates[0][0]
    return SetFiles(pairs=_pair(hr_folder, None, scale), layout=hr_folder.name, notices=_cropped(hr_folder, scale))


def _cropped(hr_folder: Path, scale: int) -> tuple[str, ...]:
    modulus = _modulus(hr_folder)
    if not modulus or modulus % scale == 0 or scale % modulus == 0:
        return ()
    return (f"{hr_folder} is cropped to multiples of {modulus}: its edges are not those of the usual x{scale} images",)


def _read_sibling_folders(path: Path, name: str, scale: int) -> SetFiles | None:
    if not _is_sibling_hr(path):
        return None
    stem = path.resolve().name[: -len("_HR")]
    parent = path.resolve().parent
    lr_folder = _first_folder(parent, (partner.format(n=stem, s=scale) for partner in _SIBLING_LR))
    layout = path.name if lr_folder is None else f"{path.name} + {lr_folder.relative_to(parent).as_posix()}"
    return SetFiles(pairs=_pair(path, lr_folder, scale), layout=layout)


def _read_selfex(path: Path, name: str, scale: int) -> SetFiles | None:
    """``image_SRF_4/img_001_SRF_4_HR.png`` with ``..._LR.png`` beside it and other methods' results around them."""
    by_scale: dict[int, dict[str, dict[str, Path]]] = {}
    folders = [path, *(entry for entry in subfolders(path) if _SELFEX_FOLDER.fullmatch(entry.name))]
    for file in (file for folder in folders for file in image_files(folder)):
        if match := _SELFEX_FILE.fullmatch(file.stem):
            images = by_scale.setdefault(int(match["scale"]), {})
            images.setdefault(match["name"], {})[match["kind"].upper()] = file
    by_scale = {key: images for key, images in by_scale.items() if any("HR" in kinds for kinds in images.values())}
    if not by_scale:
        return None
    largest = max(by_scale, key=lambda key: (_longest_side(by_scale[key]), key % scale == 0))
    if scale in by_scale and 1.5 * _longest_side(by_scale[scale]) < _longest_side(by_scale[largest]):
        notice = f"{name}: image_SRF_{scale} holds HR images of half size; those of image_SRF_{largest} are used"
        return _selfex_files(by_scale[largest], largest, scale, with_lr=False, notices=(notice,))
    if name == "Urban100" and _longest_side(by_scale[largest]) <= _URBAN_HALF_SIDE:
        raise DataError(
            f"expected Urban100 HR images 1024 pixels long, got half-size ones in {path} (a known fault of "
            f"image_SRF_2); fetch image_SRF_4 too, LR images are made from it"
        )
    if scale in by_scale:
        return _selfex_files(by_scale[scale], scale, scale, with_lr=True)
    notice = f"{name}: HR images of image_SRF_{largest} are used, which are cropped to multiples of {largest}"
    return _selfex_files(by_scale[largest], largest, scale, with_lr=False, notices=(notice,) if largest % scale else ())


def _selfex_files(
    images: dict[str, dict[str, Path]], found: int, scale: int, *, with_lr: bool, notices: tuple[str, ...] = ()
) -> SetFiles:
    complete = {name: kinds for name, kinds in sorted(images.items()) if "HR" in kinds}
    # One download keeps HR alone; a folder that has some LR files has to have all of them.
    with_lr = with_lr and any("LR" in kinds for kinds in complete.values())
    missing = [name for name, kinds in complete.items() if "LR" not in kinds]
    if with_lr and missing:
        raise DataError(
            f"expected {missing[0]}_SRF_{scale}_LR beside {complete[missing[0]]['HR']}, got none; "
            f"complete the folder, or remove its LR files to have them made"
        )
    pairs = tuple(
        PairedFiles(name=name, hr=kinds["HR"], lr=kinds["LR"] if with_lr else None) for name, kinds in complete.items()
    )
    return SetFiles(pairs=pairs, layout=f"image_SRF_{found}" + (", HR alone" if not with_lr else ""), notices=notices)


def _longest_side(images: dict[str, dict[str, Path]]) -> int:
    """Of the first HR image, from its header; 0 where it cannot be read, which the reading itself will name later."""
    first = next(kinds["HR"] for _, kinds in sorted(images.items()) if "HR" in kinds)
    try:
        with PillowImage.open(first) as opened:
            return max(opened.size)
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError):
        return 0


# --------------------------------------------------------------------------------------------------------------- pairs
def _names(files: Sequence[Path], folder: Path, stem: Callable[[Path], str]) -> list[str]:
    """Names that tell a set's images apart: paths in its folder, without suffixes where those are not needed."""
    short = [(file.relative_to(folder).parent / stem(file)).as_posix() for file in files]
    known = Counter(name.casefold() for name in short)
    return [
        name if known[name.casefold()] == 1 else file.relative_to(folder).as_posix()
        for name, file in zip(short, files, strict=True)
    ]


def _pair(hr_folder: Path, lr_folder: Path | None, scale: int) -> tuple[PairedFiles, ...]:
    hr_files = image_files(hr_folder)
    named = list(zip(_names(hr_files, hr_folder, _plain_stem), hr_files, strict=True))
    if lr_folder is None:
        return tuple(PairedFiles(name=name, hr=file) for name, file in named)
    by_stem: dict[str, list[Path]] = {}
    for file in image_files(lr_folder):
        by_stem.setdefault(file.stem.casefold(), []).append(file)
    return tuple(PairedFiles(name=name, hr=file, lr=_lr_file(by_stem, lr_folder, file, scale)) for name, file in named)


def _lr_file(by_stem: dict[str, list[Path]], lr_folder: Path, hr_file: Path, scale: int) -> Path:
    name = _plain_stem(hr_file)
    usual = (hr_file.stem, f"{hr_file.stem}x{scale}")
    stems = dict.fromkeys(
        stem.casefold()
        for stem in (*usual, name, f"{name}x{scale}", f"{name}_x{scale}", f"{name}_LR", f"{name}_LR_x{scale}")
    )
    stems |= dict.fromkeys(f"{name}_{kind}_x{scale}".casefold() for kind in ("LRBI", "bicubic"))
    matches = [file for stem in stems for file in by_stem.get(stem, ())]
    if len(matches) != 1:
        raise DataError(
            f"expected one LR image called {usual[0]} or {usual[1]} in {lr_folder}, got {len(matches)}; "
            f"complete the folder, or remove it to have LR images made"
        )
    return matches[0]


def _plain_stem(file: Path) -> str:
    """``baby`` for ``baby_HR.png``, ``baby_HR_x4.png`` and ``baby_GT.png``."""
    return re.sub(r"_(HR|GT)(_x\d)?$", "", file.stem, flags=re.I) or file.stem


def _first_folder(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of ``names`` (with ``/`` for a folder inside a folder) that holds images, in any case of letters."""
    return next((found for name in names for found in _matching(folder, name.split("/")) if image_files(found)), None)


def _matching(folder: Path, parts: list[str]) -> Iterator[Path]:
    for entry in subfolders(folder):
        if entry.name.casefold() == parts[0].casefold():
            if len(parts) == 1:
                yield entry
            else:
                yield from _matching(entry, parts[1:])
