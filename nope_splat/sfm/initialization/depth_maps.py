"""Depth of single photographs from whoever tells it: a matcher that makes pointmaps, a network, or files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nope_splat.depth import DepthMap, find_depths
from nope_splat.io.images import PhotoFolder
from nope_splat.matching.database import find_matches, matches_key
from nope_splat.sfm.initialization.pointmap_fusion import canonical_depths
from nope_splat.sfm.options import ReconstructionSettings
from nope_splat.utils.cache import Cache


def photo_depths(
    folder: PhotoFolder, photos: Sequence[int], settings: ReconstructionSettings, cache_dir: Path | None
) -> dict[int, DepthMap]:
    """Find the depth maps of some photographs; others have no say in them.

    Args:
        folder: The photographs.
        photos: Indices of those whose depth is wanted.
        settings: Matcher, and network or files that tell depth.
        cache_dir: Folder in which matches and depth maps are kept.

    Returns:
        Depth maps by index; pointmaps may leave some photographs out.

    Raises:
        UserError: If there is no depth to be had.
    """
    if settings.matcher == "dust3r":
        cache = Cache(cache_dir) if cache_dir else None
        pointmaps = find_matches(folder, settings, cache, matches_key(folder, settings)).pointmaps
        assert pointmaps is not None
        others = np.ones(len(folder.photos), bool)
        others[list(photos)] = False
        return canonical_depths(pointmaps.without(others))
    maps = find_depths([folder.photos[photo] for photo in photos], settings.depth, cache_dir)
    return dict(zip(photos, maps, strict=True))
