"""Clock that measures time and memory of a training, separately for iterations and for other work.

A GPU works asynchronously, so the clock waits for the GPU before it reads the time. Waiting after every
iteration would slow down the training, so the clock waits only at the end of a window of several iterations.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Device:
    """Functions of a device that the clock needs."""

    synchronize: Callable[[], object] = lambda: None
    """Function that waits until the device has finished its work."""
    peak_bytes: Callable[[], int] = lambda: 0
    """Function that returns the peak memory of the device in bytes since the last reset."""
    reset_peak: Callable[[], object] = lambda: None
    """Function that resets the peak memory."""
    now: Callable[[], float] = time.perf_counter
    """Function that returns the time in seconds."""


def available_device() -> Device:
    """Return the functions of the GPU, or those of the CPU if torch finds no GPU."""
    if not torch.cuda.is_available():
        return Device()
    cuda = torch.cuda
    return Device(cuda.synchronize, cuda.max_memory_allocated, cuda.reset_peak_memory_stats)


@dataclass(frozen=True)
class Window:
    """Consecutive iterations that are timed together."""

    first_step: int
    """Number of the first iteration in the window."""
    iterations: int
    """Number of iterations in the window."""
    seconds: float
    """Time of the iterations in seconds, without the time in spans."""
    gaussians: int
    """Number of Gaussians at the beginning of the window."""
    downscale: int
    """Factor by which training images were downscaled at the beginning of the window."""


@dataclass
class _Open:
    first_step: int
    gaussians: int
    downscale: int
    start: float
    away: float = 0.0


@dataclass
class TrainingClock:
    """Clock of a training.

    Call `begin_iteration` before each iteration, and wrap all other work in `span`.
    """

    window: int
    """Number of iterations that are timed together."""
    device: Device = field(default_factory=available_device)
    """Functions of the device on which the training runs."""

    def __post_init__(self) -> None:
        self.windows: list[Window] = []
        self.seconds: dict[str, float] = defaultdict(float)
        self.peaks: dict[str, int] = defaultdict(int)
        self.finished = False
        self._open: _Open | None = None
        self._phase = "setup"
        self._in_span = False
        self._phase_start = self._created = self.device.now()

    def begin_iteration(self, step: int, gaussians: int, downscale: int) -> None:
        """Record the start of a training iteration.

        Args:
            step: Number of the iteration.
            gaussians: Current number of Gaussians.
            downscale: Factor by which training images are downscaled.
        """
        if self._open is None:
            now = self._enter("iterations")
        elif (step - self._open.first_step) % self.window == 0:
            now = self._close(step)
        else:
            return
        self._open = _Open(step, gaussians, downscale, now)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Measure work that is not part of plain iterations, such as joint refinement.

        The time of a span within another span counts toward the outer span.

        Args:
            name: Name of the work in the report.
        """
        if self._in_span or self.finished:
            yield
            return
        before, start = self._phase, self._enter(name)
        self._in_span = True
        try:
            yield
        finally:
            self._in_span = False
            seconds = self._enter(before) - start
            if self._open is not None:
                self._open.away += seconds

    def finish(self, step: int) -> None:
        """Record the end of the iterations. Only the first call has an effect.

        Args:
            step: Number of iterations.
        """
        if self.finished or self._open is None:
            return
        if step > self._open.first_step:
            self._close(step)
        self._enter("after training")
        self.finished = True

    def _close(self, step: int) -> float:
        """End the current window before iteration `step`, and return the time in seconds."""
        assert self._open is not None
        self.device.synchronize()
        now, window = self.device.now(), self._open
        self.windows.append(
            Window(
                window.first_step,
                step - window.first_step,
                now - window.start - window.away,
                window.gaussians,
                window.downscale,
            )
        )
        return now

    def _enter(self, phase: str) -> float:
        """End the current phase of the process, begin another phase, and return the time in seconds."""
        self.device.synchronize()
        now = self.device.now()
        self.seconds[self._phase] += now - self._phase_start
        self.peaks[self._phase] = max(self.peaks[self._phase], self.device.peak_bytes())
        self.device.reset_peak()
        self._phase, self._phase_start = phase, now
        return now

    def report(self) -> dict[str, Any]:
        """Summarize the measurements.

        Returns:
            `iterations_per_second` of plain iterations, without the first window, which includes warm-up;
            `full_resolution`, the iterations per second at the full size of the training images. Both are
            None without such iterations. `seconds` and, on a GPU, `peak_gib` by name of the phase;
            `share_joint_refinement`, the fraction that joint refinement takes of the time from the first to
            the last iteration; `iterations`, their number; and `windows`, all windows.
        """
        during = {n: s for n, s in self.seconds.items() if n not in ("setup", "after training")}
        total = sum(during.values())
        full = [window for window in self.windows[1:] if window.downscale == 1]
        return {
            "iterations": sum(window.iterations for window in self.windows),
            "iterations_per_second": _rate(self.windows[1:]),
            "full_resolution": _rate(full),
            "share_joint_refinement": during.get("joint refinement", 0.0) / total if total else 0.0,
            "seconds": dict(self.seconds),
            "peak_gib": {name: peak / 2**30 for name, peak in self.peaks.items() if peak},
            "windows": [asdict(window) for window in self.windows],
        }


def _rate(windows: list[Window]) -> float | None:
    seconds = sum(window.seconds for window in windows)
    return sum(window.iterations for window in windows) / seconds if seconds else None
