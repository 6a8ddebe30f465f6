"""Settings of matching, and the options of its stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Interval
from tyro.conf import Suppress

from nope_splat.io.images import ImageFile
from nope_splat.utils.device_defaults import ByDevice
from nope_splat.utils.ranges import COUNT, NOT_NEGATIVE, POSITIVE_SHARE

DUST3R_WEIGHTS = "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt"
"""The published weights, on huggingface.co."""


@dataclass(frozen=True)
class SiftOptions:
    """Options of SIFT keypoint detection and selection."""

    contrast_threshold: float = 0.02
    """OpenCV's `contrastThreshold`; half its default, so that dim regions get keypoints too."""
    noise_diameter: float = 2.6
    """Keypoint diameter, in pixels of the searched image, at which the blur of the keypoint contributes as
    much localization noise as everything else. Fitted to the reprojection errors of four real and rendered
    scenes: 2.5 to 2.7 pixels in each."""
    num_grid_cells: int = 16
    """Grid cells along the longer side of the image. The strongest keypoints are taken from each cell in
    turn."""


@dataclass(frozen=True)
class RetrievalOptions:
    """Options of image retrieval by VLAD descriptors."""

    min_similarity_sigmas: float = 3.0
    """Two images are similar if their similarity exceeds this many standard deviations of the similarity of
    unrelated images."""
    max_num_expansions: int = 5
    """Maximum number of similar images averaged into a query (average query expansion)."""
    min_partner_ratio: float = 0.5
    """Fraction of `num_partners` that every image gets, however few similar images it has. In a small set all
    images are alike, and none stands out from chance."""


@dataclass(frozen=True)
class TransitiveMatchingOptions:
    """Options of transitive matching: selection of pairs by shared keypoints, in rounds."""

    num_initial_partners: int = 4
    """Number of most similar images that each image is matched with in the first round."""
    min_num_matches: int = 60
    """Verified matches of a strong pair. A weaker pair raises the score that further candidates must beat."""
    min_num_partners: int = 6
    """Verified partners below which an image keeps accepting candidates, however weak its pairs are."""


@dataclass(frozen=True)
class TwoViewGeometryOptions:
    """RANSAC options for the fundamental matrix and the homography of a pair."""

    confidence: float = 0.9999
    """Probability of drawing at least one sample without outliers."""
    trial_multiplier: float = 3.0
    """Factor on the theoretical number of trials (COLMAP's `dyn_num_trials_multiplier`): noise spoils some of
    the samples that hold only inliers."""
    min_num_trials: int = 100
    """Minimum number of RANSAC trials."""
    max_num_trials: int = 10_000
    """Maximum number of RANSAC trials."""
    subset_size: int = 50
    """Number of matches in the subset that RANSAC tries first. If nearly all of them are inliers, they
    determine the geometry as well as the full set does."""
    easy_inlier_ratio: float = 0.8
    """Inlier ratio of the subset at which its geometry is refined on all matches instead of estimated
    again."""
    min_num_subset_trials: int = 20
    """Minimum number of RANSAC trials on the subset; all of them rarely fail by chance."""
    homography_subset_size: int = 100
    """Number of matches from which the homography is estimated."""
    max_num_homography_trials: int = 200
    """Maximum number of trials for the homography. One that explains nearly all matches is found early."""


@dataclass(frozen=True)
class StationaryOptions:
    """Options for finding what stands still in front of a moving scene, such as a logo."""

    max_motion: float = 1.0
    """Maximum distance, in feature pixels, between the keypoints of a stationary match. The
    keypoints of a logo scatter by a fraction of a pixel."""
    num_grid_cells: int = 48
    """Grid cells along the longer side of the image."""
    min_num_pairs: int = 3
    """Number of pairs in which a cell must contain stationary matches; one may stand still by chance."""


@dataclass(frozen=True)
class MirroringOptions:
    """Options for finding mirrored images by flipped descriptors."""

    min_ratio: float = 3.0
    """Smallest number of flipped matches per ordinary match of a pair of opposite hands."""
    flipped_weight: float = 1 / 6
    """Weight of a flipped match, where an ordinary match has weight 1. Symmetric things match their mirror
    images without being mirrored. Pairs of neighboring images of them, though, have more than a sixth as many
    ordinary matches as the most similar mirror images have flipped ones."""
    min_strong_matches: int = 50
    """Smallest number of matches of a strong pair. Images that strong pairs connect are not tested."""
    min_strong_ratio: float = 1 / 3
    """Smallest number of matches of a strong pair, as a share of those of the best pair of either image."""
    num_probes: int = 400
    """Number of keypoints of an image, the largest ones, that are flipped for a test; larger ones are found
    again more often."""
    num_probed: int = 2048
    """Number of keypoints of the other image, the largest ones, that they are compared with."""
    min_probe_ratio: float = 0.05
    """Smallest share of the flipped keypoints that must match; of unrelated images, up to 4 % match."""
    max_num_partners: int = 20
    """Number of other images, evenly spaced in the order of the images, that each image is tested with, so
    that the time grows linearly with the number of images."""


@dataclass(frozen=True)
class AmbiguityOptions:
    """Options for measuring how ambiguous matches are."""

    min_contradiction: float = 3.0
    """Minimum epipolar error of a match of a second motion, as a multiple of the largest error of an
    inlier."""
    min_second_inlier_ratio: float = 0.5
    """Minimum share of the contradicting matches that must agree with the second motion."""
    max_num_trials: int = 500
    """Number of RANSAC trials for the second motion; half of the matches are found with 99 % probability."""
    max_num_keypoints: int = 300
    """Number of keypoints of an image that are compared with the others of the same image."""
    similarity_quantile: float = 0.25
    """Share of the matches with other images that may look less similar than a repeated keypoint."""
    min_distance: float = 24.0
    """Minimum distance, in feature pixels, of places that are compared."""


