"""How a script of this repository ends: with its exit status, and with one line where something was wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from apps.streams import complain, prepare_streams, say_aside
from edge_sr.errors import EdgeSRError
from edge_sr.signals import ended_like_interrupted, interrupted_status


def run_script(main: Callable[[], int]) -> NoReturn:
    """Call a script's ``main`` and leave with the status it returns, or with that of its error.

    SIGTERM does what Ctrl-C does; the status is 143 then, and 130 after Ctrl-C.
    """
    prepare_streams()
    try:
        with ended_like_interrupted():
            status = main()
        sys.exit(status)
    except KeyboardInterrupt:
        say_aside("interrupted")
        sys.exit(interrupted_status())
    except EdgeSRError as error:
        complain(error)
        sys.exit(error.exit_code)
