"""Read the `config.yml` of a run for `ns-train --load-config`, which resumes the run."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from nerfstudio.engine.trainer import TrainerConfig

from nope_splat.plugin.pipeline import NopePipelineConfig
from nope_splat.plugin.run_record import RECORD_FILE
from nope_splat.plugin.safe_config import read_config


class RunConfigFile(type(Path())):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass] (the path class of the operating system)
    """Path of a `config.yml` whose method `read_text` returns YAML text that nerfstudio can load safely.

    nerfstudio would execute code in the file. `read_text` therefore reads the configuration with
    `read_config`, and converts the result to YAML again. If the file is in the folder of a run, the
    configuration is changed to resume this run in its current folder, because the folder may have been moved
    since the file was written.
    """

    data: Path | None = None
    """Photo folder that replaces the photo folder in the file; None to keep the folder in the file."""

    def read_text(self, *args: object, **options: object) -> str:
        """Return the configuration as YAML text, with the file's current folder as the run's folder.

        Args:
            args: Arguments of `Path.read_text`, which are ignored; the encoding is always UTF-8.
            options: Keyword arguments of `Path.read_text`, which are ignored.

        Raises:
            NopeSplatError: If the file is missing or is not a training configuration.
        """
        del args, options
        path = Path(self)  # a plain path, whose `read_text` returns the content of the file
        config = read_config(path)
        if self.data is not None:
            config.data = config.pipeline.datamanager.data = self.data
        if isinstance(config.pipeline, NopePipelineConfig) and os.path.isfile(path.with_name(RECORD_FILE)):
            relocate(config, path.absolute().parent)
            config.resume = "auto"  # pyright: ignore[reportAttributeAccessIssue] (a field of NopeTrainerConfig)
        return yaml.dump(config)


def relocate(config: TrainerConfig, run: Path) -> None:
    """Change the output and cache folders in a configuration to match the current folder of its run.

    Args:
        config: Configuration of a nope-splat training run; changed in place.
        run: Current folder of the run, an absolute path.
    """
    if config.get_base_dir().absolute() == run:
        return
    dataparser = config.pipeline.datamanager.dataparser  # pyright: ignore[reportAttributeAccessIssue]
    default_cache = config.output_dir / str(config.experiment_name) / "cache"
    if len(run.parts) > 4 and run.parent.name == config.method_name:
        output_dir, experiment_name, _, timestamp = run.parents[2], *run.parts[-3:]
        config.output_dir, config.experiment_name, config.timestamp = output_dir, experiment_name, timestamp
        config.run_dir = None  # pyright: ignore[reportAttributeAccessIssue] (a field of NopeTrainerConfig)
        new_cache = output_dir / experiment_name / "cache"
    else:
        config.run_dir = run  # pyright: ignore[reportAttributeAccessIssue] (a field of NopeTrainerConfig)
        new_cache = default_cache if default_cache.is_dir() else run / "cache"
    if dataparser.cache_dir == default_cache:
        dataparser.cache_dir = new_cache
