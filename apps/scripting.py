"""How a script of this repository ends: with its exit status, and with one line where something was wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from apps.streams import complain, prepare_streams, say_aside
from edge_sr.errors import EdgeSRError


def run_script(main: Callable[[], int]) -> NoReturn:
    """Call a script's ``main`` and leave with the status it returns, or with that of its error."""
    prepare_streams()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say_aside("interrupted")
        sys.exit(130)
    except EdgeSRError as error:
        complain(error)
        sys.exit(error.exit_code)
