"""What happened in a training, for tests: iterations, growth, pruning, resets, joint refinement."""

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
    """Its number."""
    size: list[int]
    """Width and height of the rendering in pixels."""
    sh_degree: int
    """Degree of the spherical harmonics."""
    num_gaussians: int
    """Number of Gaussians."""


@dataclass
class Events:
    """What happened, in order."""

    iterations: list[Iteration] = field(default_factory=list)
    """All iterations."""
    grown: list[int] = field(default_factory=list)
    """Gaussians that each growth cloned or split."""
    pruned: list[int] = field(default_factory=list)
    """Gaussians that each pruning removed."""
    opacity_resets: int = 0
    """Resets of the opacities."""
    joint_refinements: list[float] = field(default_factory=list)
    """Change of the cost in percent, by each."""
    aligned: list[int] = field(default_factory=list)
    """Held-out views, by index, at each alignment."""

    @staticmethod
    def read(path: Path) -> Events:
        """Those that `write` has written."""
        values = json.loads(path.read_text())
        values["iterations"] = [Iteration(**each) for each in values["iterations"]]
        return Events(**values)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)))

    def watch(self) -> None:
        """Note what happens from now on, in all trainings of this process."""
        after("nope_splat.plugin.model:NopeSplatModel.get_outputs", self._rendered)
        after(
            "gsplat.strategy.default:DefaultStrategy._grow_gs",
            lambda counts, *_: self.grown.append(sum(counts)),
        )
        after(
            "gsplat.strategy.default:DefaultStrategy._prune_gs", lambda count, *_: self.pruned.append(count)
        )
        after("nope_splat.splatting.densification:reset_opa", self._reset)
        after("nope_splat.plugin.pipeline:NopePipeline.adjust_cameras", self._refined)
        after(
            "nope_splat.plugin.pipeline:NopePipeline.align_view",
            lambda _, pipeline, view, step: self.aligned.append(view),
        )

    def _rendered(self, outputs: dict[str, Any], model: Any, camera: Any) -> None:
        if model.training:
            height, width = outputs["rgb"].shape[:2]
            degree = model.present_sh_degree()
            self.iterations.append(Iteration(model.step, [width, height], degree, model.num_points))

    def _reset(self, *_: Any, **__: Any) -> None:
        self.opacity_resets += 1

    def _refined(self, _: None, pipeline: Any, step: int) -> None:
        outcome = pipeline.model.camera_optimizer.last_adjustment
        self.joint_refinements.append(float(outcome["adjustment_cost_change_percent"]))


def after(place: str, note: Callable[..., None]) -> None:
    """Call `note` after each call of a function, for the rest of the process.

    Args:
        place: Module and qualified name of the function, such as `package.module:Class.method`.
        note: Gets the result, then the function's arguments.
    """
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    function = getattr(owner, name)

    @functools.wraps(function)
    def inside(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        note(result, *args, **kwargs)
        return result

    setattr(owner, name, inside)


def interrupt_in(iteration: int) -> None:
    """Send Ctrl-C in the midst of an iteration of every training of this process.

    Args:
        iteration: Its number.
    """

    def interrupt(result: Any, trainer: Any, step: int) -> None:
        if step == iteration:
            signal.raise_signal(signal.SIGINT)

    after("nope_splat.plugin.trainer:NopeTrainer.train_iteration", interrupt)
