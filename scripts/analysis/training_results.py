"""Hashes of the results of trainings, evaluations and exports, and the progress of killed trainings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from scripts.same_results import digests

EXPERIMENT = Path("outputs") / "scene"
"""Folder of an experiment, below the folder of a training."""
TIMES = ("fps", "num_rays_per_sec")
"""Prefixes of the names of results in `eval.json` that depend on the speed of the machine."""
Digests = dict[str, str]
"""Hashes of results, by name."""


def progress(folder: Path) -> str:
    """Describe the results that a killed training has left.

    Args:
        folder: Folder of the training's outputs.

    Returns:
        Text such as "12 iterations, 4 checkpoints".
    """
    experiment = folder / EXPERIMENT
    checkpoints = sorted(experiment.rglob("*.ckpt"))
    partial = ", writing a checkpoint" if any(experiment.rglob("checkpoint.partial")) else ""
    if checkpoints:
        count = f", {len(checkpoints)} checkpoints" if len(checkpoints) > 1 else ""
        return f"{int(checkpoints[-1].stem[5:]) + 1} iterations{count}{partial}"
    stages = sorted({path.name.split("-")[0] for path in (experiment / "cache").glob("*.npz")})
    return (", ".join(stages) or "nothing") + " kept" + partial


def training_digests(folder: Path) -> Digests:
    """Hash the last checkpoint and the cached reconstruction of a training.

    Args:
        folder: Folder of the training's outputs.
    """
    checkpoints = sorted((folder / EXPERIMENT).rglob("*.ckpt"))
    if not checkpoints:
        return {"checkpoint": "none"}
    state = torch.load(checkpoints[-1], map_location="cpu", weights_only=True)
    results = dict(digests(state, "checkpoint"))
    for path in (folder / EXPERIMENT / "cache").glob("*.npz"):
        with np.load(path) as arrays:
            values = {name: arrays[name] for name in arrays.files}
        if "plain" in values:  # JSON of a reconstruction
            values["plain"] = np.array(repr({**json.loads(values["plain"].item()), "seconds": None}))
        for name, array in values.items():
            content = f"{array.dtype}{array.shape}".encode() + array.tobytes()
            results[f"{path.name}.{name}"] = hashlib.sha256(content).hexdigest()
    return results


def file_digests(folder: Path) -> Digests:
    """Hash all files in a folder and its subfolders; timings in `eval.json` are ignored.

    Args:
        folder: The folder.

    Returns:
        Hashes by relative path or name of the result.
    """
    return dict(_file_digests(folder))


def _file_digests(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.name == "eval.json":
            results = json.loads(path.read_text())["results"]
            untimed = {name: value for name, value in results.items() if not name.startswith(TIMES)}
            yield from digests(untimed, path.name)
        elif path.is_file():
            yield str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()


def newest_run(folder: Path) -> Path:
    """Return the folder of a training's most recently modified run."""
    return max((folder / EXPERIMENT / "nope-splat").iterdir(), key=lambda run: run.stat().st_mtime).absolute()
