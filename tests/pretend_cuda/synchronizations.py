"""Where the host waits for the device: counted by phase of the training and by line of code.

Counted are copies between host and device (torch waits for the stream in each, unless it is an upload with
`non_blocking`), reading a value (`item`, `bool`, `tolist`), operations whose result has a size that depends
on values (`nonzero`, boolean masks, `unique`), checks of linear algebra, and `synchronize` itself.
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
_UNINTERESTING = (
    str(Path(__file__).resolve().parent),
    f"{_SITE_PACKAGES}/torch/",
    sysconfig.get_paths()["stdlib"] + "/",
)


class Place(NamedTuple):
    """Where the host waited, and why."""

    phase: str
    """Phase of the training."""
    kind: str
    """What made it wait, such as `item`."""
    line: str
    """Nearest line outside torch."""
    product_line: str
    """Nearest line of nope-splat; empty if there is none."""


@dataclass(frozen=True)
class Phase:
    """A function whose synchronizations are counted apart."""

    name: str
    """Name of the phase."""
    module: str
    """Module of the function."""
    function: str
    """Its qualified name."""


ITERATION, CALLBACKS = "iteration", "callbacks of the iteration"
PER_ITERATION = (ITERATION, CALLBACKS)
"""What every iteration costs."""
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
"""A phase within another interrupts it: history is what the product's iteration adds to the stock one."""


class Synchronizations:
    """Counts by place, and calls by phase. Each thread has a phase of its own."""

    def __init__(self) -> None:
        self.counts: Counter[Place] = Counter()
        self.calls: Counter[str] = Counter()
        self._thread = threading.local()
        self._lock = threading.Lock()

    def record(self, kind: str) -> None:
        """Count one wait, at the line that runs now.

        Args:
            kind: What made the host wait.
        """
        phase = getattr(self._thread, "phase", "elsewhere")
        place = Place(phase, kind, *_calling_lines(sys._getframe(1)))
        with self._lock:
            self.counts[place] += 1

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens within apart.

        Args:
            name: Name of the phase.
        """
        before = getattr(self._thread, "phase", "elsewhere")
        self._thread.phase = name
        with self._lock:
            self.calls[name] += before != name  # an overriding method calls the one that it overrides
        try:
            yield
        finally:
            self._thread.phase = before

    def watch(self, phases: tuple[Phase, ...]) -> None:
        """Make functions phases, for the rest of the process.

        Args:
            phases: The functions, which must exist.
        """
        for phase in phases:
            owner: Any = importlib.import_module(phase.module)
            *classes, name = phase.function.split(".")
            for part in classes:
                owner = getattr(owner, part)
            setattr(owner, name, self._watched(getattr(owner, name), phase.name))

    def _watched(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return inside

    def per_iteration(self) -> float:
        """Mean of what an iteration and its callbacks take, without the phases that are counted apart."""
        total = sum(count for place, count in self.counts.items() if place.phase in PER_ITERATION)
        return total / max(self.calls[ITERATION], 1)

    def table(self) -> str:
        """All counts as text: phases of an iteration first, in each the frequent places first.

        Phases of an iteration are counted per iteration, others per call.
        """
        lines = [f"synchronizations per iteration, callbacks included: {self.per_iteration():.2f}"]
        phases = [*PER_ITERATION, *sorted({place.phase for place in self.counts} - set(PER_ITERATION))]
        for phase in phases:
            calls = self.calls[ITERATION if phase in PER_ITERATION else phase]
            rows = [(count, place) for place, count in self.counts.items() if place.phase == phase]
            total = sum(count for count, _ in rows)
            unit = "iteration" if phase in PER_ITERATION else "call"
            lines += ["", f"{phase}: {total / max(calls, 1):.2f} per {unit}, {calls} {unit}s"]
            for count, place in sorted(rows, key=lambda row: (-row[0], row[1])):
                via = f" (from {place.product_line})" if place.product_line not in ("", place.line) else ""
                lines.append(f"{count / max(calls, 1):9.2f}  {place.kind:<28} {place.line}{via}")
        return "\n".join(lines) + "\n"


SYNCHRONIZATIONS = Synchronizations()
"""Those of this process."""


def _calling_lines(frame: FrameType | None) -> tuple[str, str]:
    """The nearest line outside torch, and the nearest one of the product."""
    nearest = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_UNINTERESTING) or file.startswith(_SITE_PACKAGES + "/nerfstudio"):
            line = f"{_short(file)}:{frame.f_lineno}"
            nearest = nearest or line
            if _PRODUCT in file:
                return nearest, line
        frame = frame.f_back
    return nearest, ""


def _short(file: str) -> str:
    """Path of a module in its package, or of a script in its folder."""
    if file.startswith(_SITE_PACKAGES):
        return file.removeprefix(_SITE_PACKAGES + "/")
    if _PRODUCT in file:
        return _PRODUCT.strip("/") + "/" + file.rpartition(_PRODUCT)[2]
    return "/".join(Path(file).parts[-2:])
