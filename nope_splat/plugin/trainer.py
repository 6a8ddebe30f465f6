"""The trainer: output folders, interruption and resumption of training runs, and checkpoints."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import TRAIN_INTERATION_OUTPUT, Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.viewer.viewer import Viewer

from nope_splat.errors import NopeSplatError
from nope_splat.io.images import count_images
from nope_splat.plugin.checkpoints import (
    checkpoint_step,
    find_checkpoints,
    last_checkpoint,
    last_intact_checkpoint,
    load_checkpoint,
    missing_run_error,
    report_mismatch,
    require_same_names,
    write_checkpoint,
    writing_to_run,
)
from nope_splat.plugin.checks import check_contradictions
from nope_splat.plugin.datamanager import require_data
from nope_splat.plugin.device import choose_device, require_device
from nope_splat.plugin.interruption import DeferredInterruption, Interruption
from nope_splat.plugin.learning_rates import resolve_rates
from nope_splat.plugin.pipeline import NopePipeline, NopePipelineConfig
from nope_splat.plugin.resume import choose_run, start_run, take_lock
from nope_splat.plugin.run_config import RunConfigFile
from nope_splat.plugin.run_record import RunRecord
from nope_splat.plugin.schedulers import DecayConfig
from nope_splat.plugin.summary import reconstruction_rows, table, training_rows
from nope_splat.plugin.training_state import capture_state, restore_state
from nope_splat.plugin.viewer_shutdown import stop_viewer
from nope_splat.utils.device_defaults import Auto, ByDevice, Device, resolve_defaults, resolved
from nope_splat.utils.progress import CONSOLE
from nope_splat.utils.ranges import COUNT, NOT_NEGATIVE, check_ranges

logger = logging.getLogger(__name__)

ITERATIONS_PER_IMAGE = 100
"""Default number of iterations per image on a CPU. With half as many iterations, large image sets lose
details; with more iterations, small image sets are overfitted."""
MIN_ITERATIONS, MAX_ITERATIONS = 500, 30_000
"""Limits of the number of iterations if `max_num_iterations` is "auto"; on a GPU, always the upper limit."""


@dataclass
class NopeMachineConfig(MachineConfig):
    """Options of the machine, such as training device and random seed."""

    device_type: Device | Auto = "auto"  # pyright: ignore[reportIncompatibleVariableOverride] (a device from `set_timestamp` on)
    """Training device; "auto" selects the GPU if gsplat has kernels for the GPU, else the CPU. The "auto"
    values of other options depend on this device."""


@dataclass
class NopeTrainerConfig(TrainerConfig):
    """Configuration of a training run."""

    _target: type = field(default_factory=lambda: NopeTrainer)
    pipeline: NopePipelineConfig = field(default_factory=NopePipelineConfig)
    """Options of data and model."""
    machine: NopeMachineConfig = field(default_factory=NopeMachineConfig)
    """Options of the training device."""
    # `set_timestamp` replaces "auto".
    max_num_iterations: Annotated[int | Auto, COUNT] = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Total number of iterations, including those already completed in a loaded checkpoint. "auto" is 30 000
    on a GPU; on a CPU it is 100 per image in the folder, at least 500 and at most 30 000."""
    steps_per_save: Annotated[int | Auto, COUNT, ByDevice(cuda=2_000, cpu=500)] = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Number of iterations between two checkpoints; "auto" is 2000 on a GPU and 500 on a CPU."""
    # Each evaluation first aligns the poses of held-out images, which takes about a second per image.
    steps_per_eval_image: Annotated[int | Auto, NOT_NEGATIVE, ByDevice(cuda=500, cpu=1_000)] = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Number of iterations between two evaluations on one held-out image; 0 disables these evaluations. They
    run only if a logger other than the viewer is enabled. "auto" is 500 on a GPU and 1000 on a CPU."""
    steps_per_eval_all_images: Annotated[int | Auto, NOT_NEGATIVE, ByDevice(cuda=10_000, cpu=0)] = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Number of iterations between two evaluations on all held-out images; 0 disables these evaluations.
    "auto" is 10 000 on a GPU and 0 on a CPU."""
    resume: Literal["auto", "never"] = "auto"
    """Whether to resume an interrupted training run. "auto" resumes the last run with the same settings and
    photos if this run is unfinished; "never" always starts a new run."""
    run_dir: tyro.conf.Suppress[Path | None] = None
    """Current folder of a run that was moved; None for the folder given by output_dir, experiment_name,
    method_name and timestamp."""

    def __post_init__(self) -> None:
        """Convert the path `load_config`, so that nerfstudio reads this file safely and resumes its run."""
        if self.load_config is not None:
            self.load_config = RunConfigFile(self.load_config)
            self.load_config.data = self.data

    def get_base_dir(self) -> Path:
        """Return the folder of the run."""
        folder = super().get_base_dir()  # also sets the name of the experiment
        return self.run_dir or folder

    def set_experiment_name(self) -> None:
        """Set the experiment name and the cache folder, if they are not set.

        The experiment is named after the photo folder or video (option `data`), or after the parent folder if
        the photo folder is named "images". The cache folder is `cache` in the folder of the experiment.
        """
        data = self.pipeline.datamanager.data
        if self.experiment_name is None and data is not None and data.resolve().name == "images":
            self.experiment_name = data.resolve().parent.name
        elif self.experiment_name is None and data is not None and data.is_file():
            self.experiment_name = data.stem  # nerfstudio would take the name of the folder
        super().set_experiment_name()
        dataparser = self.pipeline.datamanager.dataparser
        if dataparser.cache_dir is None:
            dataparser.cache_dir = self.output_dir / str(self.experiment_name) / "cache"

    def set_timestamp(self) -> None:
        """Choose the run to resume, if any, and set `timestamp`, which names the run's folder.

        For a new run, a `timestamp` set by the user is kept; the default is the current time. "auto" values
        are replaced first, because a run is resumed only if its settings are the same.

        Raises:
            NopeSplatError: If a setting is out of range, or the image folder is missing.
        """
        self.resolve_auto()
        if self.max_num_iterations == "auto":
            self.max_num_iterations = self._auto_num_iterations()
        run = choose_run(self, self.resume)
        if run is not None:
            self.timestamp = run.path.name
            if run.checkpoints:
                self.load_dir, self.load_step = run.path / self.relative_model_dir, None
        super().set_timestamp()

    def _auto_num_iterations(self) -> int:
        """Return the number of iterations for the value "auto" of `max_num_iterations`."""
        data = self.pipeline.datamanager.data
        if self.machine.device_type == "cuda" or data is None:
            return MAX_ITERATIONS
        num_images = count_images(data, self.pipeline.datamanager.dataparser.sfm.frames)
        return min(max(ITERATIONS_PER_IMAGE * num_images, MIN_ITERATIONS), MAX_ITERATIONS)

    def resolve_auto(self) -> None:
        """Replace the value "auto" of all options except `max_num_iterations`.

        The training device is chosen first, because the other values depend on it. Before an automatic
        choice, ranges and image folder are checked, because the choice may compile kernels for minutes.

        Raises:
            NopeSplatError: If one of these checks fails.
        """
        if self.machine.device_type == "auto":
            check_ranges(self)
            require_data(self.pipeline.datamanager.data)
            self.machine.device_type = choose_device()
        device = self.machine.device_type
        resolve_defaults(self, device)
        resolve_rates(self.optimizers, device)

    @property
    def resumes(self) -> bool:
        """Whether this training run resumes an interrupted training run in the same folder."""
        return self.load_dir is not None and self.load_dir == self.get_checkpoint_dir()

    def save_config(self) -> None:
        """Check the configuration, lock the run's folder, and write the record and configuration of the run.

        Raises:
            NopeSplatError: If a setting is out of range or contradicts another setting, if the device, the
                image folder or the checkpoint is missing, if another process is training in the run's folder,
                or if the folder cannot be written.
        """
        check_ranges(self)
        check_contradictions(self, self.pipeline, self.resumes)
        require_data(self.pipeline.datamanager.data)
        require_device(self.machine.device_type)  # last, because compiling kernels may take minutes
        if self.load_dir is not None and not self.resumes:
            last_checkpoint(self.load_dir)
        try:
            start_run(self, self.resumes)
        except OSError as error:
            raise NopeSplatError(
                "unwritable-output",
                f"cannot write to {self.get_base_dir()} ({error.strerror}); choose another --output-dir",
            ) from error


class NopeTrainer(Trainer):
    """nerfstudio's trainer with resumable training runs.

    Learning rate schedules scale with the number of iterations.

    Args:
        config: Configuration of the training run.
        local_rank: Rank of this process among the processes on its machine.
        world_size: Number of processes.

    Raises:
        NopeSplatError: If another process is training in the run's folder.
    """

    config: NopeTrainerConfig
    pipeline: NopePipeline
    _training_id: str = ""
    _interruption = DeferredInterruption()

    def __init__(self, config: NopeTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        super().__init__(config, local_rank, world_size)
        self._interruption = DeferredInterruption()
        self._lock = take_lock(self.base_dir) if local_rank == 0 else None
        record = RunRecord.read(self.base_dir)
        self._training_id = record.id if record else ""

    def setup_optimizers(self) -> Optimizers:
        """Set the total number of iterations in the learning rate schedules, and create the optimizers."""
        for group in self.config.optimizers.values():
            if isinstance(group["scheduler"], DecayConfig):
                group["scheduler"].num_iterations = self.config.max_num_iterations
        return super().setup_optimizers()

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Set up the training run, and print a summary of the reconstruction.

        Args:
            test_mode: Mode of nerfstudio's trainer; "val" for training.
        """
        self._saved_state: dict[str, Any] | None = None
        try:
            with writing_to_run(self.base_dir):
                super().setup(test_mode)
        except BaseException:
            self._release()
            raise
        if self._saved_state is not None:
            with report_mismatch():
                restore_state(self.pipeline, self._saved_state)
        scene = self.pipeline.datamanager.dataparser.scene
        CONSOLE.print(table("Reconstruction", reconstruction_rows(scene)))

    def _load_checkpoint(self) -> None:
        """Load the checkpoint from which the training run continues, if there is one."""
        config, path = self.config, self.config.load_checkpoint
        if config.resumes:
            path = last_intact_checkpoint(self.checkpoint_dir)
        elif config.load_dir is not None and config.load_step is not None:
            path = config.load_dir / f"step-{config.load_step:09d}.ckpt"
        elif config.load_dir is not None:
            path = last_checkpoint(config.load_dir)
        state = None if path is None else load_checkpoint(path)
        if config.resumes:
            reason = self._reason_to_restart(state)
            if reason is not None:
                logger.warning(f"Restarting the training run in {self.base_dir} because {reason}.")
                state = None
        if state is None:
            return
        with report_mismatch():
            self._start_step = state["step"] + 1
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
            require_same_names(state["optimizers"], self.optimizers.optimizers)
            self.optimizers.load_optimizers(state["optimizers"])
            if config.load_scheduler:
                self.optimizers.load_schedulers(state["schedulers"])
            self.grad_scaler.load_state_dict(state["scalers"])
        self._saved_state = state.get("continuation")  # `setup` restores it once callbacks exist
        logger.info(
            f"Resuming after {self._start_step} of {config.max_num_iterations} iterations, from {path}"
            + ("; to start a new training run, pass --resume never." if config.resumes else ".")
        )

    def _reason_to_restart(self, state: dict[str, Any] | None) -> str | None:
        """Return the reason why training cannot continue from a loaded checkpoint; None if it can."""
        if state is None:
            return "no checkpoint is intact"
        if state.get("training_id") != self._training_id:
            return "its checkpoint belongs to another training run"
        difference = self.pipeline.data_difference(state["pipeline"])
        return None if difference is None else f"the {difference} changed"

    def _init_viewer_state(self) -> None:
        """Set up nerfstudio's viewer, and draw all cameras in it."""
        super()._init_viewer_state()
        with self.train_lock:
            self.pipeline.viewer_control.show_cameras()

    def train_iteration(self, step: int) -> TRAIN_INTERATION_OUTPUT:
        """Run one iteration, and record losses and metrics in the training history at intervals.

        Args:
            step: Iteration.

        Raises:
            Interruption: If the user has pressed Ctrl-C.
        """
        if self._interruption.is_requested:
            raise Interruption
        loss, losses, metrics = super().train_iteration(step)
        history = self.pipeline.history
        if history.due(step):
            metrics["reprojection_error_px"] = self.pipeline.model.reprojection_errors().mean()
            history.record(step, {**losses, **metrics})
        return loss, losses, metrics

    def train(self) -> None:
        """Train until the total number of iterations is reached, including those of a loaded checkpoint.

        Raises:
            NopeSplatError: If the checkpoint already contains all iterations.
            SystemExit: With status 130, if training is interrupted by Ctrl-C.
        """
        num_iterations, done = resolved(self.config.max_num_iterations), self._start_step
        if done >= num_iterations:
            raise NopeSplatError(
                "invalid-option",
                f"the checkpoint already has {done} iterations; increase --max-num-iterations to continue",
            )
        self.config.max_num_iterations = num_iterations - done  # nerfstudio's loop counts from the checkpoint
        try:
            with self._interruption.deferred(lambda: self.training_state), writing_to_run(self.base_dir):
                super().train()
        except KeyboardInterrupt as interruption:
            if self.training_state == "completed":  # only the viewer was still running
                return
            if isinstance(interruption, Interruption) and self.step > done:
                self.save_checkpoint(self.step - 1)
            self._log_resume_command(num_iterations)
            raise SystemExit(130) from None  # exit status of shells for SIGINT
        finally:
            self.config.max_num_iterations = num_iterations
            self._release()

    def _release(self) -> None:
        """Release log writers, viewer and folder lock, so that this process can run another training run."""
        for event_writer in writer.EVENT_WRITERS:
            if isinstance(event_writer, writer.TensorboardWriter):
                # Closing fails again if training ended because of a full disk.
                with suppress(NopeSplatError), writing_to_run(self.base_dir):
                    event_writer.tb_writer.close()
        writer.EVENT_WRITERS.clear()  # they would also log the next training
        if isinstance(self.viewer_state, Viewer):
            stop_viewer(self.viewer_state)
        if self._lock is not None:
            self._lock.release()

    def _log_resume_command(self, num_iterations: int) -> None:
        """Log the command that resumes this training run, which has `num_iterations` iterations in total."""
        checkpoints = find_checkpoints(self.checkpoint_dir)
        if not checkpoints:
            logger.info("Interrupted before the first checkpoint was saved.")
            return
        config = shlex.quote(str(self.base_dir / "config.yml"))
        logger.info(
            f"Interrupted; saved a checkpoint after {checkpoint_step(checkpoints[0]) + 1} of {num_iterations}"
            f" iterations. To resume:\nns-train {self.config.method_name} --load-config {config}"
        )

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Save a checkpoint of the training run atomically.

        If an error occurs, earlier checkpoints remain intact.

        Args:
            step: Current iteration.

        Raises:
            NopeSplatError: If `config.yml` is missing or the file cannot be written; no partial file remains.
        """
        if self._training_id and not (self.base_dir / "config.yml").is_file():
            raise missing_run_error(self.base_dir)  # checkpoints are useless without it
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        state = {
            "step": step,
            "training_id": self._training_id,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": _state_dicts(self.optimizers.optimizers),
            "schedulers": _state_dicts(self.optimizers.schedulers),
            "scalers": self.grad_scaler.state_dict(),
            "continuation": capture_state(self.pipeline),
        }
        write_checkpoint(state, path, self.base_dir)
        if self.config.save_only_latest_checkpoint:
            for checkpoint in self.checkpoint_dir.glob("*.ckpt"):
                if checkpoint != path:
                    checkpoint.unlink()

    def _after_train(self) -> None:
        """Align the held-out poses to the final model, print a summary, and save the final checkpoint."""
        with self.train_lock:
            self.pipeline.align_held_out(self.step)  # for the last checkpoint
            CONSOLE.print(table("Training", training_rows(self.pipeline.model, self.pipeline.datamanager)))
            self.pipeline.viewer_control.update(self.step)
        super()._after_train()


def _state_dicts(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of each optimizer or scheduler in `parts`, by its name."""
    return {name: part.state_dict() for name, part in parts.items()}
