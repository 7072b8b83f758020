"""Bars of the pages: an axis that does not exaggerate, steps that join, and words where there is nothing to see."""

from __future__ import annotations

import pytest

from apps.bars import LEAST_SPAN_DB, BarChart, LatencyBar, latency_chart, waterfall_chart


def _waterfall(*drops: float, start: float = 31.3) -> BarChart:
    steps = [(f"step {number}", drop) for number, drop in enumerate(drops)]
    return waterfall_chart(steps, title="t", start_label="float", start_db=start, end_label="artifact")


def _span(chart: BarChart) -> tuple[float, float]:
    (first, low), (last, high) = chart.ticks[0], chart.ticks[-1]
    assert (first, last) == (0.0, 1.0)
    return float(low), float(high)


@pytest.mark.parametrize("drops", [(0.02,), (0.001, -0.002), (0.0,), (0.3, 1.1), (-0.4, 0.2), (12.0, 0.01)])
def test_axis_spans_half_a_decibel_and_bars_are_as_long_as_their_drops(drops: tuple[float, ...]) -> None:
    chart = _waterfall(*drops)
    low, high = _span(chart)
    assert high - low >= LEAST_SPAN_DB - 1e-9
    assert high - low <= 3 * max(LEAST_SPAN_DB, sum(map(abs, drops))), "what there is to see fills a third of it"
    level = 31.3
    for bar, drop in zip(chart.bars[1:-1], drops, strict=True):
        ends = sorted((level, level - drop))
        assert (bar.start, bar.end) == pytest.approx([(end - low) / (high - low) for end in ends], abs=1e-6)
        assert bar.kind == ("gain" if drop < 0 else "loss")
        level -= drop
    first, last = chart.bars[0], chart.bars[-1]
    assert (first.start, last.start) == (0.0, 0.0)
    assert last.end == pytest.approx((level - low) / (high - low), abs=1e-6)
    assert (first.text, last.text) == ("31.300 dB", f"{level:.3f} dB")


def test_axis_says_that_it_does_not_begin_at_zero_and_when_there_is_nothing_to_see() -> None:
    assert _waterfall(0.02).axis == "PSNR-Y in dB, from 30.8 on and not from zero"
    assert "thousandths" in _waterfall(0.002, -0.009).axis
    assert "thousandths" not in _waterfall(0.002, 0.01).axis


@pytest.mark.parametrize(("drop", "text"), [(0.0001, "0.000 dB"), (0.02, "-0.020 dB"), (-0.5, "+0.500 dB")])
def test_steps_are_labelled_with_what_they_change(drop: float, text: str) -> None:
    assert _waterfall(drop).bars[1].text == text


def test_latency_begins_at_zero_and_its_whisker_reaches_from_quartile_to_quartile() -> None:
    bars = [
        LatencyBar(label="slow", scheme="fp32", median_ms=10.0, quartiles_ms=(8.0, 20.0)),
        LatencyBar(label="fast", scheme="w8a8", median_ms=5.0, quartiles_ms=(5.0, 5.0)),
    ]
    chart = latency_chart(bars, title="t")
    assert _span(chart) == (0.0, 20.0)
    slow, fast = chart.bars
    assert (slow.start, slow.end, slow.whisker, slow.text, slow.kind) == (0.0, 0.5, (0.4, 1.0), "10.0 ms", "fp32")
    assert (fast.end, fast.whisker) == (0.25, (0.25, 0.25))
