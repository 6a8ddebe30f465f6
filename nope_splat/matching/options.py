"""Settings of image matching, and options of its stages.

"Feature pixels" are the pixels of the image in which keypoints are detected, which may be downscaled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Interval
from tyro.conf import Suppress

from nope_splat.io.images import ImageFile
from nope_splat.utils.device_defaults import ByDevice
from nope_splat.utils.ranges import COUNT, NOT_NEGATIVE, POSITIVE_SHARE

DUST3R_WEIGHTS = "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt"
"""Name of DUSt3R's published weights on huggingface.co."""


@dataclass(frozen=True)
class SiftOptions:
    """Options for detecting and selecting SIFT keypoints."""

    contrast_threshold: float = 0.02
    """OpenCV's `contrastThreshold`: smallest contrast of a keypoint. The default is half of OpenCV's default,
    so that dim regions also get keypoints."""
    noise_diameter: float = 2.6
    """Keypoint diameter, in feature pixels, at which the blur of the keypoint contributes as much
    localization noise as all other sources together. Larger keypoints get a larger standard deviation. Fitted
    to the reprojection errors of four real and rendered scenes, which gave 2.5 to 2.7 pixels each."""
    num_grid_cells: int = 16
    """Number of grid cells along the longer image side. The strongest keypoints are selected from each cell
    in turn; more cells spread the keypoints more evenly."""


@dataclass(frozen=True)
class RetrievalOptions:
    """Options of image retrieval by VLAD descriptors."""

    min_similarity_sigmas: float = 3.0
    """Minimum similarity of two similar images, in standard deviations of the similarity of unrelated
    images."""
    max_num_expansions: int = 5
    """Maximum number of similar images whose descriptors are averaged into a query (average query
    expansion)."""
    min_partner_ratio: float = 0.5
    """Minimum number of partners of each image, as a fraction of `num_partners`, even if fewer images are
    similar. In small sets, all images are alike and none is significantly similar."""


@dataclass(frozen=True)
class TransitiveMatchingOptions:
    """Options of transitive matching, which selects image pairs in rounds by shared keypoints."""

    num_initial_partners: int = 4
    """Number of most similar images with which each image is matched in the first round."""
    min_num_matches: int = 60
    """Minimum number of verified matches of a strong pair. After a weaker pair, further candidates of its
    images must share more keypoints than this pair did."""
    min_num_partners: int = 6
    """Number of verified pairs of an image below which weak pairs do not restrict its further candidates."""


@dataclass(frozen=True)
class TwoViewGeometryOptions:
    """RANSAC options for the fundamental matrix and the homography of an image pair."""

    confidence: float = 0.9999
    """Probability of drawing at least one sample without outliers. Higher values need more RANSAC trials."""
    trial_multiplier: float = 3.0
    """Factor on the theoretical number of RANSAC trials (COLMAP's `dyn_num_trials_multiplier`), because noise
    spoils some samples without outliers."""
    min_num_trials: int = 100
    """Minimum number of RANSAC trials for the fundamental matrix."""
    max_num_trials: int = 10_000
    """Maximum number of RANSAC trials for the fundamental matrix."""
    subset_size: int = 50
    """Number of matches in the subset on which RANSAC is tried first. If nearly all of them are inliers, the
    subset determines the geometry as well as all matches do."""
    easy_inlier_ratio: float = 0.8
    """Minimum inlier ratio of the subset at which the geometry of the subset is refined on all matches. Below
    this ratio, RANSAC runs on all matches."""
    min_num_subset_trials: int = 20
    """Minimum number of RANSAC trials on the subset. With fewer trials, all of them might fail by chance."""
    homography_subset_size: int = 100
    """Number of inlier matches in the subset from which the homography is estimated."""
    max_num_homography_trials: int = 200
    """Maximum number of RANSAC trials for the homography. A homography that explains nearly all matches is
    found in few trials."""


@dataclass(frozen=True)
class StationaryOptions:
    """Options for finding image regions that do not move while the scene moves, such as a logo."""

    max_motion: float = 1.0
    """Maximum distance, in feature pixels, between the two keypoints of a stationary match. Keypoints of a
    logo differ by a fraction of a pixel."""
    num_grid_cells: int = 48
    """Number of grid cells along the longer image side, into which stationary regions are divided."""
    min_num_pairs: int = 3
    """Minimum number of image pairs in which a grid cell must contain stationary matches. In a single pair,
    matches may be stationary by chance."""


