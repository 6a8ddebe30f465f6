"""Check that the results of the working tree are bitwise equal to those of a commit, on this machine.

    python scripts/same_results.py --data PHOTOS --base REV

Reconstructs the images and trains a few iterations on the CPU with fixed seeds, once with the code of the
working tree and once with the code of the commit. Compares cameras, track points, Gaussians and the state of
the optimizers bit by bit. The results depend bitwise on the processor and its libraries, so both run on this
machine. The results of a commit are kept in the folder `--keep` for the next comparison. The exit status is 1
if anything differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

ROOT = Path(__file__).resolve().parents[1]
TRAIN = "from nerfstudio.scripts.train import entrypoint; entrypoint()"

Digests = dict[str, str]
"""Hashes of the tensors and numbers in a checkpoint, by name."""


@dataclass(frozen=True)
class Settings:
    """Settings of the comparison between the working tree and a commit."""

    data: Path
    """Folder of images."""
    base: str = "HEAD"
    """Commit whose results are expected."""
    iterations: int = 200
    """Number of iterations of the training, which includes densification and joint refinement."""
    keep: Path = Path("outputs/same_results")
    """Folder in which the hashes of the results of commits are kept."""


def _densify_every(tree: Path) -> str:
    """Return the name of the option for the densification interval, which differs between checkouts."""
    options = (tree / "nope_splat" / "plugin" / "model_options.py").read_text()
    return "densification.refine-every" if "densification:" in options else "densify-every"


def train(tree: Path, settings: Settings) -> Digests:
    """Train with the code of a checkout, and hash the results.

    Args:
        tree: Root of a checkout.
        settings: Settings of the comparison.

    Returns:
        Hashes of all tensors and numbers in the checkpoint, by name.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        _describe_plugin(tree, out / "nope_splat-0.dist-info")
        options = {
            "--data": settings.data.resolve(),
            "--output-dir": out / "outputs",
            "--machine.device-type": "cpu",
            "--max-num-iterations": settings.iterations,
            f"--pipeline.model.{_densify_every(tree)}": 20,
            "--steps-per-eval-image": 0,
            "--vis": "tensorboard",
        }
        command = [
            sys.executable,
            "-c",
            TRAIN,
            "nope-splat",
            *(str(x) for pair in options.items() for x in pair),
        ]
        path = os.pathsep.join([str(out), str(tree), os.environ.get("PYTHONPATH", "")])
        log = out / "log"
        with log.open("wb") as file:
            status = subprocess.run(
                command, cwd=out, env=os.environ | {"PYTHONPATH": path}, stdout=file, stderr=file
            )
        checkpoints = sorted((out / "outputs").rglob("*.ckpt"))
        if status.returncode or not checkpoints:
            raise SystemExit(f"the training with the code in {tree} failed:\n{log.read_text()[-3000:]}")
        return dict(digests(torch.load(checkpoints[-1], map_location="cpu", weights_only=True)))


def _describe_plugin(tree: Path, folder: Path) -> None:
    """Write package metadata that makes nerfstudio find the plugin of a checkout, not the installed plugin.

    Args:
        tree: Root of the checkout.
        folder: Output folder, on the module search path.
    """
    group = "nerfstudio.method_configs"
    section = (tree / "pyproject.toml").read_text().partition(f'[project.entry-points."{group}"]')[2]
    method = re.search(r'^nope-splat = "(\S+)"$', section, re.MULTILINE)
    assert method is not None, "the plugin's entry point"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: nope-splat\nVersion: 0\n")
    (folder / "entry_points.txt").write_text(f"[{group}]\nnope-splat = {method[1]}\n")


def digests(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Hash every tensor and number in a checkpoint.

    Args:
        value: Checkpoint, or a part of it.
        name: Name of the part, to which the names of its contents are appended.

    Yields:
        Name and hash of each tensor or number.
    """
    if isinstance(value, dict):
        for key, part in value.items():
            yield from digests(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from digests(part, f"{name}[{index}]")
    else:
        array = value.detach().contiguous().numpy() if isinstance(value, torch.Tensor) else None
        content = (
            repr(value).encode()
            if array is None
            else f"{array.dtype}{array.shape}".encode() + array.tobytes()
        )
        yield name, hashlib.sha256(content).hexdigest()


def expected(settings: Settings) -> Digests:
    """Return the hashes of the commit's results, from an earlier comparison or a new training.

    Args:
        settings: Settings of the comparison.
    """
    commit = _git("rev-parse", settings.base)
    kept = settings.keep / f"{settings.data.resolve().name}-{settings.iterations}-{commit[:12]}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "--detach", str(tree), commit)
        try:
            digests = train(tree, settings)
        finally:
            _git("worktree", "remove", "--force", str(tree))
    settings.keep.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(digests, indent=1))
    return digests


def _git(*args: str) -> str:
    return subprocess.run(["git", *args], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def main(settings: Settings) -> int:
    """Compare the results of the working tree and of the commit, and print the differences.

    Args:
        settings: Settings of the comparison.

    Returns:
        The exit status: 1 if any result differs, else 0.
    """
    before, now = expected(settings), train(ROOT, settings)
    different = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    for name in different:
        difference = (
            "differs" if name in before and name in now else "is only there now" if name in now else "is gone"
        )
        print(f"{name} {difference}")
    print(f"{len(before)} results of {settings.base}, {len(different)} different")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
