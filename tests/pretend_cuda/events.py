"""Record of a training, for tests: iterations, growth, pruning, resets, joint refinement."""

from __future__ import annotations

import functools
import importlib
import json
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Iteration:
    """One iteration of a training."""

    step: int
    """Number of the iteration."""
    size: list[int]
    """Width and height of the rendering in pixels."""
    sh_degree: int
    """Degree of the spherical harmonics."""
    num_gaussians: int
    """Number of Gaussians."""


@dataclass
class Events:
    """Events of a training, in order."""

    iterations: list[Iteration] = field(default_factory=list)
    """Iterations, without renderings for evaluation or the viewer."""
    grown: list[int] = field(default_factory=list)
    """Number of duplicated or split Gaussians, per growth step."""
    pruned: list[int] = field(default_factory=list)
    """Number of pruned Gaussians, per pruning step."""
    opacity_resets: int = 0
    """Number of opacity resets."""
    joint_refinements: list[float] = field(default_factory=list)
    """Cost change in percent, per joint refinement."""
    aligned: list[int] = field(default_factory=list)
    """Index of the held-out view, per alignment."""

    @staticmethod
    def read(path: Path) -> Events:
        """Read events from a file that `write` has written."""
        values = json.loads(path.read_text())
        values["iterations"] = [Iteration(**fields) for fields in values["iterations"]]
        return Events(**values)

    def write(self, path: Path) -> None:
        """Write events as JSON."""
        path.write_text(json.dumps(asdict(self)))

    def record(self) -> None:
        """Record the events of all later trainings of this process."""
        add_hook("nope_splat.plugin.model:NopeSplatModel.get_outputs", self._rendered)
        add_hook(
            "gsplat.strategy.default:DefaultStrategy._grow_gs",
            lambda counts, *_: self.grown.append(sum(counts)),
        )
        add_hook(
            "gsplat.strategy.default:DefaultStrategy._prune_gs", lambda count, *_: self.pruned.append(count)
        )
        add_hook("nope_splat.splatting.densification:reset_opa", self._reset)
        add_hook("nope_splat.plugin.pipeline:NopePipeline.adjust_cameras", self._refined)
        add_hook(
            "nope_splat.plugin.pipeline:NopePipeline.align_view",
            lambda _, pipeline, view, step: self.aligned.append(view),
        )

    def _rendered(self, outputs: dict[str, Any], model: Any, camera: Any) -> None:
        if model.training:
            height, width = outputs["rgb"].shape[:2]
            degree = model.current_sh_degree()
            self.iterations.append(Iteration(model.step, [width, height], degree, model.num_points))

    def _reset(self, *_: Any, **__: Any) -> None:
        self.opacity_resets += 1

    def _refined(self, _: None, pipeline: Any, step: int) -> None:
        outcome = pipeline.model.camera_optimizer.last_adjustment
        self.joint_refinements.append(float(outcome["adjustment_cost_change_percent"]))


def add_hook(function_path: str, hook: Callable[..., None]) -> None:
    """Call a hook after each call of a function, for the rest of the process.

    Args:
        function_path: Module and qualified name of the function, such as `package.module:Class.method`.
        hook: Called with the result and the arguments of the function.
    """
    module, _, path = function_path.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        hook(result, *args, **kwargs)
        return result

    setattr(owner, name, wrapper)


def interrupt_in(iteration: int) -> None:
    """Raise SIGINT during an iteration of every training of this process.

    Args:
        iteration: Number of the iteration.
    """

    def interrupt(result: Any, trainer: Any, step: int) -> None:
        if step == iteration:
            signal.raise_signal(signal.SIGINT)

    add_hook("nope_splat.plugin.trainer:NopeTrainer.train_iteration", interrupt)
