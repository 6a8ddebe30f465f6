"""A tiny scene of known Gaussians with photographs on disk, and the sparse scene that belongs to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plugin.scenes import TrackScene, track_scene
from torch import Tensor

from nope_splat.camera import SharedPinhole, distort
from nope_splat.camera_optimizer import NopeCameraOptimizerConfig, switch_axes, world_to_camera
from nope_splat.datamanager import NopeDataManagerConfig
from nope_splat.dataparser import NopeDataParserConfig
from nope_splat.device_defaults import fill_in_defaults
from nope_splat.gaussians import Gaussians
from nope_splat.lens import Rendering, through_lens
from nope_splat.model import NopeSplatModelConfig
from nope_splat.pipeline import NopePipeline, NopePipelineConfig
from nope_splat.reconstruction import SparseScene
from nope_splat.splatting import rasterization
from nope_splat.tracks import MatchGraph, Observations

SIZE = (96, 72)
"""Width and height of the photographs."""
FOCAL = 100.0
OFFSET = (1.5, -0.5)
CAMERA = SharedPinhole(FOCAL, OFFSET)


def true_gaussians(points: Tensor, seed: int = 0) -> Gaussians:
    """Opaque coloured balls at the points."""
    generator = torch.Generator().manual_seed(seed)
    count = len(points)
    return Gaussians(
        points.float(),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
        torch.full((count, 3), 0.05),
        torch.full((count,), 0.95),
        3 * torch.rand(count, 1, 3, generator=generator) - 1.5,
    )


def render_truth(scene: TrackScene, view: int, camera: SharedPinhole = CAMERA) -> Tensor:
    """The photograph of a view, on black. (H, W, 3)."""
    x, y = camera.principal_points(np.array(SIZE)).tolist()
    K = torch.tensor([[[camera.focal, 0, x], [0, camera.focal, y], [0, 0, 1.0]]])
    T = world_to_camera(scene.poses[view : view + 1]).float()

    def render(K: Tensor, size: tuple[int, int]) -> Rendering:
        image, alpha, info = rasterization(*true_gaussians(scene.points), T, K, *size, sh_degree=0)
        return Rendering(image[0].clamp(0, 1), image[0, ..., :0], alpha[0], info)

    return through_lens(render, K, SIZE, torch.tensor(camera.radial)).rgb


def make_pipeline(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_views: int = 9,
    unregistered: tuple[int, ...] = (),
    eval_mode: str = "interval",
    max_image_size: int | None = None,
    test_mode: str = "val",
    model: NopeSplatModelConfig | None = None,
    taken_with: SharedPinhole = CAMERA,
    found: SharedPinhole = CAMERA,
    device: str = "cpu",
) -> NopePipeline:
    """A pipeline on a CPU whose reconstruction is the truth; every 8th photograph is held out.

    Args:
        folder: Where the photographs are written.
        monkeypatch: Replaces the reconstruction.
        num_views: Number of photographs.
        unregistered: Photographs that get no pose.
        eval_mode: Of the dataparser.
        max_image_size: Of the dataparser.
        test_mode: nerfstudio's.
        model: Configuration of the model.
        taken_with: The camera that took the photographs.
        found: What the reconstruction takes it for.
        device: What is asked for.
    """
    scene = write_scene(folder, num_views, unregistered, eval_mode == "interval", taken_with, found)
    monkeypatch.setattr("nope_splat.dataparser.reconstruct", lambda *args: scene)
    dataparser = NopeDataParserConfig(
        eval_mode=eval_mode,  # pyright: ignore[reportArgumentType]
        max_image_size=max_image_size,
        seeds="tracks",
    )
    config = NopePipelineConfig(
        datamanager=NopeDataManagerConfig(data=folder, dataparser=dataparser, cache_images_type="float32"),
        model=model
        or NopeSplatModelConfig(
            camera_optimizer=NopeCameraOptimizerConfig(mode="SE3", method="adam"),
            num_downscales=0,
            background_color="black",
            sh_degree=1,
        ),
    )
    fill_in_defaults(config, "cuda")  # those of full quality, although everything runs on a CPU
    pipeline = config.setup(device=device, test_mode=test_mode)
    assert isinstance(pipeline, NopePipeline)
    return pipeline


def write_scene(
    folder: Path,
    num_views: int,
    unregistered: tuple[int, ...],
    held_out: bool,
    taken_with: SharedPinhole = CAMERA,
    found: SharedPinhole = CAMERA,
) -> SparseScene:
    """Write the photographs; the sparse scene is exact."""
    truth = track_scene(num_views=num_views, num_points=60)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = tuple(f"{view:02d}.png" for view in range(num_views))
    for view, name in enumerate(names):
        pixels = (255 * render_truth(truth, view, taken_with)).round().byte().numpy()
        Image.fromarray(pixels).save(folder / "images" / name)
    is_held_out = np.zeros(num_views, bool)
    is_held_out[::8] = held_out
    registered = np.ones(num_views, bool)
    registered[list(unregistered)] = False
    point_ids, photo_ids, xy = (values.numpy() for values in truth.observations[:3])
    xy = taken_with.focal * distort(xy / float(truth.focal), taken_with.radial)
    xy = xy + taken_with.principal_points(np.array(SIZE))

    def sightings(mask: np.ndarray) -> Observations:
        rows = (mask & registered)[photo_ids]
        return Observations(point_ids[rows], photo_ids[rows], xy[rows])

    poses = np.tile(np.eye(4), (num_views, 1, 1))
    poses[:, :3] = switch_axes(truth.poses).numpy()
    colors = (255 * (0.5 + 0.2821 * true_gaussians(truth.points).colors[:, 0]).clamp(0, 1)).byte().numpy()
    empty = np.zeros((0, 2), np.int64)
    return SparseScene(
        photo_names=names,
        photo_sizes=np.tile(np.array(SIZE), (num_views, 1)),
        held_out=is_held_out,
        registered=registered,
        T_world_camera=poses,
        cameras=(found,),
        camera_ids=np.zeros(num_views, np.int64),
        points=truth.points.numpy(),
        colors=colors,
        observations=sightings(~is_held_out),
        noise=np.ones(len(sightings(~is_held_out))),
        resections=sightings(is_held_out),
        failures={names[view]: "no matches" for view in unregistered},
        graph=MatchGraph(num_views, empty, empty[:, 0], empty[:, 0]),
        seconds={},
    )


def set_to_truth(pipeline: NopePipeline) -> None:
    """Give the model the Gaussians that the photographs show."""
    truth = true_gaussians(track_scene(num_points=60).points)
    parameters = pipeline.model.gauss_params
    parameters["means"].data = truth.means.clone()
    parameters["quats"].data = truth.quats.clone()
    parameters["scales"].data = truth.scales.log()
    parameters["opacities"].data = truth.opacities.logit()[:, None]
    parameters["features_dc"].data = truth.colors[:, 0].clone()
