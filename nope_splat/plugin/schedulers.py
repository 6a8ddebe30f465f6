"""Learning rate schedules that scale with the number of training iterations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import tyro
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from nope_splat.utils.device_defaults import Auto, resolved


@dataclass
class DecayConfig(SchedulerConfig):
    """Options of a learning rate that rises from zero in a warm-up, and then decays exponentially.

    nerfstudio's scheduler is not used, because the lengths of its warm-up and decay do not scale with
    `--max-num-iterations`, and because it stores numpy numbers in checkpoints, which torch 2.6 and later
    refuse to load.
    """

    _target: type = field(default_factory=lambda: Decay)
    lr_final: float | Auto = 1e-6
    """Learning rate at the end of training; "auto" is a default that depends on the training device."""
    warmup: float = 0.0
    """Fraction of the training run during which the learning rate rises from zero to its initial value; 0 for
    no warm-up."""
    num_iterations: tyro.conf.Suppress[int] = 30000
    """Total number of training iterations; set by the trainer."""


class Decay(Scheduler):
    """Learning rate scheduler with the options `DecayConfig`."""

    config: DecayConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LambdaLR:
        """Create a PyTorch scheduler for an optimizer.

        Args:
            optimizer: Optimizer whose learning rate is scheduled.
            lr_init: Learning rate at the end of the warm-up or, without a warm-up, at the start of training.
        """
        lr_final = resolved(self.config.lr_final)

        def factor(step: int) -> float:
            progress = min(step / self.config.num_iterations, 1.0)
            if progress < self.config.warmup:
                return math.sin(0.5 * math.pi * progress / self.config.warmup)
            decay = (progress - self.config.warmup) / (1.0 - self.config.warmup)
            return (lr_final / lr_init) ** decay

        return LambdaLR(optimizer, lr_lambda=factor)
