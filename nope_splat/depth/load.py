"""Depth maps of images: from files, from the cache, or predicted by a network."""

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
    """Read the depth maps of images from files, or predict those that are not cached.

    Args:
        images: The images.
        settings: Source of the depth maps.
        cache_dir: Folder for caching predicted maps, in one file per image and network.

    Returns:
        The map of each image.

    Raises:
        NopeSplatError: If a file is missing or damaged, or the network cannot be loaded.
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
    for image in progress_bar(images, "Finding depth"):
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
    """Create the depth map of an image from cached arrays."""
    return DepthMap.of_whole_image(arrays["values"], arrays["kind"].item(), image_size)


def depth_maps_key(images: Sequence[ImageFile], settings: DepthSettings) -> dict[str, Any]:
    """Collect what depth maps depend on besides the images, for cache keys.

    Args:
        images: The images.
        settings: Source of the depth maps.

    Returns:
        Values for JSON: name, file sizes and file times of the network, or hashes of the depth files.
    """
    if settings.maps is None:
        folder = Path(settings.model)
        state = [
            [file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(folder.glob("*"))
        ]
        return {"model": settings.model, "files": state, "kind": settings.kind}
    files = [find_depth_file(settings.maps, image) for image in images]
    return {"maps": [file_hash(file) for file in files], "kind": settings.kind}
