"""The trainer: where things are written, how long schedules are, and the evaluation poses at the end."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import TRAIN_INTERATION_OUTPUT, Trainer, TrainerConfig
from nerfstudio.utils.decorators import check_main_thread

from nope_splat.checkpoints import last_checkpoint
from nope_splat.datamanager import require_folder
from nope_splat.device import require_device
from nope_splat.errors import UserError
from nope_splat.pipeline import NopePipeline, NopePipelineConfig
from nope_splat.progress import CONSOLE
from nope_splat.ranges import COUNT, check_ranges
from nope_splat.schedulers import DecayConfig
from nope_splat.summary import reconstruction_rows, table, training_rows


@dataclass
class NopeTrainerConfig(TrainerConfig):
    """Configuration of the training."""

    _target: type = field(default_factory=lambda: NopeTrainer)
    pipeline: NopePipelineConfig = field(default_factory=NopePipelineConfig)
    """Data and model."""
    max_num_iterations: Annotated[int, COUNT] = 30_000
    """Length of the training, counted from its start also where it goes on from a checkpoint."""

    def set_experiment_name(self) -> None:
        """Name the experiment after the folder of the scene, not `images` within it, and place the cache."""
        data = self.pipeline.datamanager.data
        if self.experiment_name is None and data is not None and data.resolve().name == "images":
            self.experiment_name = data.resolve().parent.name
        super().set_experiment_name()
        dataparser = self.pipeline.datamanager.dataparser
        if dataparser.cache_dir is None:
            dataparser.cache_dir = self.output_dir / str(self.experiment_name) / "cache"

    def save_config(self) -> None:
        """Save the configuration in the run's folder, unless the run is doomed.

        Raises:
            UserError: If a setting is out of range, there is no such device, no folder of photographs or no
                checkpoint to go on from, or the run's folder cannot be written.
        """
        check_ranges(self)
        require_device(self.machine.device_type)
        require_folder(self.pipeline.datamanager.data)
        if self.load_dir is not None:
            last_checkpoint(self.load_dir)
        try:
            super().save_config()
        except OSError as error:
            raise UserError(
                f"cannot write to {self.get_base_dir()} ({error.strerror}); choose another --output-dir"
            ) from error


class NopeTrainer(Trainer):
    """nerfstudio's trainer with schedules that follow the length of the training.

    Args:
        config: Configuration of the training.
        local_rank: Rank of this process on its machine.
        world_size: Number of processes.
    """

    config: NopeTrainerConfig
    pipeline: NopePipeline

    def setup_optimizers(self) -> Optimizers:
        """Tell the schedules how long the training is, and set up the optimizers."""
        for group in self.config.optimizers.values():
            if isinstance(group["scheduler"], DecayConfig):
                group["scheduler"].num_iterations = self.config.max_num_iterations
        return super().setup_optimizers()

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Set everything up, and tell what the training starts from.

        Args:
            test_mode: See nerfstudio's trainer.
        """
        super().setup(test_mode)
        CONSOLE.print(
            table("Reconstruction", reconstruction_rows(self.pipeline.datamanager.dataparser.scene))
        )

    def train_iteration(self, step: int) -> TRAIN_INTERATION_OUTPUT:
        """Run one iteration, and add a row to the history where one is due.

        Args:
            step: Iteration.
        """
        loss, losses, metrics = super().train_iteration(step)
        history = self.pipeline.history
        if history.due(step):
            metrics["reprojection_error_px"] = self.pipeline.model.reprojection_errors().mean()
            history.record(step, {**losses, **metrics})
        return loss, losses, metrics

    def train(self) -> None:
        """Train up to the length of the training, of which a loaded checkpoint may have done a part.

        Raises:
            UserError: If the checkpoint has all of it.
        """
        length, done = self.config.max_num_iterations, self._start_step
        if done >= length:
            raise UserError(
                f"the checkpoint has {done} iterations already; pass more to --max-num-iterations to go on"
            )
        self.config.max_num_iterations = length - done  # nerfstudio's loop counts from the checkpoint on
        super().train()

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Save model and optimizers, such that the last whole checkpoint survives whatever happens meanwhile.

        Args:
            step: Iteration.

        Raises:
            UserError: If the file cannot be written; what was written of it is removed.
        """
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        partial = self.base_dir / "checkpoint.partial"  # nerfstudio takes every file beside `path` for whole
        state = {
            "step": step,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {name: each.state_dict() for name, each in self.optimizers.optimizers.items()},
            "schedulers": {name: each.state_dict() for name, each in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
        }
        try:
            self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
            torch.save(state, partial)
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError when the disk is full
            partial.unlink(missing_ok=True)
            raise UserError(
                f"cannot write the checkpoint to {self.checkpoint_dir} ({error});"
                " free space there or choose another --output-dir"
            ) from error
        if self.config.save_only_latest_checkpoint:
            for other in self.checkpoint_dir.glob("*.ckpt"):
                if other != path:
                    other.unlink()

    def _after_train(self) -> None:
        with self.train_lock:
            self.pipeline.align_held_out(self.step)  # before the last checkpoint is saved
            CONSOLE.print(table("Training", training_rows(self.pipeline)))
            self.pipeline.viewer_control.update(self.step)
        super()._after_train()
