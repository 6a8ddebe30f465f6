"""The trainer: where things are written, how trainings are interrupted and go on, poses for evaluation."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import yaml
from filelock import Timeout
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import TRAIN_INTERATION_OUTPUT, Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.viewer.viewer import Viewer

from nope_splat.errors import NopeSplatError
from nope_splat.io.images import count_images
from nope_splat.plugin.checkpoints import (
    find_checkpoints,
    fitting,
    last_checkpoint,
    last_whole_checkpoint,
    load_checkpoint,
    require_same_names,
    step_of,
)
from nope_splat.plugin.checks import check_contradictions
from nope_splat.plugin.continuation import present_state, restore
from nope_splat.plugin.datamanager import require_folder
from nope_splat.plugin.device import choose_device, require_device
from nope_splat.plugin.learning_rates import fill_in_rates
from nope_splat.plugin.pipeline import NopePipeline, NopePipelineConfig
from nope_splat.plugin.resume import find_unfinished, own
from nope_splat.plugin.schedulers import DecayConfig
from nope_splat.plugin.summary import reconstruction_rows, table, training_rows
from nope_splat.plugin.viewer_shutdown import stop_viewer
from nope_splat.utils.device_defaults import Auto, ByDevice, Device, resolve_defaults, resolved
from nope_splat.utils.progress import CONSOLE
from nope_splat.utils.ranges import COUNT, NOT_NEGATIVE, check_ranges

logger = logging.getLogger(__name__)

ITERATIONS_PER_IMAGE = 100
"""A compromise for splats of a CPU's size: with half as many, details that many images show are missing,
and with more the Gaussians learn few images by heart."""
FEWEST_ITERATIONS, MOST_ITERATIONS = 500, 30_000
"""Limits of what follows from the number of images."""


@dataclass
class NopeMachineConfig(MachineConfig):
    """Configuration of the machine."""

    device_type: Device | Auto = "auto"  # pyright: ignore[reportIncompatibleVariableOverride] (a device from `set_timestamp` on)
    """Where to train; "auto" is a GPU where there is one that can rasterize. Many defaults depend on it."""


@dataclass
class NopeTrainerConfig(TrainerConfig):
    """Configuration of the training."""

    _target: type = field(default_factory=lambda: NopeTrainer)
    pipeline: NopePipelineConfig = field(default_factory=NopePipelineConfig)
    """Data and model."""
    machine: NopeMachineConfig = field(default_factory=NopeMachineConfig)
    """Where to train."""
    # `set_timestamp` chooses what is "auto".
    max_num_iterations: Annotated[int | Auto, COUNT] = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Length of the training, counted from its start also where it goes on from a checkpoint. "auto" is
    30 000 on a GPU; on a CPU 100 for each image in the folder, at least 500 and at most 30 000."""
    steps_per_save: Annotated[int | Auto, COUNT, ByDevice(cuda=2_000, cpu=500)] = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Iterations between checkpoints; "auto" is 2000 on a GPU and 500 on a CPU."""
    # An evaluation aligns the held-out images that it shows, in about a second each.
    steps_per_eval_image: Annotated[int | Auto, NOT_NEGATIVE, ByDevice(cuda=500, cpu=1_000)] = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Iterations between evaluations of one held-out image, if anything but the viewer shows them.
    "auto" is 500 on a GPU and 1000 on a CPU."""
    steps_per_eval_all_images: Annotated[int | Auto, NOT_NEGATIVE, ByDevice(cuda=10_000, cpu=0)] = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The same for all held-out images; "auto" is 10 000 on a GPU and never, 0, on a CPU."""
    resume: Literal["auto", "never"] = "auto"
    """Whether the last training of the same settings goes on in its folder, if it was interrupted, or a new
    one begins (which would come by the same states: trainings are seeded)."""

    def set_experiment_name(self) -> None:
        """Name the experiment after the folder of the scene, not `images` within it, and place the cache."""
        data = self.pipeline.datamanager.data
        if self.experiment_name is None and data is not None and data.resolve().name == "images":
            self.experiment_name = data.resolve().parent.name
        super().set_experiment_name()
        dataparser = self.pipeline.datamanager.dataparser
        if dataparser.cache_dir is None:
            dataparser.cache_dir = self.output_dir / str(self.experiment_name) / "cache"

    def set_timestamp(self) -> None:
        """Name the run's folder after the time, unless it has a name, or an interrupted run goes on.

        Device, defaults and length of the training are decided here: a run that goes on has the same.

        Raises:
            NopeSplatError: If a setting is out of range, or there is no folder of images.
        """
        self.fill_in()
        if self.max_num_iterations == "auto":
            self.max_num_iterations = self._length()
        folder = self.get_base_dir()
        runs = folder.parent.glob("*") if folder.name == "{timestamp}" else [folder]
        if self.resume == "auto":
            run = find_unfinished(runs, yaml.dump(self), resolved(self.max_num_iterations))
            if run is not None:
                self.timestamp, self.load_dir, self.load_step = run.name, run / self.relative_model_dir, None
        super().set_timestamp()

    def _length(self) -> int:
        """Number of iterations, if the user gives none."""
        data = self.pipeline.datamanager.data
        if self.machine.device_type == "cuda" or data is None:
            return MOST_ITERATIONS
        return min(max(ITERATIONS_PER_IMAGE * count_images(data), FEWEST_ITERATIONS), MOST_ITERATIONS)

    def fill_in(self) -> None:
        """Choose the device where the user has not, and the defaults that depend on it.

        Raises:
            NopeSplatError: If a GPU would be prepared, which may take minutes, for a training that
                cannot begin.
        """
        if self.machine.device_type == "auto":
            check_ranges(self)
            require_folder(self.pipeline.datamanager.data)
            self.machine.device_type = choose_device()
        device = self.machine.device_type
        resolve_defaults(self, device)
        fill_in_rates(self.optimizers, device)

    @property
    def goes_on(self) -> bool:
        """Whether the run is one that was interrupted, and not a new one."""
        return self.load_dir is not None and self.load_dir == self.get_checkpoint_dir()

    def save_config(self) -> None:
        """Save the configuration in the run's folder, unless the run is doomed or has done so.

        Raises:
            NopeSplatError: If a setting is out of range or contradicts another, there is no such device, no
                folder of images or no checkpoint to resume from, or the run's folder cannot be written.
        """
        check_ranges(self)
        check_contradictions(self, self.pipeline, self.goes_on)
        require_folder(self.pipeline.datamanager.data)
        require_device(self.machine.device_type)  # last: it may compile for minutes
        if self.goes_on:
            return
        if self.load_dir is not None:
            last_checkpoint(self.load_dir)
        try:
            super().save_config()
        except OSError as error:
            raise NopeSplatError(
                "unwritable-output",
                f"cannot write to {self.get_base_dir()} ({error.strerror}); choose another --output-dir",
            ) from error


class Interruption(KeyboardInterrupt):
    """By the user, between two iterations, where there is a state to go on from."""


class NopeTrainer(Trainer):
    """nerfstudio's trainer with schedules that follow the length of the training, and can be interrupted.

    Args:
        config: Configuration of the training.
        local_rank: Rank of this process on its machine.
        world_size: Number of processes.

    Raises:
        NopeSplatError: If another process trains in the run's folder.
    """

    config: NopeTrainerConfig
    pipeline: NopePipeline

    def __init__(self, config: NopeTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        super().__init__(config, local_rank, world_size)
        self._interrupted = False
        try:
            self._lock = own(self.base_dir) if local_rank == 0 else None
        except Timeout as error:
            raise NopeSplatError(
                "run-in-use",
                f"another process trains in {self.base_dir}; wait for it, or pass another --timestamp",
            ) from error

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
        self._continuation: dict[str, Any] | None = None
        super().setup(test_mode)
        if self._continuation is not None:
            with fitting():
                restore(self.pipeline, self._continuation)
        CONSOLE.print(
            table("Reconstruction", reconstruction_rows(self.pipeline.datamanager.dataparser.scene))
        )

    def _load_checkpoint(self) -> None:
        """Load the checkpoint that the training goes on from, if it does."""
        config, path = self.config, self.config.load_checkpoint
        if config.goes_on:
            path = last_whole_checkpoint(self.checkpoint_dir)
        elif config.load_dir is not None and config.load_step is not None:
            path = config.load_dir / f"step-{config.load_step:09d}.ckpt"
        elif config.load_dir is not None:
            path = last_checkpoint(config.load_dir)
        state = None if path is None else load_checkpoint(path)
        if config.goes_on:
            difference = "checkpoint" if state is None else self.pipeline.difference(state["pipeline"])
            if difference is not None:
                gone = f"{difference} {'are' if difference == 'images' else 'is'} gone"
                logger.warning(f"The training in {self.base_dir} begins anew, because its {gone}.")
                state = None
        if state is None:
            return
        with fitting():
            self._start_step = state["step"] + 1
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
            require_same_names(state["optimizers"], self.optimizers.optimizers)
            self.optimizers.load_optimizers(state["optimizers"])
            if config.load_scheduler:
                self.optimizers.load_schedulers(state["schedulers"])
            self.grad_scaler.load_state_dict(state["scalers"])
        self._continuation = state.get("continuation")  # once more is set up
        logger.info(
            f"Going on after {self._start_step} of {config.max_num_iterations} iterations, from {path}"
            + ("; --resume never begins a new training." if config.goes_on else ".")
        )

    def _init_viewer_state(self) -> None:
        super()._init_viewer_state()
        with self.train_lock:
            self.pipeline.viewer_control.show_cameras()

    def train_iteration(self, step: int) -> TRAIN_INTERATION_OUTPUT:
        """Run one iteration, and add a row to the history where one is due.

        Args:
            step: Iteration.

        Raises:
            Interruption: If the user wants to.
        """
        if self._interrupted:
            raise Interruption
        loss, losses, metrics = super().train_iteration(step)
        history = self.pipeline.history
        if history.due(step):
            metrics["reprojection_error_px"] = self.pipeline.model.reprojection_errors().mean()
            history.record(step, {**losses, **metrics})
        return loss, losses, metrics

    def train(self) -> None:
        """Train up to the length of the training, of which a loaded checkpoint may have done a part.

        Raises:
            NopeSplatError: If the checkpoint has all of it.
        """
        length, done = resolved(self.config.max_num_iterations), self._start_step
        if done >= length:
            raise NopeSplatError(
                "invalid-option",
                f"the checkpoint has {done} iterations already; pass more to --max-num-iterations to go on",
            )
        self.config.max_num_iterations = length - done  # nerfstudio's loop counts from the checkpoint on
        try:
            with self._interruptible():
                super().train()
        except KeyboardInterrupt as interruption:
            if self.training_state == "completed":  # only the viewer was left
                return
            if isinstance(interruption, Interruption) and self.step > done:
                self.save_checkpoint(self.step - 1)
            self._tell_how_to_go_on(length)
            raise SystemExit(130) from None  # as shells have it
        finally:
            self.config.max_num_iterations = length
            self._let_go()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let Ctrl-C wait for the end of the iteration at hand, which alone leaves a state to go on from."""

        def interrupt(number: int, frame: object) -> None:
            if self.training_state == "paused":
                raise Interruption
            if self.training_state == "completed" or self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            logger.info("Interrupted: the iteration at hand comes to its end first (again: at once).")

        before = signal.getsignal(signal.SIGINT)
        # Only the main thread gets signals. In the background of a script Ctrl-C is for others.
        if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
            yield
            return
        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _let_go(self) -> None:
        """Of what would outlive the training in a process that trains again."""
        for each in writer.EVENT_WRITERS:
            if isinstance(each, writer.TensorboardWriter):
                each.tb_writer.close()
        writer.EVENT_WRITERS.clear()  # they would also write down what the next training says
        if isinstance(self.viewer_state, Viewer):
            stop_viewer(self.viewer_state)
        if self._lock is not None:
            self._lock.release()

    def _tell_how_to_go_on(self, length: int) -> None:
        checkpoints = find_checkpoints(self.checkpoint_dir)
        if not checkpoints:
            logger.info("Interrupted before there was a checkpoint.")
            return
        config = shlex.quote(str(self.base_dir / "config.yml"))
        logger.info(
            f"Interrupted; saved after {step_of(checkpoints[0]) + 1} of {length} iterations. This goes on:\n"
            f"ns-train {self.config.method_name} --load-config {config}"
        )

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Save model and optimizers, such that the last whole checkpoint survives whatever happens meanwhile.

        Args:
            step: Iteration.

        Raises:
            NopeSplatError: If the file cannot be written; what was written of it is removed.
        """
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        partial = self.base_dir / "checkpoint.partial"  # nerfstudio takes every file beside `path` for whole
        state = {
            "step": step,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {name: each.state_dict() for name, each in self.optimizers.optimizers.items()},
            "schedulers": {name: each.state_dict() for name, each in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
            "continuation": present_state(self.pipeline),
        }
        try:
            self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(state, file)
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise NopeSplatError(
                "unwritable-output",
                f"cannot write the checkpoint to {self.checkpoint_dir} ({error.strerror or error});"
                " free space there and run the same command again, or choose another --output-dir",
            ) from error
        if self.config.save_only_latest_checkpoint:
            for other in self.checkpoint_dir.glob("*.ckpt"):
                if other != path:
                    other.unlink()

    def _after_train(self) -> None:
        with self.train_lock:
            self.pipeline.align_held_out(self.step)  # before the last checkpoint is saved
            CONSOLE.print(table("Training", training_rows(self.pipeline.model, self.pipeline.datamanager)))
            self.pipeline.viewer_control.update(self.step)
        super()._after_train()
