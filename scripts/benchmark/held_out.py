r"""Compare held-out images with renderings of nope-splat and of splatfacto, with the same code for both.

    python -m scripts.benchmark.held_out nope-splat --config RUN/config.yml --images DIR --masks FILE \
        --output-dir OUT
    python -m scripts.benchmark.held_out splatfacto --run.data DIR ... --cameras FILE \
        --images DIR --masks FILE ...
    python -m scripts.benchmark.held_out coverage --run.data DIR ... --cameras FILE --held-out NAMES \
        --output FILE

The initial pose of every held-out image is its registration against the finished points. The pose is refined
by comparing the rendering with the image; all other parameters are frozen. The outputs in `OUT` are
`held_out.json`, `cameras.json` and the renderings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.eval_utils import eval_setup
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nope_splat.evaluation.coverage import DepthViews, covered_pixels
from nope_splat.evaluation.image_metrics import ImageMetrics
from nope_splat.geometry.axes import switch_axes
from nope_splat.plugin.camera_optimizer import world_to_camera
from nope_splat.plugin.held_out_alignment import SplatModel, refine_pose, render_image
from nope_splat.plugin.pipeline import NopePipeline, NopePipelineConfig
from nope_splat.splatting.rendering import CameraView
from nope_splat.utils.terminal import set_up_terminal
from scripts.benchmark.camera_file import CameraFile, Poses, require_one_camera
from scripts.benchmark.splatfacto_peer import PeerModel, Settings, run_anywhere, splatfacto_config

WORST = 0.05
"""Fraction of the pixels, those with the largest errors, that the trimmed PSNR ignores."""


def evaluate_ours(config: Path, images: Path, masks: Path | None, output_dir: Path) -> None:
    """Evaluate a training of nope-splat on its held-out images.

    Args:
        config: The `config.yml` of the training.
        images: Folder of the images at training resolution, as `.png`.
        masks: File with the masks of covered pixels by image name, from `find_coverage`; None to treat all
            pixels as covered.
        output_dir: Output folder of metrics, cameras and renderings.
    """
    pipeline = eval_setup(config)[1]
    assert isinstance(pipeline, NopePipeline)
    datamanager = pipeline.datamanager
    scene = datamanager.dataparser.scene
    require_one_camera(config, scene.camera_ids)
    train, held_out = (
        [scene.image_names[i] for i in datamanager.dataparser.image_ids(split)] for split in ("train", "eval")
    )
    train_cameras, held_out_cameras = datamanager.train_dataset.cameras, datamanager.eval_dataset.cameras
    (pinhole, *_) = pipeline.model.camera_optimizer.cameras(scene.cameras)
    CameraFile(
        dict(zip(train, _opencv(train_cameras), strict=True)),
        dict(zip(held_out, _opencv(held_out_cameras), strict=True)),
        pinhole.focal,
        pinhole.offset,
        len(scene.points),
    ).save(output_dir / "cameras.json")
    _compare(pipeline.model, held_out_cameras, held_out, images, masks, output_dir)


def evaluate_splatfacto(
    run: Settings, cameras: Path, images: Path, masks: Path | None, output_dir: Path
) -> None:
    """Evaluate a training of splatfacto on the held-out images.

    Args:
        run: Settings of the training.
        cameras: The `cameras.json` that the training used.
        images: Folder of the images at training resolution, as `.png`.
        masks: File with the masks of covered pixels by image name, from `find_coverage`; None to treat all
            pixels as covered.
        output_dir: Output folder of metrics, cameras and renderings.
    """
    file = CameraFile.load(cameras)
    file.save(output_dir / "cameras.json")
    model, template, world = _load_splatfacto(run, file)
    names = list(file.held_out)
    held_out = _cameras(template, world, file.held_out)
    _compare(model, held_out, names, images, masks, output_dir)


def find_coverage(
    run: Settings, cameras: Path, held_out: tuple[str, ...], min_views: int, output: Path
) -> None:
    """Find the pixels of held-out images whose surface points are visible in training images.

    Args:
        run: Settings of a splatfacto training on all images, including held-out images, so that its geometry
            is complete.
        cameras: The `cameras.json` that the training used.
        held_out: Names of the held-out images.
        min_views: Minimum number of training images in which the surface point of a covered pixel is visible.
        output: npz file for the masks of covered pixels, by image name.
    """
    file = CameraFile.load(cameras)
    model, template, world = _load_splatfacto(run, file)
    names = list(file.T_world_camera)
    every = _cameras(template, world, file.T_world_camera)
    gaussians = model.gaussians().detach()
    size = int(every.width[0]), int(every.height[0])
    Ks = every.get_intrinsics_matrices()
    T_camera_world = world_to_camera(every.camera_to_worlds)
    depths = []
    with torch.no_grad():
        for view, K in zip(T_camera_world, Ks, strict=True):
            camera_view = CameraView(view[None].to(model.device), K[None].to(model.device), size)
            black = torch.zeros(3, device=model.device)
            _, depth, alpha, _ = model.render(gaussians, camera_view, black, render_mode="RGB+ED")
            depths.append(torch.where(alpha > 0.5, depth, torch.inf)[..., 0].cpu())
    depth, poses = torch.stack(depths), torch.linalg.inv(T_camera_world)
    train = torch.tensor([name not in held_out for name in names])
    train_views = DepthViews(depth[train], poses[train], Ks[train])
    masks: dict[str, Any] = {
        name: covered_pixels(DepthViews(depth[i], poses[i], Ks[i]), train_views, min_views).numpy()
        for i, name in enumerate(names)
        if name in held_out
    }
    np.savez_compressed(output, **masks)


def _load_splatfacto(run: Settings, file: CameraFile) -> tuple[PeerModel, Cameras, dict[str, Any]]:
    """Load a splatfacto training, rescaled so that the median depth of the reconstruction is one.

    Args:
        run: Settings of the training.
        file: Cameras that the training used.

    Returns:
        The model, one of the training cameras, and the transform and scale from COLMAP's world to the model's
        world.
    """
    run_anywhere()
    config = splatfacto_config(run)
    pipeline = config.pipeline.setup(device=config.machine.device_type, test_mode="val")
    checkpoint = max(run.output_dir.glob("**/nerfstudio_models/*.ckpt"))
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)
    pipeline.load_pipeline(state["pipeline"], state["step"])
    model: PeerModel = pipeline.model.eval()
    outputs = pipeline.datamanager.train_dataparser_outputs
    unit = outputs.dataparser_scale * file.median_depth
    with torch.no_grad():
        model.gauss_params["means"] /= unit
        model.gauss_params["scales"] -= np.log(unit)
    world = {"transform": outputs.dataparser_transform, "scale": 1 / file.median_depth}
    return model, pipeline.datamanager.train_dataset.cameras[:1].to("cpu"), world


def _cameras(template: Cameras, world: dict[str, Any], poses: Poses) -> Cameras:
    """Create copies of a camera at given poses in COLMAP's world.

    Args:
        template: Camera with the intrinsics.
        world: Transform and scale from COLMAP's world to the model's world.
        poses: Camera-to-world transforms in COLMAP's world (OpenCV axes), by image name.
    """
    colmap = torch.tensor(np.array(list(poses.values()))).float().reshape(-1, 4, 4)
    placed = world["transform"].float() @ switch_axes(colmap)
    placed[:, :3, 3] *= world["scale"]
    intrinsics = {
        name: getattr(template, name).expand(len(poses), 1).clone()
        for name in ("fx", "fy", "cx", "cy", "width", "height")
    }
    return Cameras(camera_to_worlds=placed[:, :3], **intrinsics)


def _opencv(cameras: Cameras) -> NDArray[np.floating]:
    """Convert nerfstudio's cameras to camera-to-world transforms with OpenCV axes. (N, 4, 4)."""
    return torch.linalg.inv(world_to_camera(cameras.camera_to_worlds.cpu().double())).numpy()


