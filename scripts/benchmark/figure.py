"""Draw the figure of the README from the results of `demo.sh`.

python -m scripts.benchmark.figure --results demo/valley --output docs/valley.jpg
"""

from __future__ import annotations

from pathlib import Path

import tyro
from PIL import Image

from nope_splat.io.images import find_images
from nope_splat.utils.terminal import set_up_terminal

WIDTH = 1200
GAP = 6
NUM_IMAGES = 6


def figure(results: Path, output: Path) -> None:
    """Write a figure with a strip of input images and, below, a held-out image next to its rendering.

    Args:
        results: Output folder of `demo.sh`.
        output: Path of the figure, an image file.
    """
    images = find_images(results / "images").images
    pair = Image.open(sorted((results / "held-out").glob("eval_img_*.png"))[1]).convert("RGB")
    pair = pair.resize((WIDTH, round(pair.height * WIDTH / pair.width)), Image.Resampling.LANCZOS)
    small = (WIDTH - (NUM_IMAGES - 1) * GAP) // NUM_IMAGES
    strip_height = round(small * images[0].height / images[0].width)
    picture = Image.new("RGB", (WIDTH, strip_height + GAP + pair.height), "white")
    for place, image in enumerate(images[1 :: len(images) // NUM_IMAGES][:NUM_IMAGES]):
        thumbnail = Image.open(image.path).resize((small, strip_height), Image.Resampling.LANCZOS)
        picture.paste(thumbnail, (place * (small + GAP), 0))
    picture.paste(pair, (0, strip_height + GAP))
    picture.save(output, quality=88)


if __name__ == "__main__":
    set_up_terminal()
    tyro.cli(figure)
