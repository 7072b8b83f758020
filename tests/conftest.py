"""What every test starts from: one thread, no window, no cache outside of the test's own folder."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

# Before anything imports torch or matplotlib: two test workers share two cores, and no test may open a window. Child
# processes inherit all of it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
# A terminal's width and colours must not decide what a test reads from the command line's output.
os.environ["COLUMNS"] = "200"
os.environ["NO_COLOR"] = "1"
os.environ.pop("FORCE_COLOR", None)
# No test may write into the history of whoever runs it.
os.environ["EDGE_SR_HISTORY"] = str(Path(tempfile.mkdtemp(prefix="edge-sr-history-")) / "history.sqlite3")

# A shell's background job ignores Ctrl-C and hands that on to its children, of which some are sent one by a test.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The checkout that these tests belong to."""
    return ROOT


@pytest.fixture(scope="session")
def edge_sr_command() -> Path:
    """The installed ``edge-sr`` of this environment."""
    command = Path(sys.executable).with_name("edge-sr")
    assert command.is_file(), f"expected {command}, got none: run make test, which installs it"
    return command


@pytest.fixture
def vulkan() -> None:
    """A Vulkan in software, on which LiteRT's GPU accelerator can be asked; else the test is skipped."""
    from converters import webgpu
    from edge_sr.errors import MissingToolError

    try:
        webgpu.swiftshader_environment()
    except MissingToolError as error:
        pytest.skip(str(error))
