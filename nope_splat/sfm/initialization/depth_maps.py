"""Depth maps of single images, from pointmaps, a depth network or files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from nope_splat.depth import DepthMap, load_depth_maps
from nope_splat.io.images import ImageFile, ImageFolder
from nope_splat.matching.database import MatchDatabase, load_or_match, matches_key
from nope_splat.sfm.initialization.monocular_depth import MonocularDepthInitialization
from nope_splat.sfm.initialization.pointmap_fusion import fuse_pointmap_depths
from nope_splat.sfm.options import SfmOptions
from nope_splat.utils.cache import Cache


def image_depths(
    folder: ImageFolder, image_ids: Sequence[int], options: SfmOptions, cache_dir: Path | None
) -> dict[int, DepthMap]:
    """Load or predict the depth maps of selected images.

    The depth map of an image does not depend on images that are not selected.

    Args:
        folder: The images.
        image_ids: Indices of the selected images.
        options: Matcher, and source of the depth maps.
        cache_dir: Folder in which matches and depth maps are cached; None for no cache.

    Returns:
        Depth maps by image index. If the depth maps come from the matcher's pointmaps, images with too few
        valid points have no depth map.

    Raises:
        NopeSplatError: If there is no source of depth maps.
    """
    if options.matching.matcher == "dust3r":
        cache = Cache(cache_dir) if cache_dir else None
        key = matches_key(folder, options.matching)
        pointmaps = load_or_match(folder, options.matching, cache, key).pointmaps
        assert pointmaps is not None
        is_other = np.ones(len(folder.images), bool)
        is_other[list(image_ids)] = False
        return fuse_pointmap_depths(pointmaps.without(is_other))
    maps = load_depth_maps([folder.images[image_id] for image_id in image_ids], options.depth, cache_dir)
    return dict(zip(image_ids, maps, strict=True))


def images_that_need_depth(
    options: SfmOptions, folder: ImageFolder, held_out: Collection[str]
) -> list[ImageFile]:
    """List the training images whose depth maps must be loaded from files or predicted by a network.

    Args:
        options: Options of SfM.
        folder: The images.
        held_out: Names of images held out for evaluation.

    Returns:
        The images; empty if the initialization uses no depth maps, or takes them from pointmaps.
    """
    uses_depth = isinstance(options.initialization, MonocularDepthInitialization)
    if not uses_depth or options.matching.matcher == "dust3r":
        return []
    return [image for image in folder.images if image.name not in held_out]


def find_initial_depths(
    options: SfmOptions,
    folder: ImageFolder,
    held_out: Collection[str],
    matches: MatchDatabase,
    cache_dir: Path | None,
) -> dict[int, DepthMap] | None:
    """Get the depth maps for initialization by monocular depth: from pointmaps, a depth network or files.

    Args:
        options: Options of SfM.
        folder: The images.
        held_out: Names of images held out for evaluation.
        matches: Matches, with pointmaps if the matcher predicts them.
        cache_dir: Folder in which depth maps are cached; None for no cache.

    Returns:
        Depth maps of training images by image index; None if `options` select another initialization. With
        pointmaps, images without enough valid points are omitted.
    """
    if not isinstance(options.initialization, MonocularDepthInitialization):
        return None
    if matches.pointmaps is not None:
        is_held_out = np.isin([image.name for image in folder.images], list(held_out))
        return fuse_pointmap_depths(matches.pointmaps.without(is_held_out))
    images = images_that_need_depth(options, folder, held_out)
    index = {image.name: image_id for image_id, image in enumerate(folder.images)}
    depth_maps = load_depth_maps(images, options.depth, cache_dir)
    return {index[image.name]: depth_map for image, depth_map in zip(images, depth_maps, strict=True)}
