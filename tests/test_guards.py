"""What must stay true of the whole checkout: layers, light imports, pins, nothing of one machine written down."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from converters.targets import WITHOUT_DEPENDENCIES

PACKAGES = ("edge_sr", "quantization", "converters", "apps")
TOOLCHAINS = (
    "litert_torch",
    "ai_edge_litert",
    "ai_edge_quantizer",
    "tflite_runtime",
    "executorch",
    "coremltools",
    "torchao",
)
SLOW_TO_IMPORT = ("matplotlib", "skimage", "scipy", "jax", "transformers", "tensorflow")


@pytest.fixture(scope="module")
def pyproject(project_root: Path) -> dict[str, Any]:
    return tomllib.loads((project_root / "pyproject.toml").read_text(encoding="utf-8"))


def _modules_of(project_root: Path, package: str) -> list[str]:
    folder = project_root / package
    paths = sorted(path.relative_to(project_root) for path in folder.rglob("*.py"))
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]


def test_imports_go_down_through_the_layers(project_root: Path) -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_every_module_loads_no_toolchain(project_root: Path) -> None:
    modules = [name for package in PACKAGES for name in _modules_of(project_root, package)]
    assert {name.partition(".")[0] for name in modules} == set(PACKAGES)
    heavy = TOOLCHAINS + SLOW_TO_IMPORT
    # One process for all, from the ground up: the first line with a name on it shows who brought it in.
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    print(name, *sorted(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=project_root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if " " in line][:1] == []


def test_no_module_hides_a_module_of_the_standard_library(project_root: Path) -> None:
    names = {name.rpartition(".")[2] for package in PACKAGES for name in _modules_of(project_root, package)}
    # In a package of its own such a file does no harm until someone runs it as a script; then cProfile breaks.
    assert names & (sys.stdlib_module_names - {"__main__", "types"}) == set()


def test_every_direct_dependency_is_pinned_in_constraints(project_root: Path, pyproject: dict[str, Any]) -> None:
    pinned = {_canonical(line.partition("==")[0]) for line in _pins(project_root)}
    assert (_declared(pyproject) | set(WITHOUT_DEPENDENCIES)) - pinned == set()
    assert {f"{name}=={version}" for name, version in WITHOUT_DEPENDENCIES.items()} <= set(_pins(project_root))


def test_make_installs_without_dependencies_what_would_bring_contradicting_pins(
    project_root: Path, pyproject: dict[str, Any]
) -> None:
    makefile = (project_root / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"--no-deps (\S+)", makefile)) == set(WITHOUT_DEPENDENCIES)
    assert _declared(pyproject) & set(WITHOUT_DEPENDENCIES) == set()


def test_every_imported_package_is_declared(project_root: Path, pyproject: dict[str, Any]) -> None:
    imported: set[str] = set()
    for package in PACKAGES:
        for path in (project_root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    imported.add(str(node.module).partition(".")[0])
    # tflite-runtime stands in for ai-edge-litert where only that is installed, so it is never asked for.
    imported -= {*sys.stdlib_module_names, *PACKAGES, "tflite_runtime"}
    homes = metadata.packages_distributions()
    declared = _declared(pyproject) | set(WITHOUT_DEPENDENCIES)
    undeclared = {name for name in imported if not {_canonical(home) for home in homes.get(name, [])} & declared}
    assert undeclared == set()


def test_constraints_pin_exact_versions_of_names_only(project_root: Path) -> None:
    pins = _pins(project_root)
    assert pins == sorted(pins, key=lambda pin: pin.partition("==")[0].lower())
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_constraints_agree_with_what_runs_here(project_root: Path) -> None:
    wrong = []
    for line in _pins(project_root):
        name, _, version = line.partition("==")
        try:
            installed = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue  # pinned for another platform or extra
        if installed != version:
            wrong.append(f"{name} {installed}, pinned {version}")
    assert wrong == []


def test_package_data_reaches_an_installed_copy(project_root: Path, pyproject: dict[str, Any]) -> None:
    patterns = pyproject["tool"]["setuptools"]["package-data"]
    for package, globs in patterns.items():
        for pattern in globs:
            assert any((project_root / package).glob(pattern)), f"{package}: nothing matches {pattern}"


def test_no_path_of_one_machine_and_no_download_host_is_written_down(project_root: Path) -> None:
    # Spelled in two parts, so that this file does not find itself.
    words = [
        "/" + "home/",
        "/" + "Users/",
        "/" + "work/",
        "/" + "root/",
        "pypi" + ".org",
        "python" + "hosted",
        "deb." + "debian",
    ]
    words += ["npmjs" + ".org", ".lib" + "rary", "file" + ":///"]
    found = []
    for path in _tracked_text(project_root):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            found += [f"{path.relative_to(project_root)}:{number}: {word}" for word in words if word in line]
    assert found == []


def _pins(project_root: Path) -> list[str]:
    lines = (project_root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _declared(pyproject: dict[str, Any]) -> set[str]:
    project = pyproject["project"]
    asked = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        asked += extra
    return {_canonical(re.split(r"[\[<>=!~; ]", entry)[0]) for entry in asked} - {"edge-sr"}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _tracked_text(project_root: Path) -> list[Path]:
    git = shutil.which("git")
    if git is None or not (project_root / ".git").exists():
        pytest.skip("git is missing, or this is no checkout: what is tracked cannot be told")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=project_root, capture_output=True, text=True, check=True)
    paths = [project_root / name for name in listed.stdout.split("\0") if name]
    binary = {".safetensors", ".png", ".jpg", ".webp", ".tflite", ".pte"}
    return [path for path in paths if path.is_file() and path.suffix not in binary]
