"""The next steps' crops, cut by threads while a step computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from edge_sr.training.crop_pool import Crops


class Prefetch:
    """Yields ``make(step)`` for ``first <= step < end`` in order; a context manager, whose end drops what is not used.

    Args:
        make: cuts the crops of a step; called from several threads at once.
        first, end: steps.
        threads: how many steps ahead are being made.
    """

    def __init__(self, make: Callable[[int], Crops], first: int, end: int, *, threads: int = 1) -> None:
        self._make, self._next, self._end, self._threads = make, first, end, threads
        self._executor = ThreadPoolExecutor(threads)
        self._waiting: deque[Future[Crops]] = deque()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Crops]:
        self._submit()
        while self._waiting:
            crops = self._waiting.popleft().result()
            self._submit()
            yield crops

    def _submit(self) -> None:
        while self._next < self._end and len(self._waiting) < self._threads:
            self._waiting.append(self._executor.submit(self._make, self._next))
            self._next += 1
