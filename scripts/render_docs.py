"""Write the generated tables of the documents from the measured numbers in results/*.json.

A document marks each table with a pair of comments::

    <!-- table: accuracy -->
    ...replaced...
    <!-- end: accuracy -->

``docs/templates/accuracy.md.j2`` says how it looks; it sees each result file by its stem (``yardstick_x4`` is
``results/yardstick_x4.json``, or None where that was not measured yet), and ``targets`` and ``schemes``. A filter,
``earlier``, says of a measurement that it is of weights which are no longer the bundled ones; ``processor`` says of a
machine whether it has int8 dot products, ``trained_on`` on what training runs ran. ``--check`` writes
nothing and leaves with 1 where a document is out of date.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from apps.formatting import format_drop
from apps.scripting import run_script
from converters.targets import TARGETS
from edge_sr.atomic import atomic_path
from edge_sr.errors import ConfigError
from quantization.schemes import SCHEMES

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "docs" / "templates"
RESULTS = ROOT / "results"
# The results that templates may name, so that a misspelt one is an error and a missing one is "not measured yet".
RESULT_NAMES = (
    "ablation_x4",
    "avx2_idsa_net_mobile_x4",
    "avx2_idsa_net_x4",
    "devices_x4",
    "idsa_net_mobile_x4",
    "idsa_net_x4",
    "npu_idsa_net_mobile_x4",
    "npu_idsa_net_x4",
    "published_x4",
    "quantization_x4",
    "reliability",
    "sensitivity_x4",
    "statistics_x4",
    "training_idsa_net_mobile_x4",
    "training_idsa_net_x4",
    "training_speed",
    "verification_idsa_net_mobile_x4",
    "verification_idsa_net_x4",
    "yardstick_x4",
)
_BLOCK = re.compile(r"<!-- table: (?P<name>\w+) -->\n.*?<!-- end: (?P=name) -->", re.DOTALL)
_MARK = re.compile(r"<!-- (?:table|end): (\w+) -->")


def documents() -> list[Path]:
    """Every document that may hold tables."""
    return [ROOT / "README.md", ROOT / "edge_sr/weights/README.md", *sorted((ROOT / "docs").glob("*.md"))]


def load_results(folder: Path = RESULTS) -> dict[str, Any]:
    """Each known result by its stem, None where it was not measured yet.

    Raises:
        ConfigError: a file is there that no template can name, or is not JSON.
    """
    found = {path.stem: path for path in sorted(folder.glob("*.json"))} if folder.is_dir() else {}
    unknown = sorted(set(found) - set(RESULT_NAMES))
    if unknown:
        raise ConfigError(f"results must be named one of {', '.join(RESULT_NAMES)}, got {', '.join(unknown)}")
    loaded: dict[str, Any] = dict.fromkeys(RESULT_NAMES)
    for name, path in found.items():
        try:
            loaded[name] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"expected JSON in {path}, got {error}; measure again") from error
    return loaded


def render(text: str, facts: Mapping[str, Any], *, templates: Path = TEMPLATES) -> str:
    """Replace every marked table of a document.

    Args:
        text: the document.
        facts: what the templates see.
        templates: folder of ``{table}.md.j2``.
    Raises:
        ConfigError: a mark has no partner, or no template.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters["db"] = lambda value: "–" if value is None else f"{float(value):.2f}"
    environment.filters["db3"] = lambda value: "–" if value is None else f"{float(value):.3f}"
    environment.filters["earlier"] = lambda sha256: earlier(sha256, facts)
    environment.filters["processor"] = processor
    environment.filters["trained_on"] = trained_on
    environment.filters["drop"] = format_drop
    environment.filters["kib"] = lambda size_bytes: "–" if size_bytes is None else f"{size_bytes / 1024:.0f} KiB"

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        try:
            body = environment.get_template(f"{name}.md.j2").render(facts)
        except jinja2.TemplateNotFound as error:
            raise ConfigError(f"expected a template {templates / name}.md.j2, got none; write it") from error
        lines = "\n".join(line.rstrip() for line in body.strip().splitlines())
        return f"<!-- table: {name} -->\n{lines}\n<!-- end: {name} -->"

    rendered = _BLOCK.sub(table, text)
    if len(_MARK.findall(text)) != 2 * len(_BLOCK.findall(text)):
        raise ConfigError(
            "expected each '<!-- table: name -->' to be followed by its '<!-- end: name -->', got a stray one"
        )
    return rendered


def earlier(sha256: str, facts: Mapping[str, Any]) -> str:
    """What a table says of float weights that others have replaced since it was measured; "" for the bundled ones."""
    trainings = [facts[name] for name in RESULT_NAMES if name.startswith("training_idsa") and facts.get(name)]
    if sha256 in {training["float"]["sha256"] for training in trainings}:
        return ""
    return f"**measured on earlier weights** (`{sha256[:8]}`)"


def processor(machine: Mapping[str, Any]) -> str:
    """What decides how much int8 gains: whether one instruction multiplies and adds four bytes, or several do."""
    has = any("vnni" in feature or feature in ("asimddp", "i8mm") for feature in machine["cpu_features"])
    return f"{'with' if has else 'without'} int8 dot products"


def trained_on(runs: Iterable[Mapping[str, Any]]) -> str:
    """The devices of some runs, in words, each once."""
    names = [run["device"].removeprefix("1 x ") for run in runs]
    return " and ".join("processor cores" if "cpu" in name else name for name in dict.fromkeys(names))


def main(arguments: list[str] | None = None) -> int:
    """Render all documents; with ``--check`` only compare. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Write the generated tables of the documents from results/*.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; leave with 1 where a table is out of date")
    check: bool = parser.parse_args(arguments).check
    facts = {"targets": TARGETS, "schemes": SCHEMES, **load_results()}
    stale = 0
    for path in documents():
        before = path.read_text(encoding="utf-8")
        after = render(before, facts)
        if after == before:
            continue
        stale += 1
        print(f"{path.relative_to(ROOT)}: {'out of date; run make docs' if check else 'written'}")
        if not check:
            with atomic_path(path) as temporary:
                temporary.write_text(after, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    run_script(main)
