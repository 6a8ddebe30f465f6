"""Render the HTML report of a training run from a Jinja template."""

from __future__ import annotations

import base64
import importlib.metadata
import io
import platform
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from nope_splat.io.images import ImageFile, read_image
from nope_splat.plugin.held_out_views import held_out_views
from nope_splat.plugin.load_run import LoadedRun, optimized_scene
from nope_splat.plugin.pipeline import NopePipeline
from nope_splat.plugin.summary import reconstruction_rows, training_rows
from nope_splat.report import figures
from nope_splat.sfm import Reconstruction
from nope_splat.utils.progress import progress_bar

THUMBNAIL_SIZE, RENDERING_SIZE = 200, 640
"""Maximum longer side, in pixels, of thumbnails (first) and of held-out images and renderings (second)."""
METRIC_FORMATS = {"psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.3f}", "lpips": "LPIPS {:.3f}"}
"""Format of each image metric in the report."""
PACKAGES = ("nope-splat", "nerfstudio", "gsplat", "torch", "numba", "numpy")
"""Packages whose versions the report lists."""


class LegendEntry(NamedTuple):
    """Legend entry: category of images (`name`), its `color`, and the number of images in it (`count`)."""

    name: str
    color: str
    count: int


class Thumbnail(NamedTuple):
    """Downscaled image in the contact sheet of the report."""

    number: int
    """Number of the image in the match graph and in the top view, starting at 1."""
    name: str
    """Name of the image."""
    note: str
    """Text below the image. Training image: number of track points, mean reprojection error and, if known,
    percentage of its matches that agree with its pose. Held-out image: number of track points. Unregistered
    image: the reason why it could not be registered."""
    color: str
    """Color of the frame around the image: the color of training, held-out or unregistered images."""
    pixels: bytes
    """The downscaled image, as content of a JPEG file."""


class HeldOutComparison(NamedTuple):
    """Held-out image and its rendering, for the report."""

    number: int
    """Number of the image in the match graph and in the top view, starting at 1."""
    name: str
    """Name of the image."""
    metrics: str
    """Image metrics of the rendering as text, such as "PSNR 25.31 dB, SSIM 0.812"."""
    image: bytes
    """The held-out image, as content of a JPEG file."""
    rendering: bytes
    """The rendering, as content of a JPEG file."""


def render_page(run: LoadedRun) -> str:
    """Render the HTML report of a training run.

    Args:
        run: The loaded run.

    Returns:
        HTML page with embedded images and figures.

    Raises:
        NopeSplatError: If the cached reconstruction differs from the one used in training.
    """
    pipeline = run.pipeline
    dataparser = pipeline.datamanager.dataparser
    before, after = dataparser.scene, optimized_scene(pipeline)
    images = {image.name: image for image in dataparser.folder.images}
    return _template().render(
        title=f"{run.config.experiment_name}, iteration {run.step + 1}",
        folder=dataparser.folder.root.resolve(),
        reconstruction=reconstruction_rows(before),
        notices=[f"{notice.message[0].upper()}{notice.message[1:]}." for notice in before.notices],
        training=training_rows(pipeline.model, pipeline.datamanager),
        legend=_legend(before),
        thumbnails=list(_thumbnails(after, [images[name] for name in after.image_names])),
        skipped=dataparser.folder.skipped,
        match_graph=figures.match_graph(before),
        top_view=figures.top_view(after),
        error_histogram=figures.error_histogram(before.reprojection_errors(), after.reprojection_errors()),
        curves=figures.curves(pipeline.history),
        held_out_views=list(_held_out_views(pipeline)),
        versions=_versions(pipeline),
        settings=run.path.read_text(),
    )


def _template() -> Any:
    """Load the Jinja template of the report."""
    environment = Environment(
        loader=PackageLoader("nope_splat.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    return environment.get_template("report.html")


def _legend(scene: Reconstruction) -> list[LegendEntry]:
    """List the categories of images that occur in a reconstruction: training, held-out and unregistered."""
    kinds = {
        ("trained on", figures.TRAINING_COLOR): scene.registered & ~scene.held_out,
        ("held out", figures.HELD_OUT_COLOR): scene.registered & scene.held_out,
        ("not registered", figures.UNREGISTERED_COLOR): ~scene.registered,
    }
    return [
        LegendEntry(name, color, of_kind.sum()) for (name, color), of_kind in kinds.items() if of_kind.any()
    ]


def _thumbnails(scene: Reconstruction, images: list[ImageFile]) -> Iterator[Thumbnail]:
    """Yield a thumbnail of each image; `images` must be in the order of the reconstruction."""
    errors = scene.reprojection_errors()
    colors = figures.image_colors(scene)
    for image_id, image in enumerate(progress_bar(images, "Thumbnails", len(images))):
        observed = scene.observations.image_ids == image_id
        if image.name in scene.failures:
            note = scene.failures[image.name]
        elif scene.held_out[image_id]:
            note = f"held out, {(scene.resections.image_ids == image_id).sum()} points"
        else:
            note = f"{observed.sum()} points, {errors[observed].mean():.2f} px"
            if scene.trust is not None and np.isfinite(scene.trust.images[image_id]):
                note += f", {100 * scene.trust.images[image_id]:.0f} % of its matches agree with its pose"
        pixels = _jpeg(read_image(image)[..., :3], THUMBNAIL_SIZE)
        yield Thumbnail(image_id + 1, image.name, note, colors[image_id], pixels)


def _held_out_views(pipeline: NopePipeline) -> Iterator[HeldOutComparison]:
    """Yield each registered held-out image with its rendering and the image metrics of the rendering."""
    model, scene = pipeline.model, pipeline.datamanager.dataparser.scene
    for view in held_out_views(model, pipeline.datamanager):
        metrics = model.image_metrics(view.rendered, view.image, view.mask)
        yield HeldOutComparison(
            view.image_id + 1,
            scene.image_names[view.image_id],
            ", ".join(METRIC_FORMATS[key].format(value) for key, value in metrics.items()),
            _jpeg(_pixels(view.image), RENDERING_SIZE),
            _jpeg(_pixels(view.rendered), RENDERING_SIZE),
        )


def _versions(pipeline: NopePipeline) -> dict[str, str]:
    """Return text by label: device, versions of Python and packages, and seconds taken by each SfM stage."""
    device = torch.device(pipeline.device)
    rows = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
    }
    for package in PACKAGES:
        rows[package] = importlib.metadata.version(package)
    stages = pipeline.datamanager.dataparser.scene.seconds
    rows["seconds of reconstruction"] = ", ".join(f"{name} {value:.1f}" for name, value in stages.items())
    return rows


def _pixels(image: torch.Tensor) -> NDArray[np.uint8]:
    """Convert an image (H, W, 3) from floats in [0, 1] to 8 bits."""
    return (255 * image.clamp(0, 1)).round().byte().numpy(force=True)


def _jpeg(pixels: NDArray[np.uint8], longer_side: int) -> bytes:
    """Downscale an image (H, W, 3) to a longer side of at most `longer_side` pixels; compress it as JPEG."""
    image = Image.fromarray(pixels)
    image.thumbnail((longer_side, longer_side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=85)
    return file.getvalue()


def _data_uri(content: bytes, media_type: str) -> str:
    """Encode the content of a file as a data URI, for embedding in HTML."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