def _read(images: Path, name: str, device: torch.device) -> Tensor:
    """Read an image at training resolution onto a device. (H, W, 3), in [0, 1]."""
    with Image.open((images / name).with_suffix(".png")) as image:
        return torch.from_numpy(np.array(image)).to(device).float() / 255


def _compare(
    model: Any, cameras: Cameras, names: list[str], images: Path, masks: Path | None, output_dir: Path
) -> None:
    """Refine the pose of every held-out image, render it, and write metrics and renderings.

    Args:
        model: Model of nope-splat or splatfacto.
        cameras: Initial cameras of the held-out images.
        names: Names of the held-out images, in the same order.
        images: Folder of the images at training resolution, as `.png`.
        masks: File with the masks of covered pixels by image name; None to treat all pixels as covered.
        output_dir: Output folder.
    """
    splat: SplatModel = model
    steps = NopePipelineConfig().alignment_steps
    gaussians = splat.gaussians().detach()
    metrics, rows = ImageMetrics(), {}
    covered: dict[str, NDArray[np.bool_]] = {}
    if masks is not None:
        with np.load(masks) as file:
            covered = dict(file)
    for index, name in enumerate(names):
        image = _read(images, name, gaussians.means.device)
        camera = cameras[index : index + 1].to(image.device)
        pose = refine_pose(splat, camera, image, None, steps)
        with torch.no_grad():
            rendered = render_image(splat, gaussians, camera, world_to_camera(pose[None])).rgb
        visible = np.ones(image.shape[:2], bool) if masks is None else covered[name]
        mask = torch.from_numpy(visible)[..., None].to(image.device)
        rows[name] = {
            **metrics(rendered, image),
            "psnr_covered": float(metrics.psnr(rendered, image, mask)),
            "psnr_trimmed": float(trimmed_psnr(rendered, image)),
            "covered": float(mask.float().mean()),
        }
        path = output_dir / "renders" / Path(name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((rendered * 255).round().byte().cpu().numpy()).save(path)
    result = {"images": rows, "gaussians": len(gaussians.means)}
    (output_dir / "held_out.json").write_text(json.dumps(result, indent=1))


def trimmed_psnr(rendered: Tensor, image: Tensor) -> Tensor:
    """Compute the PSNR of a rendering in dB without the 5 % of pixels with the largest errors.

    Args:
        rendered: Rendered image. (H, W, 3), in [0, 1].
        image: Ground truth image. (H, W, 3), in [0, 1].

    Returns:
        PSNR in dB. ().
    """
    errors = (rendered - image).square().mean(-1).flatten().sort().values
    return -10 * torch.log10(errors[: round((1 - WORST) * len(errors))].mean())


if __name__ == "__main__":
    set_up_terminal()
    tyro.extras.subcommand_cli_from_dict(
        {"nope-splat": evaluate_ours, "splatfacto": evaluate_splatfacto, "coverage": find_coverage}
    )
