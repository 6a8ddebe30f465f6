"""The depth maps of images, from wherever the settings say, and from the cache where it has them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nope_splat.depth.depth_map import DepthMap
from nope_splat.depth.files import find_depth_file, read_depth_file
from nope_splat.depth.predict import DepthNetwork
from nope_splat.depth.settings import DepthSettings
from nope_splat.errors import NopeSplatError
from nope_splat.io.fingerprint import content_key, file_hash
from nope_splat.io.images import ImageFile
from nope_splat.utils.cache import Cache
from nope_splat.utils.progress import track


def find_depths(
    images: Sequence[ImageFile], settings: DepthSettings, cache_dir: Path | None = None
) -> list[DepthMap]:
    """Read the depth maps of images, or predict those that are not cached.

    Args:
        images: The images.
        settings: Where depth comes from.
        cache_dir: Folder in which predicted maps are kept, one file for each image and network.

    Returns:
        The map of each image.

    Raises:
        NopeSplatError: If a file is missing or damaged, or the network cannot be had.
    """
    if settings.maps is not None:
        kind = settings.kind
        if kind is None:
            raise NopeSplatError(
                "missing-option",
                f"it is not known what the depths in {settings.maps} are; say so with depth.kind (metric,"
                " affine or disparity)",
            )
        files = [find_depth_file(settings.maps, image) for image in images]
        return [read_depth_file(file, image, kind) for file, image in zip(files, images, strict=True)]

    cache, network, maps = Cache(cache_dir) if cache_dir else None, None, []
    for image in track(images, "Finding depth"):
        name = key = ""
        stored = None
        if cache:
            content = content_key([image], {})
            name = f"depth-{content[:12]}"  # a stage for each image: the cache keeps some of every stage
            key = content_key((), {"image": content, **depths_key([image], settings)})
            stored = cache.load(name, key, partial(_decode, (image.width, image.height)))
        if stored is not None:
            maps.append(stored)
            continue
        network = network or DepthNetwork(settings)
        maps.append(network.predict(image))
        if cache:
            cache.store(name, key, {"values": maps[-1].values, "kind": np.array(maps[-1].kind)})
    return maps


def _decode(size: tuple[int, int], arrays: dict[str, NDArray[Any]]) -> DepthMap:
    return DepthMap.covering(arrays["values"], arrays["kind"].item(), size)


def depths_key(images: Sequence[ImageFile], settings: DepthSettings) -> dict[str, Any]:
    """What a result that uses the depth of images depends on, besides the images.

    Args:
        images: The images.
        settings: Where depth comes from.

    Returns:
        As json can write it: what names the network, or the hashes of the files.
    """
    if settings.maps is None:
        folder = Path(settings.model)
        state = [
            [file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(folder.glob("*"))
        ]
        return {"model": settings.model, "files": state, "kind": settings.kind}
    files = [find_depth_file(settings.maps, image) for image in images]
    return {"maps": [file_hash(file) for file in files], "kind": settings.kind}
