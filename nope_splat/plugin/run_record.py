"""What identifies a training: its settings and photos, but no places and times.

The record is in the run's folder from the start, and its id in every checkpoint. So a training is recognized
after its outputs or photos were moved or copied, or the clock was set back; and a checkpoint that an older
training left in a folder is not taken for one of a newer training there.
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

NO_SETTINGS = frozenset(
    {
        # places, which may change
        "data",
        "experiment_name",
        "output_dir",
        "pipeline.datamanager.data",
        "pipeline.datamanager.dataparser.cache_dir",
        "pipeline.datamanager.dataparser.data",
        "project_name",
        "relative_model_dir",
        "run_dir",
        # how a run starts and is shown
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
"""Fields of the configuration that do not change the result of a training."""
FILES = "files "
"""Begins the value of a setting that is a path: files are compared by their content."""


@dataclass(frozen=True)
class RunRecord:
    """Settings and photos of a training."""

    settings: Mapping[str, str]
    """Settings by their path in the configuration, as text."""
    photos: Mapping[str, str]
    """Hash of each photo and its mask, by name; see `folder_hashes`."""
    number: int = 0
    """Position in the order in which the runs of an experiment were started or resumed."""

    @classmethod
    def of(cls, config: Any, data: Path) -> RunRecord:
        """Describe a training that is about to start.

        Args:
            config: Configuration of the training, after "auto" is resolved.
            data: Folder of the photos.
        """
        return cls(dict(flat_settings(config)), folder_hashes(data))

    @classmethod
    def read(cls, run: Path) -> RunRecord | None:
        """Read the record of a run.

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
        """Write the record into a run's folder.

        Args:
            run: The run's folder, locked by this process.

        Raises:
            OSError: If the file cannot be written; the one before is kept.
        """
        with replacing(run / RECORD_FILE, run / f"{RECORD_FILE}.partial") as file:
            file.write(json.dumps({"id": self.id, **asdict(self)}, indent=1).encode())

    def numbered(self, number: int) -> RunRecord:
        """Return the record with another position in the order of runs.

        Args:
            number: The position.
        """
        return replace(self, number=number)

    @property
    def id(self) -> str:
        """Hash of settings and photos, in hexadecimal digits."""
        return hashlib.sha256(json.dumps([self.settings, self.photos], sort_keys=True).encode()).hexdigest()

    @property
    def length(self) -> int:
        """Number of iterations; 0 if unknown."""
        text = self.settings.get("max_num_iterations", "")
        return int(text) if text.isdecimal() else 0

    def different_setting(self, other: RunRecord) -> str | None:
        """Describe the first setting that differs from that of another training.

        Args:
            other: The other training.

        Returns:
            The setting with both values; None if all settings are the same.
        """
        for name in sorted(self.settings.keys() | other.settings.keys()):
            value, other_value = self.settings.get(name), other.settings.get(name)
            if value == other_value:
                continue
            # `sfm` has no part in the names of options.
            option = name.replace("dataparser.sfm.", "dataparser.").replace("_", "-")
            if value is None or other_value is None:
                return f"{option} is set only {'here' if other_value is None else 'there'}"
            if value.startswith(FILES) and other_value.startswith(FILES):
                return f"the files of {option} are not the same"
            return f"{option} is {_short(other_value)} there and {_short(value)} here"
        return None

    def different_photo(self, other: RunRecord, held_out: Collection[str] = ()) -> str | None:
        """Describe the first photo that differs from those of another training.

        Args:
            other: The other training.
            held_out: Photos that it held out, whose content may change because nothing is trained on them.

        Returns:
            What happened to the photo; None if all photos are the same.
        """
        for name in sorted(self.photos.keys() | other.photos.keys()):
            photo, other_photo = self.photos.get(name), other.photos.get(name)
            if photo is None or other_photo is None:
                return f"the photo {name} was {'added' if other_photo is None else 'removed'}"
            if photo != other_photo and name not in held_out:
                return f"the photo {name} or its mask has changed"
        return None


def flat_settings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """List the settings of a configuration that determine the result of a training.

    Args:
        value: The configuration, or a part of it.
        name: Path of the part in the configuration, for example `pipeline.model`.

    Yields:
        Path and value of each setting. The value of a path is a hash of the files there.
    """
    if name in NO_SETTINGS:
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
        yield name, FILES + _path_hash(value)
    elif isinstance(value, type):
        yield name, value.__name__
    else:
        yield name, value.name if isinstance(value, Enum) else str(value)


def _path_hash(path: Path) -> str:
    """Hash the content of a file, or of all files in a folder with their names."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        try:
            with open_regular(file) as opened:
                digest.update(f"\n{file.relative_to(path)}\n".encode(errors="surrogateescape"))
                while block := opened.read(1 << 20):
                    digest.update(block)
        except OSError:  # a folder or missing; what needs the file reports it
            continue
    return digest.hexdigest()


def _short(text: str) -> str:
    """Shorten a value to 40 characters."""
    return text if len(text) <= 40 else f"{text[:37]}..."
