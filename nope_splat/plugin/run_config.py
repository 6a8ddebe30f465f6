"""The `config.yml` that `ns-train --load-config` reads."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from nerfstudio.engine.trainer import TrainerConfig

from nope_splat.plugin.pipeline import NopePipelineConfig
from nope_splat.plugin.run_record import RECORD_FILE
from nope_splat.plugin.safe_config import read_config


class RunConfigFile(type(Path())):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass] (of the system)
    """Path of a `config.yml`, whose text is that of a configuration that was read without running code.

    In the folder of a run, the text is that of a command that resumes this run where it is now: its outputs
    may have been moved or copied since the file was written, and `output_dir` may be relative to another
    working directory.
    """

    data: Path | None = None
    """Photo folder to use instead of the one in the file."""

    def read_text(self, *args: object, **options: object) -> str:
        """Return the text of the configuration for this place.

        Args:
            args: Of `Path.read_text`; the encoding is always UTF-8.
            options: Likewise.

        Raises:
            NopeSplatError: If the file is missing or no configuration of a training.
        """
        del args, options
        path = Path(self)  # whose text is that of the file
        config = read_config(path)
        if self.data is not None:
            config.data = config.pipeline.datamanager.data = self.data
        if isinstance(config.pipeline, NopePipelineConfig) and os.path.isfile(path.with_name(RECORD_FILE)):
            relocate(config, path.absolute().parent)
            config.resume = "auto"  # pyright: ignore[reportAttributeAccessIssue] (of our trainer)
        return yaml.dump(config)


def relocate(config: TrainerConfig, run: Path) -> None:
    """Let a configuration name the present folder of its run.

    Args:
        config: Configuration of a training with our pipeline; changed in place.
        run: The run's folder, absolute.
    """
    if config.get_base_dir().absolute() == run:
        return
    dataparser = config.pipeline.datamanager.dataparser  # pyright: ignore[reportAttributeAccessIssue]
    default_cache = config.output_dir / str(config.experiment_name) / "cache"
    if len(run.parts) > 4 and run.parent.name == config.method_name:
        output_dir, experiment_name, _, timestamp = run.parents[2], *run.parts[-3:]
        config.output_dir, config.experiment_name, config.timestamp = output_dir, experiment_name, timestamp
        config.run_dir = None  # pyright: ignore[reportAttributeAccessIssue] (of our trainer)
        new_cache = output_dir / experiment_name / "cache"
    else:
        config.run_dir = run  # pyright: ignore[reportAttributeAccessIssue] (of our trainer)
        new_cache = default_cache if default_cache.is_dir() else run / "cache"
    if dataparser.cache_dir == default_cache:
        dataparser.cache_dir = new_cache
