"""Time iterations of nope-splat and splatfacto alternately, with the same Gaussians, cameras and images.

python -m scripts.gpu.same_gaussians --scene.data PHOTOS --scene.scene DIR ... --run RUN --output FILE
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from nerfstudio.engine.trainer import Trainer
from torch import Tensor

from nope_splat.plugin.checkpoints import last_checkpoint, load_checkpoint
from nope_splat.splatting.gaussians import PARAMETERS
from nope_splat.utils.terminal import set_up_terminal
from scripts.gpu.timed_training import METHODS, Method
from scripts.gpu.trainers import FIRST_STEP, Scene, iterate, set_up, synchronize

MOST_PER_TURN = 20
WARM_UP_TURNS = 2


@dataclass(frozen=True)
class Turn:
    """Time per iteration in a turn: a few consecutive iterations of one method."""

    launch: float
    """Milliseconds per iteration until Python has queued all work on the device."""
    total: float
    """Milliseconds per iteration until the device has finished all work."""


def compare(scene: Scene, run: Path, output: Path, iterations: int = 200) -> None:
    """Time iterations of both methods, and write the results.

    Args:
        scene: Prepared scene and settings of the trainers.
        run: Folder of a finished training of nope-splat, whose Gaussians both methods use.
        output: JSON file for the results.
        iterations: Minimum number of timed iterations per method.
    """
    state = load_checkpoint(last_checkpoint(run / "nerfstudio_models"))["pipeline"]
    gaussians = {name: state[f"_model.gauss_params.{name}"] for name in PARAMETERS}
    trainers: dict[Method, Trainer] = {
        method: set_up(method, replace(scene, output_dir=scene.output_dir / method), gaussians)
        for method in METHODS
    }
    views = min(num_views(trainer) for trainer in trainers.values())
    per_turn = min(views, MOST_PER_TURN)  # a turn renders every view once, or twenty views
    renderings = [first_view(trainer) for trainer in trainers.values()]
    rounds = max(2, -(-iterations // per_turn))
    turns = take_turns(
        {name: _iterations(each) for name, each in trainers.items()}, rounds + WARM_UP_TURNS, per_turn
    )
    result = {
        "gaussians": {method: trainer.pipeline.model.num_points for method, trainer in trainers.items()},
        "views": views,
        "iterations": rounds * per_turn,
        "rendering_difference": float((renderings[0] - renderings[1]).abs().max()),
        **summary({method: each[WARM_UP_TURNS:] for method, each in turns.items()}),
    }
    output.write_text(json.dumps(result))


def num_views(trainer: Trainer) -> int:
    """Return the number of training images of a trainer.

    Args:
        trainer: Trainer of nope-splat or splatfacto.
    """
    datamanager: Any = trainer.pipeline.datamanager
    return len(datamanager.train_dataset)


def _iterations(trainer: Trainer) -> Callable[[int], None]:
    return lambda number: iterate(trainer, FIRST_STEP + number)


@torch.no_grad()
def first_view(trainer: Trainer) -> Tensor:
    """Render the first training view on black, to check that both methods render the same image.

    Args:
        trainer: Trainer of nope-splat or splatfacto.

    Returns:
        The rendering. (H, W, 3), in [0, 1].
    """
    trainer.pipeline.eval()
    model: Any = trainer.pipeline.model
    datamanager: Any = trainer.pipeline.datamanager
    camera = datamanager.train_dataset.cameras[:1].to(trainer.device)
    background, model.background_color = model.background_color, torch.zeros(3, device=model.device)
    rendered = model.get_outputs(camera)["rgb"]
    model.background_color = background
    return rendered


def take_turns(
    works: dict[Method, Callable[[int], None]], rounds: int, per_turn: int
) -> dict[Method, list[Turn]]:
    """Time two or more tasks alternately, so that load on the machine affects all tasks equally.

    Args:
        works: For each method, a function that runs one iteration, given its number.
        rounds: Number of turns of each method.
        per_turn: Number of iterations in a turn.

    Returns:
        For each method, the time per iteration in every turn.
    """
    turns: dict[Method, list[Turn]] = {name: [] for name in works}
    for number in range(rounds):
        order = list(works) if number % 2 == 0 else list(reversed(works))
        for name in order:
            synchronize()
            start = time.perf_counter()
            for piece in range(number * per_turn, (number + 1) * per_turn):
                works[name](piece)
            queued = time.perf_counter()
            synchronize()
            done = time.perf_counter()
            turns[name].append(Turn(1e3 * (queued - start) / per_turn, 1e3 * (done - start) / per_turn))
    return turns


def summary(turns: dict[Method, list[Turn]]) -> dict[str, Any]:
    """Compute the median time of each method, and the ratio of nope-splat's time to splatfacto's.

    Args:
        turns: Turns of each method. Turns with the same index ran directly after each other.

    Returns:
        `ms_per_iteration` and `launch_ms_per_iteration`, the medians of each method; `ratio`, the median over
        the turns of nope-splat's time divided by splatfacto's time; and `ratio_quartiles`, its first and
        third quartile.
    """
    ours, theirs = turns["nope-splat"], turns["splatfacto"]
    ratios = [our.total / their.total for our, their in zip(ours, theirs, strict=True)]
    return {
        "ms_per_iteration": {name: statistics.median(t.total for t in each) for name, each in turns.items()},
        "launch_ms_per_iteration": {
            name: statistics.median(t.launch for t in each) for name, each in turns.items()
        },
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
    }


if __name__ == "__main__":
    set_up_terminal()
    tyro.cli(compare)
