"""The page of the report: what it says, and its HTML."""

from __future__ import annotations

import base64
import importlib.metadata
import io
import platform
from collections.abc import Iterable, Mapping
from html import escape

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from nope_splat.io.images import ImageFile, read_image
from nope_splat.plugin.held_out_views import held_out_views
from nope_splat.plugin.load_run import Run, optimized_scene
from nope_splat.plugin.pipeline import NopePipeline
from nope_splat.plugin.summary import reconstruction_rows, training_rows
from nope_splat.report import figures
from nope_splat.sfm import Reconstruction
from nope_splat.utils.progress import progress_bar

THUMBNAIL, RENDERING = 200, 640
"""Longer sides, in pixels, of the images in the contact sheet and of the renderings."""
METRICS = {"psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.3f}", "lpips": "LPIPS {:.3f}"}
"""How the metrics of a rendering are written."""
PACKAGES = ("nope-splat", "nerfstudio", "gsplat", "torch", "numba", "numpy")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #23282e }
body { max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem }
p { margin: .3rem 0 .8rem } .quiet, figcaption { color: #626b75; font-size: .85rem }
table { border-collapse: collapse } td { padding: .15rem 1.2rem .15rem 0; vertical-align: top }
td:first-child { color: #626b75 } .side { display: flex; flex-wrap: wrap; gap: 1rem 4rem }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .8rem }
figure { margin: 0 } .sheet img { width: 100%; border: 3px solid; border-radius: 4px; box-sizing: border-box }
.sheet figcaption { line-height: 1.3; overflow-wrap: anywhere } .dot { font-weight: 600 }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .4rem; margin-bottom: 1.2rem }
.pair img { width: 100% } .pair figcaption { grid-column: 1 / 3 } .drawing { max-width: 100%; height: auto }
.drawings { display: grid; gap: 1rem }
.drawings { grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)) }
.drawings h2 { margin-top: 1.4rem }
pre { background: #f4f6f8; padding: 1rem; overflow: auto; font-size: .8rem } summary { cursor: pointer }
"""


def render_page(run: Run) -> str:
    """Make the report of a training.

    Args:
        run: The training.

    Returns:
        HTML, with every picture in it.

    Raises:
        NopeSplatError: If the reconstruction in the cache is not the one that was trained on.
    """
    pipeline = run.pipeline
    dataparser = pipeline.datamanager.dataparser
    before, after = dataparser.scene, optimized_scene(pipeline)
    title = escape(f"{run.config.experiment_name}, iteration {run.step + 1}")
    images = {image.name: image for image in dataparser.folder.images}
    sections = [
        f"<h1>{title}</h1><p class=quiet>nope-splat {escape(importlib.metadata.version('nope-splat'))},"
        f" {escape(str(dataparser.folder.root.resolve()))}</p>",
        "<div class=side>",
        f"<div><h2>Reconstruction</h2>{_table(reconstruction_rows(before))}</div>",
        f"<div><h2>Training</h2>{_table(training_rows(pipeline.model, pipeline.datamanager))}</div>",
        "</div>",
        "<h2>Photos</h2>",
        _legend(before),
        _contact_sheet(after, [images[name] for name in after.image_names]),
        _skipped(dataparser.folder.skipped),
        "<div class=drawings>",
        "<div><h2>Match graph</h2><p class=quiet>Lines join photos that match, the more matches the"
        " wider; bold is the maximum spanning tree. Held-out photos take no part.</p>",
        f"{_drawing(figures.match_graph(before), 'match graph')}</div>",
        "<div><h2>Cameras and points from above</h2><p class=quiet>Numbers and colors are those of the"
        " photos. Distant points lie beyond the border.</p>",
        f"{_drawing(figures.top_view(after), 'cameras and points from above')}</div>",
        "</div>",
        "<h2>Reprojection errors</h2>",
        _drawing(
            figures.error_histogram(before.reprojection_errors(), after.reprojection_errors()),
            "histogram of reprojection errors",
        ),
        "<h2>Curves of the training</h2>",
        _curves(figures.curves(pipeline.history)),
        "<h2>Held-out photos</h2>",
        _held_out(pipeline),
        "<h2>Settings and versions</h2>",
        _table(_versions(pipeline)),
        f"<details><summary>All settings</summary><pre>{escape(run.path.read_text())}</pre></details>",
    ]
    body = "\n".join(sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _table(rows: Mapping[str, str]) -> str:
    cells = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value).replace('-&gt;', '→')}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table>{cells}</table>"


def _legend(scene: Reconstruction) -> str:
    kinds = {
        figures.TRAINING: ("trained on", scene.registered & ~scene.held_out),
        figures.HELD_OUT: ("held out", scene.registered & scene.held_out),
        figures.LEFT_OUT: ("left out, since no pose was found", ~scene.registered),
    }
    parts = (
        f'<span class=dot style="color:{color}">{kind.sum()} {name}</span>'
        for color, (name, kind) in kinds.items()
        if kind.any()
    )
    return f"<p>{' · '.join(parts)}</p>"


def _contact_sheet(scene: Reconstruction, images: Iterable[ImageFile]) -> str:
    errors = scene.reprojection_errors()
    colors = figures.image_colors(scene)
    cells = []
    for index, image_file in enumerate(progress_bar(images, "Thumbnails", len(scene.image_names))):
        mine = scene.observations.image_ids == index
        if image_file.name in scene.failures:
            note = scene.failures[image_file.name]
        elif scene.held_out[index]:
            note = f"held out, {(scene.resections.image_ids == index).sum()} points"
        else:
            note = f"{mine.sum()} points, {errors[mine].mean():.2f} px"
        image = _image(
            _scaled(read_image(image_file)[..., :3], THUMBNAIL),
            image_file.name,
            f"border-color: {colors[index]}",
        )
        caption = f"<b>{index + 1}</b> {escape(image_file.name)}<br>{escape(note)}"
        cells.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    return f"<div class=sheet>{''.join(cells)}</div>"


def _skipped(skipped: Mapping[str, str]) -> str:
    if not skipped:
        return ""
    return f"<p>Files that could not be used:</p>{_table(skipped)}"


def _curves(plots: Mapping[str, bytes]) -> str:
    if not plots:
        return "<p>No curves were recorded.</p>"
    drawings = "".join(_drawing(svg, escape(title)) for title, svg in plots.items())
    return (
        "<p class=quiet>By iteration. Thin lines jump from photo to photo; bold is their running"
        f" mean.</p><div class=drawings>{drawings}</div>"
    )


def _held_out(pipeline: NopePipeline) -> str:
    model, scene = pipeline.model, pipeline.datamanager.dataparser.scene
    pairs = []
    for view in held_out_views(pipeline.model, pipeline.datamanager):
        metrics = model.image_metrics(view.rendered, view.image, view.mask)
        name = scene.image_names[view.image_id]
        caption = ", ".join(METRICS[key].format(value) for key, value in metrics.items())
        images = (_image(_scaled(_pixels(image), RENDERING), name) for image in (view.image, view.rendered))
        pairs.append(
            f"<figure class=pair>{''.join(images)}<figcaption><b>{view.image_id + 1}</b> {escape(name)}:"
            f" photo and rendering. {caption}</figcaption></figure>"
        )
    return "".join(pairs) or "<p>No photo was held out and registered.</p>"


def _versions(pipeline: NopePipeline) -> dict[str, str]:
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
    return (255 * image.clamp(0, 1)).round().byte().numpy(force=True)


def _scaled(pixels: NDArray[np.uint8], longer_side: int) -> Image.Image:
    image = Image.fromarray(pixels)
    image.thumbnail((longer_side, longer_side), Image.Resampling.LANCZOS)
    return image


def _image(image: Image.Image, name: str, style: str = "") -> str:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=85)
    return f'<img style="{style}" alt="{escape(name)}" src="{_uri("image/jpeg", file.getvalue())}">'


def _drawing(svg: bytes, name: str) -> str:
    # As an image, since the names within one drawing would clash with those of another.
    return f'<img class=drawing alt="{name}" src="{_uri("image/svg+xml", svg)}">'


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
