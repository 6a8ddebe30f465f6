"""The command `nope-splat demo-scene`, which renders photos of a procedural scene."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from nope_splat.demo.scene import DemoSceneConfig, render_demo_scene
from nope_splat.utils.terminal import printable


def demo_scene(
    output_dir: Path,
    config: Annotated[DemoSceneConfig, tyro.conf.arg(name="")] = DemoSceneConfig(),  # noqa: B008 (frozen)
) -> None:
    """Render photos of a procedural scene to `OUTPUT_DIR/images`, and write the true cameras.

    The true cameras are in `OUTPUT_DIR/ground_truth.json`, for `nope-splat compare-cameras`.

    Args:
        output_dir: Output folder; created if missing.
        config: Options of the scene and the cameras.
    """
    images = render_demo_scene(output_dir, config)
    print(printable(f"Wrote {config.num_images} photos to {images}"))
