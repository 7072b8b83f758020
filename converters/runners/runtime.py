"""What is known of a runtime before anything of it is imported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One way to execute the artifacts of a target.

    Attributes:
        name: as in results and on the command line.
        target: whose artifacts it executes.
        title: as printed in reports.
        runner: ``module:Class`` below :mod:`converters.runners`, imported when one is opened; it takes an artifact and
            ``threads``.
        own_process: whether it must not live in this process: its libraries print, crash, or read their environment
            when the process starts.
        slow: whether a tile takes it seconds: what asks for many of them then asks for fewer.
        thorough: whether it is too slow to run unless everything is to be compared.
        in_float: whether it computes float artifacts in their own arithmetic and others in float too, as GPUs do.
        own_rounding: whether it rounds otherwise than XNNPACK, whose rounding the fake-quantized networks have.
        stand_in: whether it is this project's own; what it cannot do says nothing about the file.
        exact: whether a version of it gives the same whole numbers on every computer: a quantized file that gives one
            level more or less is then another file.
        timeout_s: for opening it, and for one tile.
        environment: ``module:function`` that gives the variables of that process; empty for those of this one.
    """

    name: str
    target: str
    title: str
    runner: str
    own_process: bool = False
    slow: bool = False
    thorough: bool = False
    environment: str = ""
    in_float: bool = False
    own_rounding: bool = False
    stand_in: bool = False
    exact: bool = False
    timeout_s: float = 120.0

    def environment_here(self) -> dict[str, str]:
        """The variables that its process needs beside those of this one.

        Raises:
            MissingToolError: the runtime is not installed.
        """
        if not self.environment:
            return {}
        module, _, name = self.environment.partition(":")
        found: dict[str, str] = getattr(import_module(module), name)()
        return found
