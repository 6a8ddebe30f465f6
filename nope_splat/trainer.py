"""The trainer: where things are written, how long schedules are, and the evaluation poses at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig

from nope_splat.datamanager import require_folder
from nope_splat.errors import UserError
from nope_splat.pipeline import NopePipeline, NopePipelineConfig
from nope_splat.schedulers import DecayConfig


@dataclass
class NopeTrainerConfig(TrainerConfig):
    """Configuration of the training."""

    _target: type = field(default_factory=lambda: NopeTrainer)
    pipeline: NopePipelineConfig = field(default_factory=NopePipelineConfig)
    """Data and model."""

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
            UserError: If there is no folder of photographs, or the run's folder cannot be written.
        """
        require_folder(self.pipeline.datamanager.data)
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

    def save_checkpoint(self, step: int) -> None:
        """Save model and optimizers.

        Args:
            step: Iteration.

        Raises:
            UserError: If the file cannot be written; what was written of it is removed.
        """
        try:
            super().save_checkpoint(step)
        except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError when the disk is full
            (self.checkpoint_dir / f"step-{step:09d}.ckpt").unlink(missing_ok=True)
            raise UserError(
                f"cannot write the checkpoint to {self.checkpoint_dir} ({error});"
                " free space there or choose another --output-dir"
            ) from error

    def _after_train(self) -> None:
        with self.train_lock:
            self.pipeline.align_held_out(self.step)  # before the last checkpoint is saved
        super()._after_train()