@dataclass(frozen=True)
class MirroringOptions:
    """Options for finding mirrored images.

    A flipped match is a match of two images after the SIFT descriptors of one image were mirrored.
    """

    min_ratio: float = 3.0
    """Minimum ratio of flipped to ordinary matches for a pair of which one image is mirrored."""
    flipped_weight: float = 1 / 6
    """Weight of a flipped match as evidence, relative to an ordinary match. Symmetric objects match their
    mirror images without being mirrored; a pair of neighboring images of such an object has more than a sixth
    as many ordinary matches as the most similar mirror images have flipped matches."""
    min_strong_matches: int = 50
    """Minimum number of matches of a strong pair. Images connected by strong pairs are not tested for
    mirroring against each other."""
    min_strong_ratio: float = 1 / 3
    """Minimum number of matches of a strong pair, as a fraction of the number of matches of the best pair of
    either image."""
    num_probes: int = 400
    """Number of keypoints of an image, the largest ones, that are flipped and matched to another image for a
    quick test. Large keypoints are found again more often."""
    num_probed: int = 2048
    """Number of keypoints of the other image, the largest ones, to which the flipped keypoints are
    matched."""
    min_probe_ratio: float = 0.05
    """Minimum fraction of the flipped keypoints that must match to continue with a pair. In unrelated images,
    up to 4 % match."""
    max_num_partners: int = 20
    """Maximum number of other images with which each image is tested, evenly spaced in the image order. The
    limit makes the time proportional to the number of images."""


@dataclass(frozen=True)
class AmbiguityOptions:
    """Options for measuring how ambiguous the matches are."""

    min_contradiction: float = 3.0
    """Minimum epipolar error of a match that may belong to a second motion, as a multiple of
    `max_epipolar_error`."""
    min_second_inlier_ratio: float = 0.5
    """Minimum fraction of the contradicting matches that must be inliers of the second motion."""
    max_num_trials: int = 500
    """Number of RANSAC trials for the second motion. A motion of half of the matches is found with 99 %
    probability."""
    max_num_keypoints: int = 300
    """Maximum number of keypoints of an image that are sampled to measure repetition within the image."""
    similarity_quantile: float = 0.25
    """Quantile of the descriptor similarities of an image's verified matches. A keypoint repeats if another
    place in the same image is at least this similar; larger values find fewer repetitions."""
    min_distance: float = 24.0
    """Minimum distance, in feature pixels, between two places in an image that are compared."""


@dataclass(frozen=True)
class PointmapOptions:
    """Options for matching a regular grid of pixels, the anchors, by pointmaps."""

    anchor_spacing: int = 12
    """Spacing of the anchors, in pixels of the network's input image. Smaller values give more tracks."""
    min_confidence: float = 1.5
    """Minimum confidence of a valid pointmap point. The network's confidences start at one."""
    max_cycle_error: float = 1.5
    """Maximum distance, in pixels of the input image, between an anchor and its match mapped back to the
    anchor's image."""
    max_order_error: float = 2.0
    """Maximum distance, in pixels of the input image, between the two matches of an anchor that the network
    gives for the image orders (i, j) and (j, i). Anchors beyond it are not matched."""
    plane_radius: int = 2
    """Radius, in pixels of the input image, of the window in which a plane is fitted to the points for
    sub-pixel positions."""


