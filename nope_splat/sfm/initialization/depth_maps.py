"""Depth of single images from whoever tells it: a matcher that makes pointmaps, a network, or files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nope_splat.depth import DepthMap, load_depth_maps
from nope_splat.io.images import ImageFolder
from nope_splat.matching.database import load_or_match, matches_key
from nope_splat.sfm.initialization.pointmap_fusion import fuse_pointmap_depths
from nope_splat.sfm.options import ReconstructionSettings
from nope_splat.utils.cache import Cache


def image_depths(
    folder: ImageFolder, image_ids: Sequence[int], settings: ReconstructionSettings, cache_dir: Path | None
) -> dict[int, DepthMap]:
    """Find the depth maps of some images; others have no say in them.

    Args:
        folder: The images.
        image_ids: Indices of those whose depth is wanted.
        settings: Matcher, and network or files that tell depth.
        cache_dir: Folder in which matches and depth maps are kept.

    Returns:
        Depth maps by index; pointmaps may leave some images out.

    Raises:
        NopeSplatError: If there is no depth to be had.
    """
    if settings.matcher == "dust3r":
        cache = Cache(cache_dir) if cache_dir else None
        pointmaps = load_or_match(folder, settings, cache, matches_key(folder, settings)).pointmaps
        assert pointmaps is not None
        others = np.ones(len(folder.images), bool)
        others[list(image_ids)] = False
        return fuse_pointmap_depths(pointmaps.without(others))
    maps = load_depth_maps([folder.images[image] for image in image_ids], settings.depth, cache_dir)
    return dict(zip(image_ids, maps, strict=True))
