"""Cache of finished reconstructions on disk, with keys that depend on images and options."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nope_splat.depth import depth_maps_key
from nope_splat.io.fingerprint import content_key
from nope_splat.io.images import ImageFolder
from nope_splat.matching.database import matches_key
from nope_splat.scene.consistency import consistent_reconstruction
from nope_splat.scene.reconstruction import Reconstruction
from nope_splat.sfm.initialization.depth_maps import images_that_need_depth
from nope_splat.sfm.known_cameras import KnownCameras
from nope_splat.sfm.options import SfmOptions
from nope_splat.utils.cache import Cache

logger = logging.getLogger(__name__)

STAGE = "scene"


@dataclass(frozen=True)
class ResultCache:
    """Cache of matches and reconstructions, with the keys for one image folder and its options."""

    cache: Cache | None
    """Cache on disk; None if caching is disabled."""
    matches_key: str
    """Cache key of the verified matches."""
    key: str
    """Cache key of the reconstruction."""

    @classmethod
    def open(
        cls,
        cache_dir: Path | None,
        folder: ImageFolder,
        held_out: Sequence[str],
        options: SfmOptions,
        known_cameras: KnownCameras | None,
    ) -> ResultCache:
        """Open the cache and compute the keys of matches and reconstruction.

        Args:
            cache_dir: Folder of the cache; None disables caching.
            folder: The images.
            held_out: Names of images held out for evaluation.
            options: Options of SfM.
            known_cameras: Known cameras; None without known cameras. The key depends on their poses and
                intrinsics, not on the path of the file.
        """
        if cache_dir is None:
            return cls(None, "", "")
        key_of_matches = matches_key(folder, options.matching)
        need_depth = images_that_need_depth(options, folder, held_out)
        values: dict[str, Any] = {
            "mapper": asdict(options.mapper),
            "camera_per": options.camera_per,
            "initial_focal": options.initial_focal,
            "initialization": [type(options.initialization).__name__, asdict(options.initialization)],
            "registration": [type(options.registration).__name__, asdict(options.registration)],
            "depth": depth_maps_key(need_depth, options.depth) if need_depth else None,
        }
        if known_cameras is not None:
            values["initialization"] = known_cameras.to_lists()
        key = content_key((), {"matches": key_of_matches, "held_out": sorted(held_out), "options": values})
        return cls(Cache(cache_dir), key_of_matches, key)

    def load(self) -> Reconstruction | None:
        """Load the reconstruction from the cache; None if it is not in the cache."""
        if self.cache is None:
            return None
        reconstruction = self.cache.load(STAGE, self.key, consistent_reconstruction)
        if reconstruction is not None:
            logger.info("Using the cached reconstruction.")
        return reconstruction

    def store(self, reconstruction: Reconstruction) -> None:
        """Store the reconstruction in the cache, unless caching is disabled."""
        if self.cache is not None:
            self.cache.store(STAGE, self.key, reconstruction.to_arrays())
