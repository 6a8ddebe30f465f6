"""`nope-splat demo-scene`."""

from __future__ import annotations

from pathlib import Path

from nope_splat.demo_scene import render_demo_scene


def demo_scene(
    output_dir: Path, num_photos: int = 20, size: tuple[int, int] = (640, 480), seed: int = 0
) -> None:
    """Photograph a procedural scene; the photographs go to `OUTPUT_DIR/images`.

    Args:
        output_dir: Folder to write into; made where missing.
        num_photos: Number of photographs.
        size: Width and height in pixels.
        seed: The same seed gives the same photographs.
    """
    images = render_demo_scene(output_dir, num_photos, size, seed)
    print(f"{num_photos} photographs: {images}")
