"""`nope-splat demo-scene`."""

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
    """Render images of a procedural scene into `OUTPUT_DIR/images`.

    Args:
        output_dir: Output folder; created if missing.
        config: What to render.
    """
    images = render_demo_scene(output_dir, config)
    print(printable(f"{config.num_images} photos: {images}"))
