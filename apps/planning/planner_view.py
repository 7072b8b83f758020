"""A tile plan as a table."""

from __future__ import annotations

from apps.planning.planner import Option, TilePlan
from apps.terminal import add_row, new_table, say, show
from edge_sr.sizes import format_size


def print_plan(plan: TilePlan) -> None:
    """The best option in a sentence, then all of them."""
    best = plan.best
    scale = best.cost.scale
    say(
        f"{format_size((plan.height, plan.width))} -> {format_size((plan.height * scale, plan.width * scale))}: "
        f"{best.cost.name}, "
        f"{best.tiles} tile{'s' if best.tiles > 1 else ''} of {format_size(best.cost.tile)}, "
        f"about {format_seconds(best.seconds)} and {best.memory_bytes / 1e6:.0f} MB"
    )
    heads = ("artifact", "threads", "overlap", "tiles", "computed", "predicted", "quartiles", "memory", "fits")
    table = new_table(*heads, right=range(1, len(heads)), names=(0,))
    for option in plan.options:
        add_row(table, *_cells(option))
    show(table)
    say(
        f"memory: what runtime and model were measured to add, and {best.pictures_bytes / 1e6:.0f} MB for pixels where "
        "finished rows go to a PNG file, as upscale does; an application's own memory comes on top"
    )
    say(f"time: measured on {best.cost.device}, one tile after another; no forecast for any other device")


def format_seconds(seconds: float) -> str:
    """Seconds, or minutes where they are many."""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _cells(option: Option) -> tuple[str, ...]:
    low, high = option.seconds_quartiles
    return (
        option.cost.name,
        str(option.cost.threads),
        str(option.cost.overlap),
        str(option.tiles),
        f"{option.computed_share:.2f}x",
        format_seconds(option.seconds),
        f"{format_seconds(low)} to {format_seconds(high)}",
        f"{option.memory_bytes / 1e6:.0f} MB",
        "yes" if option.fits else "no",
    )
