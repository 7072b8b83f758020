"""Measurements in a browser as a table for a terminal."""

from __future__ import annotations

from apps.profiling.browser.results import BrowserReport
from apps.terminal import add_row, new_table, say, show

_ENDINGS = {
    "timeout": "ended early: the browser did not come, or fell silent; what was measured until then is above",
    "interrupted": "interrupted: what was measured until then is above",
    "closed": "ended early: the browser that was started here went away",
}


def print_browser(report: BrowserReport) -> None:
    """Device, then one line per artifact and configuration: latency, what the picture was checked against."""
    heads = ("artifact", "runs in", "load ms", "first ms", "median ms", "IQR ms", "p95 ms", "samples", "picture")
    table = new_table(*heads, right=range(2, 8), names=(0,), prose=(8,))
    for row in report.rows:
        cells = [row.label, row.configuration.label]
        timing = row.timing
        if timing is None:
            cells += ["–"] * 6 + [row.reason or ""]
        else:
            batched = f" of {timing.runs_per_sample}" if timing.runs_per_sample > 1 else ""
            cells += [f"{timing.load_ms:.1f}", f"{timing.first_ms:.1f}", f"{timing.median_ms:.2f}"]
            cells += [f"{timing.iqr_ms:.2f}" + (f" ! {timing.iqr_percent:.0f}%" if timing.noisy else "")]
            cells += [f"{timing.p95_ms:.2f}", f"{timing.count}{batched}"]
            cells += [row.numerics.summary if row.numerics is not None else "not checked"]
        add_row(table, *cells)
    if report.device is not None:
        say(f"device: {report.device.title}; thermal state {report.device.thermal_state}")
    show(table)
    # Once each, in the order in which they came up.
    for note in dict.fromkeys(note for row in report.rows for note in row.notes):
        say(f"note: {note}")
    for hint in report.device.hints if report.device is not None else ():
        say(f"hint: {hint}")
    if not report.complete:
        say(_ENDINGS[report.ended])