@dataclass(frozen=True)
class PointmapOptions:
    """Options for matching a regular grid of pixels, the anchors, by their pointmaps."""

    anchor_spacing: int = 12
    """Pixels between anchors."""
    min_confidence: float = 1.5
    """Smallest confidence (the network's scale starts at one) of a valid point."""
    max_cycle_error: float = 1.5
    """Maximum distance, in pixels, between an anchor and its match mapped back to the anchor's image."""
    max_order_error: float = 2.0
    """Maximum distance, in pixels, between the matches from the two orders of a pair."""
    plane_radius: int = 2
    """Radius, in pixels, of the window to which a plane is fitted for sub-pixel positions."""


@dataclass(frozen=True)
class MatchingSettings:
    """Settings of image matching."""

    matcher: Literal["sift", "disk", "dust3r"] = "sift"
    """How matches are found. "sift" needs nothing else. "disk" (DISK with LightGlue) handles changes of light
    and viewpoint that defeat SIFT; it needs `pip install kornia`, 50 MB of weights from the network (both
    Apache-2.0) and, for speed, a GPU. "dust3r" matches surfaces without texture; it needs its package (`pip
    install --no-deps mini-dust3r roma`, `pip install beartype einops`), 2 GB of weights, see dust3r-weights
    (both for non-commercial use only, CC BY-NC-SA 4.0) and a GPU."""
    dust3r_weights: str = DUST3R_WEIGHTS
    """Weights for the matcher dust3r: a folder with config.json and model.safetensors, or a name on
    huggingface.co. The published ones are for non-commercial use only (CC BY-NC-SA 4.0, and the terms of the
    data that they were trained on)."""
    max_keypoints: Annotated[int, COUNT] = 8192
    """Maximum number of keypoints per image: half are the largest, the rest the strongest of every region."""
    max_feature_size: Annotated[int, Ge(32)] = 1600
    """Longer side, in pixels, at which keypoints are detected; larger images are downscaled first."""
    match_ratio: Annotated[float, POSITIVE_SHARE] = 0.8
    """Maximum ratio of the distances to the nearest and the second nearest descriptor (Lowe's ratio test)."""
    max_epipolar_error: Annotated[float, Interval(gt=0, le=100)] = 2.0
    """Maximum epipolar error of an inlier match, in feature pixels."""
    min_matches: Annotated[int, Ge(8)] = 15
    """Minimum number of verified matches of a pair."""
    pairs: Literal["exhaustive", "retrieval", "sequential"] | None = None
    """Which pairs of images are matched. "exhaustive": all pairs. "retrieval", for hundreds of images: the
    most similar images (judged by their keypoints, nothing is downloaded), then the pairs that share matches
    through a third image (with DUSt3R, the most similar images only). "sequential", for video frames:
    neighbors in the order of the file names. By default, exhaustive up to max-exhaustive-images, and
    retrieval beyond."""
    num_partners: Annotated[int, COUNT] = 20
    """Number of neighbors that each image is matched with in sequential matching. In retrieval, the number of
    most similar images considered once shared matches lead to no new pairs."""
    max_exhaustive_images: Annotated[int, NOT_NEGATIVE] = 100
    """Up to this many images, all pairs are matched by default; the time grows with the square of the
    number."""
    device: Annotated[Literal["auto", "cpu"], ByDevice(cuda="auto", cpu="cpu")] = "auto"
    """Device for comparing descriptors and running networks. "auto" uses a GPU if there is one, unless the
    training runs on a CPU."""
    seed: Annotated[int, Interval(ge=0, le=1e9)] = 0
    """Seed of all random choices (RANSAC and the retrieval vocabulary)."""
    sift: Suppress[SiftOptions] = field(default_factory=SiftOptions)
    """Options of the SIFT detector."""
    retrieval: Suppress[RetrievalOptions] = field(default_factory=RetrievalOptions)
    """Options of image retrieval."""
    transitive: Suppress[TransitiveMatchingOptions] = field(default_factory=TransitiveMatchingOptions)
    """Options of transitive matching, which follows retrieval."""
    two_view_geometry: Suppress[TwoViewGeometryOptions] = field(default_factory=TwoViewGeometryOptions)
    """Options of geometric verification."""
    stationary: Suppress[StationaryOptions] = field(default_factory=StationaryOptions)
    """Options for finding what stands still in front of a moving scene."""
    mirroring: Suppress[MirroringOptions] = field(default_factory=MirroringOptions)
    """Options for finding mirrored images."""
    ambiguity: Suppress[AmbiguityOptions] = field(default_factory=AmbiguityOptions)
    """Options for measuring how ambiguous matches are."""
    pointmaps: Suppress[PointmapOptions] = field(default_factory=PointmapOptions)
    """Options of matching by pointmaps."""

    def pair_selection(self, num_images: int) -> Literal["exhaustive", "retrieval", "sequential"]:
        """Return how the pairs of a set of images are selected.

        Args:
            num_images: Number of images in the set.
        """
        if self.pairs is not None:
            return self.pairs
        return "exhaustive" if num_images <= self.max_exhaustive_images else "retrieval"

    def feature_size(self, image: ImageFile) -> tuple[float, tuple[int, int]]:
        """Compute the size at which keypoints of an image are detected.

        Args:
            image: The image.

        Returns:
            Full-resolution pixels per pixel, and (width, height) at that size.
        """
        pixel_size = max(1.0, max(image.width, image.height) / self.max_feature_size)
        return pixel_size, (round(image.width / pixel_size), round(image.height / pixel_size))
