"""What the user can choose about matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from nope_splat.io.images import ImageFile
from nope_splat.utils.device_defaults import ByDevice
from nope_splat.utils.ranges import COUNT, NOT_NEGATIVE, POSITIVE_SHARE

DUST3R_WEIGHTS = "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt"
"""The published weights, on huggingface.co."""


@dataclass(frozen=True)
class MatchingSettings:
    """How images are matched."""

    matcher: Literal["sift", "disk", "dust3r"] = "sift"
    """How matches are found. SIFT needs nothing. DISK with LightGlue, for changes of light and viewpoint that
    SIFT does not survive, needs `pip install kornia`, 50 MB of weights from the network (both Apache-2.0) and
    for speed a GPU. DUSt3R, for surfaces without texture, needs its package (`pip install --no-deps
    mini-dust3r roma`, `pip install beartype einops`), 2 GB of weights, see dust3r-weights (both for
    non-commercial use only, CC BY-NC-SA 4.0) and a GPU."""
    dust3r_weights: str = DUST3R_WEIGHTS
    """Weights for the matcher dust3r: a folder with config.json and model.safetensors, or a name on
    huggingface.co. The published ones are for non-commercial use only (CC BY-NC-SA 4.0, and the terms of the
    data that they were trained on)."""
    max_keypoints: Annotated[int, COUNT] = 8192
    """Keypoints per image: half of them the largest, the others the strongest of all its parts."""
    max_feature_size: Annotated[int, Ge(32)] = 1600
    """Longer side, in pixels, at which keypoints are sought; larger images are scaled down for it."""
    match_ratio: Annotated[float, POSITIVE_SHARE] = 0.8
    """A match must be closer than this times the second best match (Lowe's ratio)."""
    max_epipolar_error: Annotated[float, Interval(gt=0, le=100)] = 2.0
    """Largest distance of a match from the epipolar geometry of its pair, in pixels at the feature size."""
    min_matches: Annotated[int, Ge(8)] = 15
    """Pairs with fewer verified matches are not used."""
    pairs: Literal["exhaustive", "retrieval", "sequential"] | None = None
    """Which pairs of images are matched: all; for hundreds, by retrieval, those that look most alike (by
    their keypoints, nothing is downloaded) and those to which the matches of these lead on (DUSt3R: the most
    alike alone); or those that follow on each other by name, for the frames of a video. If not given, all
    pairs up to max-exhaustive-images, and retrieval beyond."""
    num_partners: Annotated[int, COUNT] = 20
    """Images that each one is matched with in sequence. Retrieval looks among so many of the most alike
    where matches lead no further, and has no limit where they do."""
    max_exhaustive_images: Annotated[int, NOT_NEGATIVE] = 100
    """Most images of which every pair is matched unless asked for; the time grows with their square."""
    device: Annotated[Literal["auto", "cpu"], ByDevice(cuda="auto", cpu="cpu")] = "auto"
    """Where descriptors are compared and networks run: "auto" is a GPU where there is one, unless the
    training runs on a CPU."""
    seed: Annotated[int, Interval(ge=0, le=1e9)] = 0
    """Seed of every random choice (RANSAC, and the vocabulary of retrieval)."""

    def choice_of_pairs(self, num_images: int) -> Literal["exhaustive", "retrieval", "sequential"]:
        """Which pairs of so many images are matched."""
        if self.pairs is not None:
            return self.pairs
        return "exhaustive" if num_images <= self.max_exhaustive_images else "retrieval"

    def feature_size(self, image: ImageFile) -> tuple[float, tuple[int, int]]:
        """At which size keypoints of an image are sought.

        Args:
            image: The image.

        Returns:
            Full-resolution pixels per pixel; width and height.
        """
        pixel_size = max(1.0, max(image.width, image.height) / self.max_feature_size)
        return pixel_size, (round(image.width / pixel_size), round(image.height / pixel_size))
