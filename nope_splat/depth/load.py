"""Loading of the depth maps of all images: from files, from the cache, or predicted by a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nope_splat.depth.depth_map import DepthMap
from nope_splat.depth.files import find_depth_file, read_depth_file
from nope_splat.depth.options import DepthSettings
from nope_splat.depth.predict import DepthNetwork
from nope_splat.errors import NopeSplatError
from nope_splat.io.fingerprint import content_key, file_hash
from nope_splat.io.images import ImageFile
from nope_splat.utils.cache import Cache
from nope_splat.utils.progress import progress_bar


def load_depth_maps(
    images: Sequence[ImageFile], settings: DepthSettings, cache_dir: Path | None = None
) -> list[DepthMap]:
    """Read the depth maps of all images from files, or predict them with a network.

    Args:
        images: The images.
        settings: Folder of depth files, or the network that predicts the maps.
        cache_dir: Folder in which predicted maps are cached, one file per image and network; None for no
            cache.

    Returns:
        One depth map per image, in the order of `images`.

    Raises:
        NopeSplatError: If a depth file is missing or damaged, if `settings.maps` is set but `settings.kind`
            is not, or if the network cannot be loaded.
    """
    if settings.maps is not None:
        kind = settings.kind
        if kind is None:
            raise NopeSplatError(
                "missing-option",
                f"the kind of depth in {settings.maps} is unknown; set depth.kind to metric, affine or"
                " disparity",
            )
        files = [find_depth_file(settings.maps, image) for image in images]
        return [read_depth_file(file, image, kind) for file, image in zip(files, images, strict=True)]

    cache, network, maps = Cache(cache_dir) if cache_dir else None, None, []
    for image in progress_bar(images, "Predicting depth maps"):
        stage = key = ""
        cached = None
        if cache:
            image_key = content_key([image], {})
            stage = f"depth-{image_key[:12]}"  # one stage per image, since the cache limits entries per stage
            key = content_key((), {"image": image_key, **depth_maps_key([image], settings)})
            cached = cache.load(stage, key, partial(_from_arrays, (image.width, image.height)))
        if cached is not None:
            maps.append(cached)
            continue
        network = network or DepthNetwork(settings)
        maps.append(network.predict(image))
        if cache:
            cache.store(stage, key, {"values": maps[-1].values, "kind": np.array(maps[-1].kind)})
    return maps


def _from_arrays(image_size: tuple[int, int], arrays: dict[str, NDArray[Any]]) -> DepthMap:
    """Create the depth map of an image from cached arrays.

    Args:
        image_size: Width and height of the full-resolution image in pixels.
        arrays: Values (H, W) under "values" and the kind of depth under "kind".
    """
    return DepthMap.of_whole_image(arrays["values"], arrays["kind"].item(), image_size)


def depth_maps_key(images: Sequence[ImageFile], settings: DepthSettings) -> dict[str, Any]:
    """Collect everything that depth maps depend on besides the image contents, for cache keys.

    Args:
        images: The images.
        settings: Folder of depth files, or the network that predicts the maps.

    Returns:
        Values that can be stored as JSON. With depth files: the hashes of the files and the kind of depth.
        With a network: the network's name; the names, sizes and modification times of its local files; and
        the kind of depth.
    """
    if settings.maps is None:
        folder = Path(settings.model)
        state = [
            [file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(folder.glob("*"))
        ]
        return {"model": settings.model, "files": state, "kind": settings.kind}
    files = [find_depth_file(settings.maps, image) for image in images]
    return {"maps": [file_hash(file) for file in files], "kind": settings.kind}
