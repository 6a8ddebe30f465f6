"""Test that configurations are read back unchanged, and that nothing else in the file is executed."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from fixtures.errors import refused
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.utils.writer import EventName

from nope_splat.plugin.config import nope_splat, nope_splat_paper
from nope_splat.plugin.safe_config import read_config


@pytest.mark.parametrize("method", ["nope-splat", "nope-splat-paper", "splatfacto"])
def test_configuration_round_trip(method: str, tmp_path: Path) -> None:
    ours = {"nope-splat": nope_splat, "nope-splat-paper": nope_splat_paper}
    config = deepcopy(ours[method].config if method in ours else all_methods[method])
    config.data, config.timestamp = tmp_path, "now"
    text = yaml.dump(config)
    (tmp_path / "config.yml").write_text(text)
    assert yaml.dump(read_config(tmp_path / "config.yml")) == text


def test_enumeration_members_are_read_by_name(tmp_path: Path) -> None:
    """Python 3.11.2 writes them by name; 3.11.7 does not."""
    config = deepcopy(nope_splat.config)
    config.data = tmp_path
    name = "!!python/name:nerfstudio.utils.writer.EventName ''"
    member = f"!!python/object/apply:builtins.getattr [{name}, ITER_TRAIN_TIME]"
    (tmp_path / "config.yml").write_text(yaml.dump(config) + f"more: {member}\n")
    assert vars(read_config(tmp_path / "config.yml"))["more"] is EventName.ITER_TRAIN_TIME


@pytest.mark.parametrize(
    "harm",
    [
        "!!python/object/apply:os.mkdir ['{}']",
        "!!python/object/apply:subprocess.run [['mkdir', '{}']]",
        "!!python/object/apply:builtins.exec ['import os; os.mkdir(\"{}\")']",
        "!!python/object/apply:nerfstudio.utils.scripts.run_command ['mkdir {}']",
        "!!python/object/apply:torch.load ['{}']",
        "!!python/object/new:torch.nn.Linear [1, 2]",
        "!!python/object/apply:pathlib.Path.mkdir [!!python/object/apply:pathlib.PosixPath ['{}']]",
        "!!python/object/apply:builtins.getattr [!!python/name:pathlib.Path , mkdir]",
        "!!python/name:os.mkdir",
        "!!python/module:os",
    ],
)
def test_other_objects_are_not_created(harm: str, tmp_path: Path) -> None:
    made, file = tmp_path / "made", tmp_path / "config.yml"
    config = deepcopy(nope_splat.config)
    config.data = tmp_path
    file.write_text(yaml.dump(config) + "more: " + harm.replace("{}", str(made)) + "\n")
    with refused("unreadable-file", file):
        read_config(file)
    assert not made.exists()


def test_a_configuration_of_version_0_1_raises_with_its_version(tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text("!!python/object:nope_splat.trainer.NopeTrainerConfig\nmethod_name: nope-splat\n")
    with refused("checkpoint-mismatch", file, "0.1"):
        read_config(file)
