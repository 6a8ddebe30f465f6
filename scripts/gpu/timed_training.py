"""Train nope-splat or splatfacto as from the command line, and time the training.

    python -m scripts.gpu.timed_training --output FILE --window 50 nope-splat --data PHOTOS ...
    python -m scripts.gpu.timed_training --output FILE --window 50 splatfacto --data FOLDER ...

The flags after the method are those of `ns-train nope-splat` or of `scripts/benchmark/splatfacto_peer.py`.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
import tyro
from nerfstudio.engine.trainer import Trainer

from nope_splat.plugin.device import require_device
from nope_splat.plugin.pipeline import NopePipeline
from nope_splat.plugin.trainer import NopeTrainer
from scripts.benchmark.splatfacto_peer import Settings, run
from scripts.gpu.clock import TrainingClock

Method = Literal["nope-splat", "splatfacto"]
METHODS: tuple[Method, ...] = ("nope-splat", "splatfacto")

SPANS = (
    (NopePipeline, "adjust_cameras", "joint refinement"),
    (NopeTrainer, "save_checkpoint", "checkpoints"),
    (Trainer, "save_checkpoint", "checkpoints"),
)
"""Functions whose time does not count as plain iterations: class, name of the function, and name of the
span."""


@contextmanager
def timing(clock: TrainingClock) -> Iterator[None]:
    """Context in which trainings report their iterations and spans to a clock.

    Args:
        clock: Clock that measures the training.
    """
    with ExitStack() as stack:
        for owner, name, span in SPANS:
            stack.enter_context(mock.patch.object(owner, name, _spanned(getattr(owner, name), clock, span)))
        begin = _before(Trainer.train_iteration, lambda trainer: _begin(trainer, clock))
        stack.enter_context(mock.patch.object(Trainer, "train_iteration", begin))
        for owner in (NopeTrainer, Trainer):
            finish = _before(owner._after_train, lambda trainer: clock.finish(trainer.step + 1))
            stack.enter_context(mock.patch.object(owner, "_after_train", finish))
        yield


def _begin(trainer: Trainer, clock: TrainingClock) -> None:
    model: Any = trainer.pipeline.model
    clock.begin_iteration(trainer.step, model.num_points, model._get_downscale_factor())


def _before(function: Callable[..., Any], first: Callable[[Trainer], None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def both(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        first(self)
        return function(self, *args, **kwargs)

    return both


def _spanned(function: Callable[..., Any], clock: TrainingClock, span: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        with clock.span(span):
            return function(*args, **kwargs)

    return timed


def start(method: Method, flags: list[str]) -> None:
    """Train a method with the given command line flags.

    Args:
        method: Name of the method.
        flags: Flags of `ns-train nope-splat` or of `splatfacto_peer.py`.
    """
    if method == "splatfacto":
        if torch.cuda.is_available():
            require_device("cuda")
        run(tyro.cli(Settings, args=flags))
        return
    from nerfstudio.scripts.train import entrypoint

    with mock.patch.object(sys, "argv", ["ns-train", method, *flags]):
        entrypoint()


def main() -> None:
    """Train, and write the report of the clock to a JSON file.

    Raises:
        SystemExit: If the training ended before its last iteration.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("flags", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    clock = TrainingClock(arguments.window)
    with timing(clock):
        start(arguments.method, arguments.flags)
    if not clock.finished:
        raise SystemExit("nope-splat: the training ended before its last iteration")
    arguments.output.write_text(json.dumps(clock.report()))


if __name__ == "__main__":
    main()
