"""The `config.yml` of a training, read without running what it may say.

nerfstudio's own commands read it with a loader that calls any function which the file names. Ours makes what
configurations consist of, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, NoReturn

import yaml
from nerfstudio.engine.trainer import TrainerConfig

from nope_splat.errors import NopeSplatError

PACKAGES = frozenset({"nope_splat", "nerfstudio", "torch", "pathlib"})
"""Where the classes come from that configurations name."""
OTHER_VERSION = "!!python/object:nope_splat.trainer.NopeTrainerConfig"
"""How the configurations of version 0.1 begin, whose classes were in other modules."""


class ConfigLoader(yaml.UnsafeLoader):
    """Makes dataclasses, paths and enumerations, and names classes, of a few packages."""

    def find_python_name(self, name: str, mark: Any) -> type:
        """The class of that name; nothing else has one."""
        if name.partition(".")[0] not in PACKAGES:
            _refuse(name, mark)
        found = super().find_python_name(name, mark)
        return found if isinstance(found, type) else _refuse(name, mark)

    def find_python_module(self, name: str, mark: Any) -> NoReturn:
        """No module."""
        _refuse(name, mark)

    def make_python_instance(
        self,
        suffix: str,
        node: yaml.Node,
        args: Sequence[Any] | None = None,
        kwds: Mapping[str, Any] | None = None,
        newobj: bool = False,
    ) -> Any:
        """A dataclass without calling it, or a path or enumeration of its value."""
        if suffix == "builtins.getattr":
            return self._member(node, *(args or ()))
        made = self.find_python_name(suffix, node.start_mark)
        if not (is_dataclass(made) if newobj else issubclass(made, PurePath | Enum)):
            _refuse(suffix, node.start_mark)
        return super().make_python_instance(suffix, node, args, kwds, newobj)

    def _member(self, node: yaml.Node, *words: Any) -> Enum:
        """A member of an enumeration by its name, as some versions of Python write them."""
        match words:
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
        NopeSplatError: If the file is missing or holds anything else.
    """
    if not path.is_file():
        raise NopeSplatError(
            "missing-file", f"there is no file {path}; give the config.yml that ns-train wrote"
        )
    try:
        # Nothing outside PACKAGES is made or called.
        config = yaml.load(path.read_text("utf8"), Loader=ConfigLoader)
    except Exception as error:  # a damaged file raises whatever its text leads to
        config = error
        if OTHER_VERSION in path.read_text("utf8", "replace"):
            raise NopeSplatError(
                "checkpoint-mismatch",
                f"{path} was written by version 0.1 of nope-splat; open it with that version, or train again:"
                " the cameras are in the cache beside it",
            ) from error
    if not isinstance(config, TrainerConfig):
        raise NopeSplatError(
            "unreadable-file",
            f"{path} is not the configuration of a training; give the config.yml of ns-train",
        )
    return config
