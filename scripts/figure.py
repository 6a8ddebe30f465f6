"""Makes the README's picture from a run of `demo.sh`: some of its photographs, and what was made of them.

python scripts/figure.py --results demo/valley --output scripts/valley.jpg
"""

from __future__ import annotations

from pathlib import Path

import tyro
from PIL import Image

from nope_splat.io.images import find_photos

WIDTH = 1200
GAP = 6
NUM_PHOTOS = 6


def figure(results: Path, output: Path) -> None:
    """Write the picture: a strip of photographs; below, a held-out photograph beside its rendering.

    Args:
        results: Folder that `demo.sh` wrote.
        output: The picture.
    """
    photos = find_photos(results / "photos").photos
    pair = Image.open(sorted((results / "held-out").glob("eval_img_*.png"))[1]).convert("RGB")
    pair = pair.resize((WIDTH, round(pair.height * WIDTH / pair.width)), Image.Resampling.LANCZOS)
    small = (WIDTH - (NUM_PHOTOS - 1) * GAP) // NUM_PHOTOS
    strip_height = round(small * photos[0].height / photos[0].width)
    picture = Image.new("RGB", (WIDTH, strip_height + GAP + pair.height), "white")
    for place, photo in enumerate(photos[1 :: len(photos) // NUM_PHOTOS][:NUM_PHOTOS]):
        thumbnail = Image.open(photo.path).resize((small, strip_height), Image.Resampling.LANCZOS)
        picture.paste(thumbnail, (place * (small + GAP), 0))
    picture.paste(pair, (0, strip_height + GAP))
    picture.save(output, quality=88)


if __name__ == "__main__":
    tyro.cli(figure)
