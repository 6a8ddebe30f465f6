"""Test trainings with depth end to end on the procedural scene.

- The paper's initialization and the three depth losses work together with depth maps from a folder: curves
  contain the losses, scales and shifts change, and cameras are accurate. The checkpoint can be evaluated.
- Joint optimization recovers cameras from the focal length of a 60 degree field of view.
- A network provides depth for the depth loss with joint refinement, and its predictions are cached.
- Without weights of depth losses, no depth is computed.
"""

from __future__ import annotations

import functools
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from fixtures.depth_sources import save_tiny, write_maps
from fixtures.splat_scene import make_pipeline
from nerfstudio.scripts.train import main
from nerfstudio.utils.eval_utils import eval_setup

from nope_splat.depth import DepthSettings, load_depth_maps
from nope_splat.evaluation.pose_metrics import PoseMetrics, compare_poses
from nope_splat.io.cameras import read_ground_truth
from nope_splat.io.images import find_images
from nope_splat.matching.database import load_or_match, matches_key
from nope_splat.plugin.config import nope_splat, nope_splat_paper
from nope_splat.plugin.load_run import optimized_scene
from nope_splat.plugin.pipeline import NopePipeline
from nope_splat.sfm import MapperOptions, Priors, Reconstruction, SfmOptions
from nope_splat.sfm.initialization.monocular_depth import MonocularDepthInitialization
from nope_splat.sfm.pipeline import reconstruct_from_matches
from nope_splat.utils.cache import Cache

