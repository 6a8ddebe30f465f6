"""Fuzzing finds readers that raise, and finds nothing in those of the package within a second."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nope_splat.errors import NopeSplatError
from nope_splat.plugin import dataparser
from scripts.analysis.fuzz_readers import Settings, fuzz
from scripts.analysis.fuzz_seeds import Seeds, make_seeds
from scripts.analysis.fuzz_targets import READERS, Reader, damage_json
from scripts.analysis.mutations import mutate_array, mutate_bytes, mutate_text, mutate_tree


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeds]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("reconstruct", "find_images"):  # restored at the end
            monkeypatch.setattr(dataparser, name, getattr(dataparser, name))
        yield make_seeds(tmp_path_factory.mktemp("seeds"))


@pytest.mark.parametrize("name", READERS)
def test_readers_raise_nothing_else(name: str, seeds: Seeds, tmp_path: Path) -> None:
    outcome = fuzz(READERS[name], seeds, Settings(seconds=1.0), tmp_path)
    assert outcome.failures == {}
    assert outcome.accepted + outcome.refused > 0


def read_carelessly(seeds: Seeds, folder: Path) -> None:
    """Read a JSON file, and refuse only what is no JSON."""
    try:
        content = json.loads((folder / "ground_truth.json").read_text())
    except ValueError as error:
        raise NopeSplatError("unreadable-file", f"it is no JSON:\n{error}") from error
    assert content["w"] * content["h"] > 0


def test_careless_readers_are_found(seeds: Seeds, tmp_path: Path) -> None:
    outcome = fuzz(
        Reader("ground_truth", damage_json, read_carelessly), seeds, Settings(seconds=2.0), tmp_path
    )
    assert any("KeyError" in key or "TypeError" in key for key in outcome.failures)
    assert any("several lines" in key for key in outcome.failures)
    kept = [folder for folder in tmp_path.iterdir() if folder.name not in ("input", "valid")]
    assert len(kept) == len(outcome.failures)
    assert all((folder / "ground_truth.json").is_file() for folder in kept)


def test_mutations_never_raise_and_leave_their_input() -> None:
    tree = {"a": [1, 2.5, "x", None], "b": {"c": np.arange(6.0).reshape(2, 3)}}
    text, content = "one two\nthree", bytes(range(50))
    changed = 0
    for seed in range(500):
        rng = random.Random(seed)
        changed += mutate_bytes(content, rng) != content
        changed += mutate_text(text, rng) != text
        mutate_tree(tree, rng)
        mutate_array(tree["b"]["c"], rng)
        mutate_array(np.array(["a", "b"]), rng)
        mutate_bytes(b"", rng)
        mutate_text("", rng)
    assert changed > 800
    assert tree["a"] == [1, 2.5, "x", None]
    np.testing.assert_array_equal(tree["b"]["c"], np.arange(6.0).reshape(2, 3))


def test_the_seed_makes_the_inputs_repeatable(seeds: Seeds, tmp_path: Path) -> None:
    contents = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        READERS["transforms"].write(seeds, folder, random.Random(7))
        contents.append((folder / "transforms.json").read_bytes())
    assert contents[0] == contents[1]
