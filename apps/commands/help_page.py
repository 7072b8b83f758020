"""What ``--help`` prints: plain text, wrapped once, in which options that belong together stand together."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from typer.core import TyperCommand

# As wide as the text of a page at 80 columns, less the indentation of an example.
_EXAMPLE_WIDTH = 72
# How Typer shows the type of a value: <int range>, <list[Path]>.
_TYPE = re.compile(r"<(?:list\[)?(\w+)(?: range|\])?>")
_SHOWN = {"int": "N", "float": "X", "str": "TEXT", "path": "PATH"}


class HelpPage(TyperCommand):
    """A command whose options are listed by their ``rich_help_panel``, those without one first."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then a section of options for each panel."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            panel = getattr(parameter, "rich_help_panel", None)
            heading = panel or ("Arguments" if parameter.param_type_name == "argument" else "Options")
            sections.setdefault(heading, []).append((_TYPE.sub(_shown, record[0]), record[1]))
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def examples(*lines: str) -> str:
    """Text for the end of a page: one example per line; a longer one goes on, indented, as a shell reads it."""
    wrapped = []
    for line in lines:
        together = re.sub(r"( --?[a-z0-9-]+) (?!-)", "\\1\N{NO-BREAK SPACE}", line)  # an option and its value
        pieces = textwrap.wrap(
            together, _EXAMPLE_WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        wrapped.append(" \\\n  ".join(pieces).replace("\N{NO-BREAK SPACE}", " "))
    return "\b\nExamples:\n  " + "\n  ".join(wrapped)  # \b: the lines are not wrapped again


def _shown(match: re.Match[str]) -> str:
    kind = match[1].lower()
    return _SHOWN.get(kind, match[0])