STEPS = 30
DATA = "--pipeline.datamanager.dataparser"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of all trainings, so that the images are matched only once."""
    return tmp_path_factory.mktemp("outputs")


def train(valley: Path, outputs: Path, name: str, *arguments: object) -> Path:
    """Run `ns-train nope-splat` with arguments, and return the path of `config.yml`."""
    options = {
        "--data": valley,
        "--output-dir": outputs,
        "--timestamp": name,
        "--vis": "tensorboard",
        "--max-num-iterations": STEPS,
        "--steps-per-eval-image": 1000,
        f"{DATA}.max-image-size": 160,
        f"{DATA}.seeds": "tracks",
    }
    all_arguments = [str(part) for option in options.items() for part in option] + [
        str(part) for part in arguments
    ]
    config = tyro.cli(type(nope_splat.config), default=deepcopy(nope_splat.config), args=all_arguments)
    main(config)
    return config.get_base_dir() / "config.yml"


def state_of(config: Path) -> dict[str, Any]:
    (file,) = (config.parent / "nerfstudio_models").glob("*.ckpt")
    return torch.load(file, weights_only=True)["pipeline"]


def test_the_papers_initialization_with_all_depth_losses(valley: Path, outputs: Path, tmp_path: Path) -> None:
    maps = write_maps(valley, tmp_path / "maps", "disparity", 0.03, 0)
    (maps / "photo_000.npz").unlink()  # held out
    config = train(
        valley, outputs, "maps",
        f"{DATA}.depth.maps", maps, f"{DATA}.depth.kind", "disparity",
        "--pipeline.model.depth-weight", 0.1, "--pipeline.model.chamfer-weight", 0.1,
        "refinement:gradient", "initialization:depth",
    )  # fmt: skip
    state = state_of(config)
    (first, *_, last) = state["history._extra_state"]["rows"]
    for row in (first, last):
        assert all(0 < row[term] < 1 for term in ("depth", "chamfer"))
    assert (state["_model.depth_supervision.corrections"] != 0).all()

    _, pipeline, _, _ = eval_setup(config, test_mode="test")
    assert isinstance(pipeline, NopePipeline)
    pipeline.eval()
    assert pipeline.get_average_eval_image_metrics()["held_out_unregistered"] == 0
    for scene in (pipeline.datamanager.dataparser.scene, optimized_scene(pipeline)):
        assert compare(valley, scene).auc_5 > 95


def test_the_method_of_the_paper_trains(valley: Path, outputs: Path, tmp_path: Path) -> None:
    maps = write_maps(valley, tmp_path / "maps", "disparity", 0.03, 0)
    arguments = ["--data", valley, "--output-dir", outputs, "--timestamp", "paper", "--vis", "tensorboard"]
    arguments += ["--max-num-iterations", STEPS, f"{DATA}.max-image-size", 160]
    arguments += [f"{DATA}.depth.maps", maps, f"{DATA}.depth.kind", "disparity"]
    method = deepcopy(nope_splat_paper.config)
    config = tyro.cli(type(method), default=method, args=[str(part) for part in arguments])
    main(config)
    state = state_of(config.get_base_dir() / "config.yml")
    rows = state["history._extra_state"]["rows"]
    assert {"photometric", "track_2d", "track_3d", "scale", "focal_px"} <= rows[-1].keys()
    assert "_model.track_points" not in state  # the track points are centers of Gaussians
    assert rows[-1]["focal_change_percent"] != 0


def compare(valley: Path, scene: Reconstruction) -> PoseMetrics:
    """Compare the training cameras of a scene with the truth."""
    truth = read_ground_truth(valley / "ground_truth.json")
    poses, true_poses = {}, {}
    for image_id in np.flatnonzero(~scene.held_out):
        name = scene.image_names[image_id]
        poses[name], true_poses[name] = scene.T_world_camera[image_id], truth.T_world_camera[name]
    return compare_poses(poses, true_poses, scene.cameras[0].focal, truth.focal)


def test_joint_optimization_recovers_cameras_from_60_degrees(
    valley: Path, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The initialization from distorted depth fixes the focal length, so that training must correct it."""
    maps = write_maps(valley, tmp_path / "maps", "disparity", 0.03, 0)
    cache = Cache(outputs / valley.name / "cache")

    @functools.cache
    def start() -> Reconstruction:
        options = SfmOptions(
            mapper=MapperOptions(refine_extra_params=False),  # the maps would adapt to the wrong focal length
            depth=DepthSettings(maps=maps, kind="disparity"),
            initialization=MonocularDepthInitialization(),
        )
        folder = find_images(valley)
        held_out = np.arange(len(folder.images)) % 8 == 0
        training = [image for image, out in zip(folder.images, held_out, strict=True) if not out]
        depths = dict(
            zip(np.flatnonzero(~held_out).tolist(), load_depth_maps(training, options.depth), strict=True)
        )
        key = matches_key(folder, options.matching)
        matches = load_or_match(folder, options.matching, cache, key)
        scene = reconstruct_from_matches(
            folder, held_out, matches, options, Priors(depths=depths, fix_focal=True)
        )
        return replace(scene, focal_fixed=False)

    monkeypatch.setattr("nope_splat.plugin.dataparser.reconstruct", lambda *_: start())
    before = compare(valley, start())
    assert before.auc_5 < 70
    assert before.ate > 0.4
    assert before.focal_error == pytest.approx(-11.75, abs=0.05)  # percent
    config = train(valley, outputs, "sixty", "--max-num-iterations", 2 * STEPS)
    _, pipeline, _, _ = eval_setup(config, test_mode="inference")
    assert isinstance(pipeline, NopePipeline)
    after = compare(valley, optimized_scene(pipeline))
    assert after.auc_5 > 97
    assert abs(after.focal_error) < 0.5
    assert after.ate < 0.1


def test_depth_network_with_joint_refinement(valley: Path, outputs: Path, tmp_path: Path) -> None:
    network = save_tiny("dpt", tmp_path / "network")
    config = train(
        valley, outputs, "network",
        f"{DATA}.depth.model", network, "--pipeline.model.depth-weight", 0.1,
    )  # fmt: skip
    assert "_model.depth_supervision.corrections" in state_of(config)
    cached = list((outputs / valley.name / "cache").glob("depth-*.npz"))
    assert len(cached) == 7  # two of nine images are held out


def test_without_loss_weights_no_depth_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "nope_splat.plugin.dataparser.image_depths", lambda *_: pytest.fail("asked for depth")
    )
    pipeline = make_pipeline(tmp_path, monkeypatch, num_views=3)
    assert not any("depth" in name for name in pipeline.model.state_dict())
    assert "depth_corrections" not in pipeline.get_param_groups()
