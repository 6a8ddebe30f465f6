"""Test the options of initialization, matching and seeding end to end through `ns-train`.

Networks are replaced by fakes (DUSt3R, depth), or are random but loaded by the real code (DISK).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.errors import refused
from fixtures.pointmap_scene import FakeNetwork, gray_images
from fixtures.synthetic import ring
from nerfstudio.scripts.train import entrypoint

from nope_splat.geometry.camera import Camera
from nope_splat.io.cameras import read_ground_truth
from nope_splat.io.images import ImageFile
from nope_splat.matching import dust3r
from nope_splat.matching.dust3r import NetworkInput

NUM_IMAGES = 9


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache, so that trainings with the same options share matches."""
    return tmp_path_factory.mktemp("cache")


def train(
    monkeypatch: pytest.MonkeyPatch,
    output: Path,
    valley: Path,
    cache: Path,
    *options: object,
    choices: Sequence[object] = (),
) -> Any:
    """Train for a few iterations, with `choices` last; return the state of the pipeline."""
    parser = "--pipeline.datamanager.dataparser."
    arguments = ["--data", valley / "images", "--output-dir", output, "--max-num-iterations", 10]
    arguments += ["--vis", "tensorboard", "--experiment-name", "run", f"{parser}cache-dir", cache]
    arguments += ["--pipeline.datamanager.dataparser.eval-mode", "all"]
    for name, value in zip(options[::2], options[1::2], strict=True):
        arguments += [name if str(name).startswith("--") else f"{parser}{name}", value]
    monkeypatch.setattr(sys, "argv", ["ns-train", "nope-splat", *map(str, (*arguments, *choices))])
    entrypoint()
    (file,) = output.rglob("*.ckpt")
    return torch.load(file, weights_only=True)["pipeline"]


def registered(state: dict[str, Any]) -> int:
    return len(state["_model.camera_optimizer.base_poses"])


@pytest.mark.parametrize(
    ("options", "choices"),
    [
        (("matching.pairs", "retrieval", "matching.num-partners", 6), ()),
        ((), ("registration:batched",)),
        (("matching.pairs", "sequential", "matching.num-partners", 4), ()),
    ],
)
def test_pairs_and_registration(
    valley: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    choices: tuple[str, ...],
) -> None:
    state = train(monkeypatch, tmp_path, valley, cache, *options, choices=choices)
    assert registered(state) >= NUM_IMAGES - 1


def test_seeds_on_depth_maps(
    valley: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depth = ("depth.maps", valley / "depth", "depth.kind", "metric")
    state = train(monkeypatch, tmp_path, valley, cache, "seeds", "depth", *depth)
    assert registered(state) == NUM_IMAGES
    opacities = state["_model.gauss_params.opacities"].sigmoid()[:, 0]
    on_maps = (opacities - 0.5).abs() < 0.2  # maps without confidence; track points start at a tenth
    assert on_maps.sum() > 5000


@pytest.fixture
def pointmaps(valley: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """Replace DUSt3R by perturbed true pointmaps of the valley; return the options that use it."""
    truth = read_ground_truth(valley / "ground_truth.json")
    assert truth.focal is not None
    camera = Camera(truth.focal)

    def predict(
        images: Sequence[ImageFile],
        views: Sequence[NetworkInput],
        pairs: Sequence[tuple[int, int]],
        weights: str,
    ) -> Iterator[Any]:
        rng = np.random.default_rng(0)
        worlds, poses = [], [truth.T_world_camera[Path(image.name).name] for image in images]
        for image, view, pose in zip(images, views, poses, strict=True):
            depth = np.load(valley / "depth" / f"{Path(image.name).stem}.npz")["depth"]
            rows, columns = np.indices(view.shape)
            places = view.to_image(np.stack([columns, rows], -1) + 0.5)
            column, row = np.moveaxis(places.astype(int), -1, 0)
            rays = camera.unproject(places, np.array([image.width, image.height]))
            worlds.append((depth[row, column, None] * rays) @ pose[:3, :3].T + pose[:3, 3])
        for pair in pairs:
            predictions = []
            for order in (pair, pair[::-1]):
                frame, unit = poses[order[0]], np.exp(rng.normal(0, 0.3))
                points = [unit * (worlds[image] - frame[:3, 3]) @ frame[:3, :3] for image in order]
                errors = [1 + 0.01 * rng.normal(size=(*pointmap.shape[:2], 1)) for pointmap in points]
                points = [pointmap * error for pointmap, error in zip(points, errors, strict=True)]
                predictions.append(tuple((pointmap, np.full(pointmap.shape[:2], 5.0)) for pointmap in points))
            yield tuple(predictions)

    monkeypatch.setattr(dust3r, "predict", predict)
    monkeypatch.setattr(dust3r, "LONGER_SIDE", 160)
    return "matching.matcher", "dust3r", "matching.pairs", "retrieval", "matching.num-partners", 4


@pytest.mark.parametrize("initialization", [pytest.param("two-view", marks=pytest.mark.slow), "pointmaps"])
def test_pointmaps_give_cameras_and_seeds(
    valley: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pointmaps: tuple[object, ...],
    initialization: str,
) -> None:
    choices = [f"initialization:{initialization}"]
    state = train(monkeypatch, tmp_path, valley, cache, *pointmaps, "seeds", "depth", choices=choices)
    assert registered(state) >= NUM_IMAGES - 1
    assert len(state["_model.gauss_params.means"]) > 500


def test_pointmaps_provide_depth_for_initialization_and_losses(
    valley: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pointmaps: tuple[object, ...],
) -> None:
    weights = [(f"--pipeline.model.{loss}-weight", 0.1) for loss in ("depth", "chamfer")]
    options = (*pointmaps, *sum(weights, ()), "seeds", "tracks")
    state = train(monkeypatch, tmp_path, valley, cache, *options, choices=["initialization:depth"])
    assert registered(state) >= NUM_IMAGES - 1
    assert (state["_model.depth_supervision.corrections"] != 0).any(dim=1).sum() >= NUM_IMAGES - 1
    last = state["history._extra_state"]["rows"][-1]
    assert all(0 < last[term] < 1 for term in ("depth", "chamfer"))


def test_images_without_texture_can_be_trained_on(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poses = ring(4, 40.0)
    images = tmp_path / "scene" / "images"
    images.mkdir(parents=True)
    gray_images(images, len(poses))
    with refused("no-texture"):
        train(monkeypatch, tmp_path / "sift", images.parent, cache)
    monkeypatch.setattr(dust3r, "predict", FakeNetwork(poses).predict)
    monkeypatch.setattr(dust3r, "LONGER_SIDE", 192)
    state = train(
        monkeypatch, tmp_path / "dust3r", images.parent, cache, "matching.matcher", "dust3r", "seeds", "depth"
    )
    assert registered(state) == len(poses)


@pytest.mark.slow
def test_learned_matches(
    valley: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk_weights: Path
) -> None:
    """Random networks yield few matches; known cameras turn the correct ones into tracks."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(disk_weights))
    options = ("matching.matcher", "disk", "matching.max-keypoints", 500, "seeds", "tracks")
    choices = ("initialization:known-cameras", "--path", valley / "ground_truth.json")
    state = train(monkeypatch, tmp_path, valley, cache, *options, choices=choices)
    assert registered(state) >= 2
