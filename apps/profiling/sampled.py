"""What any list of timed runs says, whatever device they were made on."""

from __future__ import annotations

from apps.profiling.certainty import is_settled, median_interval

# The interquartile range, as a share of the median, above which a latency is called noisy.
NOISY_IQR_PERCENT = 10.0


class SampleStatistics:
    """Statistics of ``samples_ms``, which a timing holds in order: at least one, in milliseconds."""

    samples_ms: tuple[float, ...]

    @property
    def count(self) -> int:
        return len(self.samples_ms)

    @property
    def median_ms(self) -> float:
        return self._quantile(0.5)

    @property
    def quartiles_ms(self) -> tuple[float, float]:
        """The first and the third quartile."""
        return self._quantile(0.25), self._quantile(0.75)

    @property
    def iqr_ms(self) -> float:
        """Third quartile less first: the spread of the middle half of the runs."""
        first, third = self.quartiles_ms
        return third - first

    @property
    def iqr_percent(self) -> float:
        return 100.0 * self.iqr_ms / self.median_ms

    @property
    def p95_ms(self) -> float:
        return self._quantile(0.95)

    @property
    def noisy(self) -> bool:
        return 100.0 * self.iqr_ms > NOISY_IQR_PERCENT * self.median_ms

    @property
    def median_interval_ms(self) -> tuple[float, float] | None:
        """95% confidence interval of the median; None where the runs are too few for one."""
        return median_interval(self.samples_ms)

    @property
    def settled(self) -> bool:
        """Whether that interval is at most 3% of the median wide."""
        return is_settled(self.samples_ms)

    def _quantile(self, share: float) -> float:
        import numpy as np  # here, so that commands which measure nothing do not wait for it

        return float(np.quantile(np.asarray(self.samples_ms, dtype=np.float64), share))
