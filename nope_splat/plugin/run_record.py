"""Records that identify a training run by its settings and photos, independently of folders and dates.

The record is written to the run's folder before training starts, and the ID of the record is saved in every
checkpoint. A training run is therefore recognized after its outputs or photos were moved or copied, and a
checkpoint of an older training run in the same folder is detected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from nope_splat.io.fingerprint import folder_hashes
from nope_splat.utils.files import open_regular, replacing

RECORD_FILE = "training.json"
"""Name of the file with the `RunRecord` in a run's folder."""

UNRECORDED_SETTINGS = frozenset(
    {
        # folders and names, which may change
        "data",
        "experiment_name",
        "output_dir",
        "pipeline.datamanager.data",
        "pipeline.datamanager.dataparser.cache_dir",
        "pipeline.datamanager.dataparser.data",
        "project_name",
        "relative_model_dir",
        "run_dir",
        # start of a run, and its display
        "load_config",
        "logging",
        "prompt",
        "resume",
        "start_paused",
        "timestamp",
        "viewer",
        "vis",
    }
)
"""Fields of the configuration that do not affect the result of a training run and are therefore not
recorded."""
FILES_PREFIX = "files "
"""Prefix of the recorded value of a setting that is a path. The prefix is followed by a hash of the content,
since files are compared by content."""


@dataclass(frozen=True)
class RunRecord:
    """Settings and photos that identify a training run."""

    settings: Mapping[str, str]
    """Values of the settings as text, by path in the configuration, such as `pipeline.model.sh_degree`."""
    photos: Mapping[str, str]
    """Hash of each photo and its mask, by photo name (see `folder_hashes`)."""
    number: int = 0
    """Number of the latest start or resumption of this run, counted over all runs of the experiment. The run
    that was started or resumed last has the largest number."""

    @classmethod
    def from_config(cls, config: Any, data: Path) -> RunRecord:
        """Create the record of a training run that is about to start.

        Args:
            config: Configuration of the training run, in which "auto" has been replaced.
            data: Folder of the photos.
        """
        return cls(dict(flat_settings(config)), folder_hashes(data))

    @classmethod
    def read(cls, run: Path) -> RunRecord | None:
        """Read the record in a run's folder.

        Args:
            run: The run's folder.

        Returns:
            The record; None if it is missing or damaged.
        """
        try:
            with open_regular(run / RECORD_FILE) as file:
                values = json.load(file)
            texts = [*values["settings"].values(), *values["photos"].values()]
            if not all(isinstance(text, str) for text in texts):
                return None
            return cls(values["settings"], values["photos"], int(values["number"]))
        except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError):
            return None

    def write(self, run: Path) -> None:
        """Write the record to a run's folder.

        Args:
            run: The run's folder, locked by this process.

        Raises:
            OSError: If the file cannot be written; in this case an earlier record is kept.
        """
        with replacing(run / RECORD_FILE, run / f"{RECORD_FILE}.partial") as file:
            file.write(json.dumps({"id": self.id, **asdict(self)}, indent=1).encode())

    def with_number(self, number: int) -> RunRecord:
        """Return a copy of the record with another `number`.

        Args:
            number: Number of the new start or resumption in the experiment.
        """
        return replace(self, number=number)

    @property
    def id(self) -> str:
        """SHA-256 hash of settings and photos in hexadecimal digits, which identifies the training run."""
        return hashlib.sha256(json.dumps([self.settings, self.photos], sort_keys=True).encode()).hexdigest()

    @property
    def max_num_iterations(self) -> int:
        """Total number of iterations of the training run; 0 if unknown."""
        text = self.settings.get("max_num_iterations", "")
        return int(text) if text.isdecimal() else 0

    def different_setting(self, other: RunRecord) -> str | None:
        """Describe the alphabetically first setting that differs between this and an earlier training run.

        Args:
            other: Record of the earlier training run.

        Returns:
            Sentence without period, such as "pipeline.model.sh-degree was 3 in the earlier run and is 2 now";
            None if all settings are the same.
        """
        for name in sorted(self.settings.keys() | other.settings.keys()):
            value, other_value = self.settings.get(name), other.settings.get(name)
            if value == other_value:
                continue
            # The names of command line options omit `sfm` and `frames`.
            option = name.replace("dataparser.sfm.", "dataparser.").replace(".frames.", ".").replace("_", "-")
            if value is None or other_value is None:
                only = "this run" if other_value is None else "the earlier run"
                return f"{option} is set only in {only}"
            if value.startswith(FILES_PREFIX) and other_value.startswith(FILES_PREFIX):
                return f"the files of {option} are not the same"
            return f"{option} was {_short(other_value)} in the earlier run and is {_short(value)} now"
        return None

    def different_photo(self, other: RunRecord, held_out: Collection[str] = ()) -> str | None:
        """Describe a photo that was added, removed or changed since an earlier training run.

        If there are several, the alphabetically first is described.

        Args:
            other: Record of the earlier training run.
            held_out: Names of the photos that were held out in the earlier run. Changes of their content are
                ignored, because the model is not trained on held-out photos.

        Returns:
            Sentence without period; None if all photos are the same.
        """
        for name in sorted(self.photos.keys() | other.photos.keys()):
            photo, other_photo = self.photos.get(name), other.photos.get(name)
            if photo is None or other_photo is None:
                return f"the photo {name} was {'added' if other_photo is None else 'removed'}"
            if photo != other_photo and name not in held_out:
                return f"the photo {name} or its mask has changed"
        return None


def flat_settings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """List the settings in a configuration that affect the result of a training run.

    Args:
        value: The configuration, or a part of the configuration.
        name: Path of this part in the configuration, for example `pipeline.model`; empty for the whole.

    Yields:
        For each setting, its path in the configuration, such as `pipeline.model.sh_degree`, and its value as
        text. If the value is the path of a file or folder, the text is `FILES_PREFIX` and a hash of the
        content.
    """
    if name in UNRECORDED_SETTINGS:
        return
    prefix = f"{name}." if name else ""
    if is_dataclass(value) and not isinstance(value, type):
        yield f"{prefix}type", type(value).__name__
        for field in fields(value):
            yield from flat_settings(getattr(value, field.name), prefix + field.name)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from flat_settings(part, f"{prefix}{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from flat_settings(part, f"{prefix}{index}")
    elif isinstance(value, Path):
        yield name, FILES_PREFIX + _path_hash(value)
    elif isinstance(value, type):
        yield name, value.__name__
    else:
        yield name, value.name if isinstance(value, Enum) else str(value)


def _path_hash(path: Path) -> str:
    """Compute a SHA-256 hash of a file's content, or of the paths and contents of all files in a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        try:
            with open_regular(file) as opened:
                digest.update(f"\n{file.relative_to(path)}\n".encode(errors="surrogateescape"))
                while block := opened.read(1 << 20):
                    digest.update(block)
        except OSError:  # a folder, or a missing file, which is reported where it is used
            continue
    return digest.hexdigest()


def _short(text: str) -> str:
    """Shorten a text to at most 40 characters."""
    return text if len(text) <= 40 else f"{text[:37]}..."
