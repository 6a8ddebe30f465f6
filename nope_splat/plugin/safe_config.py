"""Read the `config.yml` of a training run without executing code from the file.

nerfstudio's commands use a YAML loader that calls any function named in the file. The loader in this module
constructs only objects of the types that occur in configurations.
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
from nope_splat.utils.device_defaults import resolve_defaults
from nope_splat.utils.ranges import check_ranges, set_missing_to_defaults

PACKAGES = frozenset({"nope_splat", "nerfstudio", "torch", "pathlib"})
"""Packages whose classes a configuration file may refer to; names in other packages are rejected."""
VERSION_0_1_TAG = "!!python/object:nope_splat.trainer.NopeTrainerConfig"
"""First YAML tag in configurations written by version 0.1, which had other module names."""


class ConfigLoader(yaml.UnsafeLoader):
    """YAML loader that refuses all objects except dataclasses, paths, enum members and references to classes.

    The classes must be in one of `PACKAGES`. Plain values such as numbers, lists and tuples are allowed.
    """

    def find_python_name(self, name: str, mark: Any) -> type:
        """Return the class that a YAML tag names.

        Args:
            name: Full name of the class.
            mark: Position in the YAML file.

        Raises:
            ConstructorError: If no package in `PACKAGES` has a class with this name.
        """
        if name.partition(".")[0] not in PACKAGES:
            _refuse(name, mark)
        target = super().find_python_name(name, mark)
        return target if isinstance(target, type) else _refuse(name, mark)

    def find_python_module(self, name: str, mark: Any) -> NoReturn:
        """Raise `ConstructorError`, since configurations contain no modules.

        Args:
            name: Name of the module.
            mark: Position in the YAML file.
        """
        _refuse(name, mark)

    def make_python_instance(
        self,
        suffix: str,
        node: yaml.Node,
        args: Sequence[Any] | None = None,
        kwds: Mapping[str, Any] | None = None,
        newobj: bool = False,
    ) -> Any:
        """Construct an object of the class that a YAML tag names: a dataclass, a path or an enum member.

        Args:
            suffix: Full name of the class.
            node: YAML node with the tag.
            args: Positional arguments of the constructor.
            kwds: Keyword arguments of the constructor.
            newobj: Whether to create the object without calling `__init__`; required for dataclasses.

        Raises:
            ConstructorError: If the class is of another kind, or not in `PACKAGES`.
        """
        if suffix == "builtins.getattr":
            return self._member(node, *(args or ()))
        cls = self.find_python_name(suffix, node.start_mark)
        if not (is_dataclass(cls) if newobj else issubclass(cls, PurePath | Enum)):
            _refuse(suffix, node.start_mark)
        return super().make_python_instance(suffix, node, args, kwds, newobj)

    def _member(self, node: yaml.Node, *args: Any) -> Enum:
        """Return a member of an enum. `args` must be the enum class and the name of the member.

        Some Python versions write enum members to YAML as a call of `getattr` with these two arguments.

        Raises:
            ConstructorError: If the arguments are anything else.
        """
        match args:
            case type() as kind, str(name) if issubclass(kind, Enum) and name in kind.__members__:
                return kind[name]
        _refuse("builtins.getattr", node.start_mark)


def _refuse(name: str, mark: Any) -> NoReturn:
    """Raise `ConstructorError` for a name that must not occur in a configuration."""
    raise yaml.constructor.ConstructorError(None, None, f"{name} is not allowed in a configuration", mark)


def read_config(path: Path) -> TrainerConfig:
    """Read the configuration of a training run without executing code from the file.

    Args:
        path: Path of a `config.yml` written by `ns-train`.

    Returns:
        The configuration, of any nerfstudio method whose classes are in `PACKAGES`.

    Raises:
        NopeSplatError: If the file is missing, is not a training configuration, or was written by version 0.1
            of nope-splat.
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
                f"{path} was written by version 0.1 of nope-splat; open it with that version, or train again",
            ) from error
    if not isinstance(config, TrainerConfig):
        raise NopeSplatError(
            "unreadable-file",
            f"{path} is not a training config; pass the config.yml written by ns-train",
        )
    return config


def check_config(config: TrainerConfig, path: Path) -> None:
    """Set missing fields of a configuration to their defaults, and check the types and ranges of all fields.

    Args:
        config: Configuration that was read from a file; modified in place.
        path: File of the configuration, for error messages.

    Raises:
        NopeSplatError: If a value has the wrong type or is out of range, or if a field `_target` (the class
            that nerfstudio constructs from a configuration) is not the default class.
    """
    try:
        _check_targets(config)
        set_missing_to_defaults(config)
        check_ranges(config)
        if type(config).__module__.startswith("nope_splat."):  # missing fields may be "auto" now
            resolve_defaults(config, "cuda" if config.machine.device_type == "cuda" else "cpu")
    except NopeSplatError as error:
        raise NopeSplatError(
            error.code, f"{path} cannot be used because {error}; pass the config.yml as ns-train wrote it"
        ) from error


def _check_targets(config: Any) -> None:
    """Check that the field `_target` of every dataclass in a configuration has its default value.

    nerfstudio constructs the class in this field, so another class could execute unexpected code.
    """
    remaining, visited = [config], set[int]()
    while remaining:
        value = remaining.pop()
        if id(value) in visited:  # YAML files can contain an object several times, or in itself
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
    """Raise `NopeSplatError` if the field `_target` of a dataclass does not have its default value."""
    for field in fields(settings):
        if field.name == "_target":
            expected = field.default if field.default_factory is MISSING else field.default_factory()
            if getattr(settings, "_target", expected) is not expected:
                raise NopeSplatError(
                    "unreadable-file",
                    f"the _target of a {type(settings).__name__} is not {expected!r}, the only class that"
                    " nope-splat allows there",
                )
