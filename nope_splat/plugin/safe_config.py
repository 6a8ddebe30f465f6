"""Read the `config.yml` of a training without executing code from it.

nerfstudio's commands use a YAML loader that calls any function named in the file. This loader constructs only
the types that configurations consist of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, NoReturn

import yaml
from nerfstudio.engine.trainer import TrainerConfig

from nope_splat.errors import NopeSplatError
from nope_splat.utils.ranges import check_ranges

PACKAGES = frozenset({"nope_splat", "nerfstudio", "torch", "pathlib"})
"""Packages whose classes may appear in a configuration."""
VERSION_0_1_TAG = "!!python/object:nope_splat.trainer.NopeTrainerConfig"
"""First tag of configurations written by version 0.1, whose classes were in other modules."""


class ConfigLoader(yaml.UnsafeLoader):
    """YAML loader restricted to dataclasses, paths, enumerations and class references of a few packages."""

    def find_python_name(self, name: str, mark: Any) -> type:
        """Return the class with a name; refuse everything else."""
        if name.partition(".")[0] not in PACKAGES:
            _refuse(name, mark)
        target = super().find_python_name(name, mark)
        return target if isinstance(target, type) else _refuse(name, mark)

    def find_python_module(self, name: str, mark: Any) -> NoReturn:
        """Refuse modules."""
        _refuse(name, mark)

    def make_python_instance(
        self,
        suffix: str,
        node: yaml.Node,
        args: Sequence[Any] | None = None,
        kwds: Mapping[str, Any] | None = None,
        newobj: bool = False,
    ) -> Any:
        """Construct the object of a Python tag: dataclasses without `__init__`, paths and enums by value."""
        if suffix == "builtins.getattr":
            return self._member(node, *(args or ()))
        cls = self.find_python_name(suffix, node.start_mark)
        if not (is_dataclass(cls) if newobj else issubclass(cls, PurePath | Enum)):
            _refuse(suffix, node.start_mark)
        return super().make_python_instance(suffix, node, args, kwds, newobj)

    def _member(self, node: yaml.Node, *args: Any) -> Enum:
        """Return a member of an enumeration by name, the form that some Python versions write."""
        match args:
            case type() as kind, str(name) if issubclass(kind, Enum) and name in kind.__members__:
                return kind[name]
        _refuse("builtins.getattr", node.start_mark)


def _refuse(name: str, mark: Any) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, f"{name} is no part of a configuration", mark)


def read_config(path: Path) -> TrainerConfig:
    """Read the configuration of a training.

    Args:
        path: The `config.yml` that `ns-train` wrote.

    Returns:
        The configuration.

    Raises:
        NopeSplatError: If the file is missing or is not a configuration of this version.
    """
    if not path.is_file():
        raise NopeSplatError(
            "missing-file", f"the file {path} does not exist; pass the config.yml written by ns-train"
        )
    try:
        # The loader constructs and calls nothing outside PACKAGES.
        config = yaml.load(path.read_text("utf8"), Loader=ConfigLoader)
    except Exception as error:  # a damaged file can raise any exception
        config = error
        if VERSION_0_1_TAG in path.read_text("utf8", "replace"):
            raise NopeSplatError(
                "checkpoint-mismatch",
                f"{path} was written by version 0.1 of nope-splat; open it with that version, or train again"
                " (the cameras are still in the cache folder next to this file)",
            ) from error
    if not isinstance(config, TrainerConfig):
        raise NopeSplatError(
            "unreadable-file",
            f"{path} is not a training config; pass the config.yml written by ns-train",
        )
    return config


def check_config(config: TrainerConfig, path: Path) -> None:
    """Check the values of a configuration from a file, as `ns-train` checks those of the command line.

    Args:
        config: The configuration.
        path: Its file, for messages.

    Raises:
        NopeSplatError: If a value has another type, is out of range, or names another class to construct.
    """
    try:
        _check_targets(config)
        check_ranges(config)
    except NopeSplatError as error:
        raise NopeSplatError(
            error.code, f"{path} cannot be used because {error}; pass the config.yml as ns-train wrote it"
        ) from error


def _check_targets(config: Any) -> None:
    """Check that every dataclass constructs the class that it constructs by default."""
    remaining, visited = [config], set[int]()
    while remaining:
        value = remaining.pop()
        if id(value) in visited:  # a file may repeat or contain itself
            continue
        visited.add(id(value))
        if isinstance(value, Mapping):
            remaining += value.values()
        elif isinstance(value, list | tuple):
            remaining += value
        elif is_dataclass(value) and not isinstance(value, type):
            remaining += vars(value).values()
            _check_target(value)


def _check_target(settings: Any) -> None:
    for field in fields(settings):
        if field.name == "_target":
            expected = field.default if field.default_factory is MISSING else field.default_factory()
            if getattr(settings, "_target", expected) is not expected:
                raise NopeSplatError(
                    "unreadable-file", f"the _target of a {type(settings).__name__} is another class"
                )
