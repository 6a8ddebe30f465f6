"""Counts of synchronizations of the host with the device, by phase of the training and by line.

Synchronizing operations are copies between host and device (except uploads with `non_blocking`), reading a
value (`item`, `bool`, `tolist`), operations whose output size depends on values (`nonzero`, boolean masks,
`unique`), error checks of linear algebra, and `synchronize`.
"""

from __future__ import annotations

import functools
import importlib
import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

_SITE_PACKAGES = sysconfig.get_paths()["purelib"]
_PRODUCT = "/nope_splat/"
_IGNORED_PATHS = (
    str(Path(__file__).resolve().parent),
    f"{_SITE_PACKAGES}/torch/",
    sysconfig.get_paths()["stdlib"] + "/",
)


class Synchronization(NamedTuple):
    """A kind of synchronization at a line of code."""

    phase: str
    """Phase of the training."""
    kind: str
    """Operation that synchronizes, such as `item`."""
    line: str
    """Nearest line outside torch."""
    product_line: str
    """Nearest line of nope-splat; empty if none."""


@dataclass(frozen=True)
class Phase:
    """A function whose synchronizations are counted separately."""

    name: str
    """Name of the phase."""
    module: str
    """Module of the function."""
    function: str
    """Qualified name of the function."""


ITERATION, CALLBACKS = "iteration", "callbacks of the iteration"
PER_ITERATION = (ITERATION, CALLBACKS)
"""Phases of every iteration."""
STOCK_PHASES = (
    Phase(ITERATION, "nerfstudio.engine.trainer", "Trainer.train_iteration"),
    Phase(CALLBACKS, "nerfstudio.engine.callbacks", "TrainingCallback.run_callback_at_location"),
    Phase("logging", "nerfstudio.utils.writer", "write_out_storage"),
    Phase("evaluation", "nerfstudio.engine.trainer", "Trainer.eval_iteration"),
    Phase("checkpoint", "nerfstudio.engine.trainer", "Trainer.save_checkpoint"),
    Phase("growth and pruning", "gsplat.strategy.default", "DefaultStrategy._grow_gs"),
    Phase("growth and pruning", "gsplat.strategy.default", "DefaultStrategy._prune_gs"),
)
PRODUCT_PHASES = (
    Phase("history", "nope_splat.plugin.trainer", "NopeTrainer.train_iteration"),
    Phase("checkpoint", "nope_splat.plugin.trainer", "NopeTrainer.save_checkpoint"),
    Phase("joint refinement", "nope_splat.plugin.pipeline", "NopePipeline.adjust_cameras"),
    Phase("held-out alignment", "nope_splat.plugin.pipeline", "NopePipeline.align_view"),
    Phase("viewer", "nope_splat.plugin.viewer", "NopeViewerControl.update"),
    Phase("growth and pruning", "nope_splat.splatting.densification", "CappedStrategy._grow_gs"),
)
"""A nested phase interrupts the outer one: "history" is the part of the iteration that nope-splat adds."""


class Synchronizations:
    """Counts by line and phase, and calls per phase. The current phase is per thread."""

    def __init__(self) -> None:
        self.counts: Counter[Synchronization] = Counter()
        self.calls: Counter[str] = Counter()
        self._thread = threading.local()
        self._lock = threading.Lock()

    def record(self, kind: str) -> None:
        """Count a synchronization at the current line.

        Args:
            kind: Operation that synchronizes.
        """
        phase = getattr(self._thread, "phase", "elsewhere")
        synchronization = Synchronization(phase, kind, *_calling_lines(sys._getframe(1)))
        with self._lock:
            self.counts[synchronization] += 1

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count synchronizations in the context as those of a phase.

        Args:
            name: Name of the phase.
        """
        before = getattr(self._thread, "phase", "elsewhere")
        self._thread.phase = name
        with self._lock:
            self.calls[name] += before != name  # count an overriding method and its super() call once
        try:
            yield
        finally:
            self._thread.phase = before

    def watch(self, phases: tuple[Phase, ...]) -> None:
        """Wrap functions as phases, for the rest of the process.

        Args:
            phases: Functions, which must exist.
        """
        for phase in phases:
            owner: Any = importlib.import_module(phase.module)
            *classes, name = phase.function.split(".")
            for part in classes:
                owner = getattr(owner, part)
            setattr(owner, name, self._watched(getattr(owner, name), phase.name))

    def _watched(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return wrapper

    def per_iteration(self) -> float:
        """Average the count of an iteration and its callbacks, without the other phases."""
        total = sum(count for key, count in self.counts.items() if key.phase in PER_ITERATION)
        return total / max(self.calls[ITERATION], 1)

    def table(self) -> str:
        """Format all counts, phases of an iteration first, and lines by descending count.

        Counts are per iteration in the phases of an iteration, else per call.
        """
        lines = [f"synchronizations per iteration, callbacks included: {self.per_iteration():.2f}"]
        phases = [*PER_ITERATION, *sorted({key.phase for key in self.counts} - set(PER_ITERATION))]
        for phase in phases:
            calls = self.calls[ITERATION if phase in PER_ITERATION else phase]
            rows = [(count, key) for key, count in self.counts.items() if key.phase == phase]
            total = sum(count for count, _ in rows)
            unit = "iteration" if phase in PER_ITERATION else "call"
            lines += ["", f"{phase}: {total / max(calls, 1):.2f} per {unit}, {calls} {unit}s"]
            for count, key in sorted(rows, key=lambda row: (-row[0], row[1])):
                via = f" (from {key.product_line})" if key.product_line not in ("", key.line) else ""
                lines.append(f"{count / max(calls, 1):9.2f}  {key.kind:<28} {key.line}{via}")
        return "\n".join(lines) + "\n"


SYNCHRONIZATIONS = Synchronizations()
"""Counts of this process."""


def _calling_lines(frame: FrameType | None) -> tuple[str, str]:
    """Find the nearest line outside torch, and the nearest line of nope-splat."""
    nearest = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_IGNORED_PATHS) or file.startswith(_SITE_PACKAGES + "/nerfstudio"):
            line = f"{_short(file)}:{frame.f_lineno}"
            nearest = nearest or line
            if _PRODUCT in file:
                return nearest, line
        frame = frame.f_back
    return nearest, ""


def _short(file: str) -> str:
    """Shorten the path of a module to its package, or of a script to its folder."""
    if file.startswith(_SITE_PACKAGES):
        return file.removeprefix(_SITE_PACKAGES + "/")
    if _PRODUCT in file:
        return _PRODUCT.strip("/") + "/" + file.rpartition(_PRODUCT)[2]
    return "/".join(Path(file).parts[-2:])