@dataclass(frozen=True)
class MatchingSettings:
    """Settings of image matching."""

    matcher: Literal["sift", "disk", "dust3r"] = "sift"
    """Method for finding matches. "sift" needs no other package. "disk" (DISK with LightGlue) handles larger
    changes of light and viewpoint than SIFT; it needs `pip install kornia`, 50 MB of weights that are
    downloaded (both Apache-2.0) and, for speed, a GPU. "dust3r" matches surfaces without texture; it needs
    the DUSt3R package (`pip install --no-deps mini-dust3r roma`, `pip install beartype einops`), 2 GB of
    weights, see dust3r-weights (both for non-commercial use only, CC BY-NC-SA 4.0) and a GPU."""
    dust3r_weights: str = DUST3R_WEIGHTS
    """Weights for the matcher dust3r: a folder with config.json and model.safetensors, or a name on
    huggingface.co. The published weights are for non-commercial use only (CC BY-NC-SA 4.0, and the terms of
    the training data)."""
    max_keypoints: Annotated[int, COUNT] = 8192
    """Maximum number of keypoints per image. Half of them are the largest keypoints, the others are the
    strongest of each image region. More keypoints give more tracks but take longer to match."""
    max_feature_size: Annotated[int, Ge(32)] = 1600
    """Longer image side, in pixels, at which keypoints are detected. Larger images are downscaled to this
    size first."""
    match_ratio: Annotated[float, POSITIVE_SHARE] = 0.8
    """Maximum ratio of the distances to the nearest and the second nearest descriptor (Lowe's ratio test).
    Smaller values keep fewer but more reliable matches."""
    max_epipolar_error: Annotated[float, Interval(gt=0, le=100)] = 2.0
    """Maximum epipolar error of an inlier match, in pixels of the image in which keypoints are detected."""
    min_matches: Annotated[int, Ge(8)] = 15
    """Minimum number of inlier matches for a verified pair; pairs with fewer are dropped."""
    pairs: Literal["exhaustive", "retrieval", "sequential"] | None = None
    """Selection of the image pairs that are matched. "exhaustive": all pairs. "retrieval", for hundreds of
    images: each image with the most similar images (compared by their keypoints, without a download), then
    pairs that share matches through a third image (not with dust3r). "sequential", for video frames:
    neighbors in the order of the file names. By default, exhaustive up to max-exhaustive-images, and
    retrieval for more images."""
    num_partners: Annotated[int, COUNT] = 20
    """With sequential pairs, the number of neighbors with which each image is matched. With retrieval, the
    number of most similar images considered for each image once shared matches give no new pairs."""
    max_exhaustive_images: Annotated[int, NOT_NEGATIVE] = 100
    """Maximum number of images for which all pairs are matched by default. The time for all pairs grows with
    the square of the number of images."""
    device: Annotated[Literal["auto", "cpu"], ByDevice(cuda="auto", cpu="cpu")] = "auto"
    """Device for comparing descriptors and running networks. "auto" uses a GPU if there is one, unless the
    training runs on a CPU; "cpu" always uses the CPU."""
    seed: Annotated[int, Interval(ge=0, le=1e9)] = 0
    """Seed of all random choices in matching (RANSAC and the retrieval vocabulary)."""
    sift: Suppress[SiftOptions] = field(default_factory=SiftOptions)
    """Options for detecting and selecting SIFT keypoints."""
    retrieval: Suppress[RetrievalOptions] = field(default_factory=RetrievalOptions)
    """Options of image retrieval, which finds similar images."""
    transitive: Suppress[TransitiveMatchingOptions] = field(default_factory=TransitiveMatchingOptions)
    """Options of transitive matching, which selects pairs of images that share matches through a third
    image."""
    two_view_geometry: Suppress[TwoViewGeometryOptions] = field(default_factory=TwoViewGeometryOptions)
    """RANSAC options of geometric verification."""
    stationary: Suppress[StationaryOptions] = field(default_factory=StationaryOptions)
    """Options for finding image regions that do not move while the scene moves."""
    mirroring: Suppress[MirroringOptions] = field(default_factory=MirroringOptions)
    """Options for finding mirrored images."""
    ambiguity: Suppress[AmbiguityOptions] = field(default_factory=AmbiguityOptions)
    """Options for measuring how ambiguous the matches are."""
    pointmaps: Suppress[PointmapOptions] = field(default_factory=PointmapOptions)
    """Options of matching by pointmaps, for the matcher dust3r."""

    def pair_selection(self, num_images: int) -> Literal["exhaustive", "retrieval", "sequential"]:
        """Return the method by which pairs of images are selected, resolving the default.

        Args:
            num_images: Number of images in the set.
        """
        if self.pairs is not None:
            return self.pairs
        return "exhaustive" if num_images <= self.max_exhaustive_images else "retrieval"

    def feature_size(self, image: ImageFile) -> tuple[float, tuple[int, int]]:
        """Compute the image size at which keypoints are detected.

        Args:
            image: The image.

        Returns:
            Full-resolution pixels per feature pixel, and the (width, height) of the image in feature pixels.
        """
        pixel_size = max(1.0, max(image.width, image.height) / self.max_feature_size)
        return pixel_size, (round(image.width / pixel_size), round(image.height / pixel_size))
