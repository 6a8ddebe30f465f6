"""Settings of image matching, and options of its stages."""

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
    min_gray_range: float = 96.0
    """Minimum range of the gray levels (0 to 255) of a photo, from the 0.5th to the 99.5th percentile. Photos
    with a smaller range are underexposed or hazy; their contrast is raised to this range, so that they get
    keypoints, too."""
    max_gain: float = 4.0
    """Maximum factor by which contrast is raised; a larger factor would turn noise into keypoints."""
    noise_diameter: float = 2.6
    """Diameter D, in pixels of the image in which keypoints are detected, in the model of the localization
    noise: the position of a keypoint of diameter d has a standard deviation proportional to
    sqrt(1 + (d / D)^2). The reprojection errors of four real and rendered scenes gave values from 2.5 to 2.7
    pixels."""
    num_grid_cells: int = 16
    """Number of grid cells along the longer image side. The strongest keypoints are selected from each cell
    in turn; more cells spread the keypoints more evenly."""


@dataclass(frozen=True)
class RetrievalOptions:
    """Options of image retrieval by VLAD descriptors."""

    min_similarity_sigmas: float = 3.0
    """Two images count as similar if their similarity exceeds this multiple of the standard deviation of the
    similarities of unrelated images."""
    max_num_expansions: int = 5
    """Maximum number of similar images whose VLAD descriptors are averaged with the VLAD descriptor of the
    query image (average query expansion)."""
    min_partner_ratio: float = 0.5
    """Minimum number of images with which each image is matched, as a fraction of `num_partners`. It applies
    even if fewer images count as similar: in small image sets, all images may be about equally similar, so
    that no pair is significantly more similar than others."""


@dataclass(frozen=True)
class TransitiveMatchingOptions:
    """Options of transitive matching, which selects image pairs in rounds by shared keypoints."""

    num_initial_partners: int = 4
    """Number of most similar images with which each image is matched in the first round."""
    max_frame_gap: int = 16
    """Maximum distance, in frames, of two frames of a video that are matched in the first round. The
    distances are 1, 2, 4, 8 and so on, counting only the frames that were chosen from the video."""
    min_num_matches: int = 60
    """Pairs with fewer verified matches are weak. If the pair of images A and B is weak, A is later matched
    by shared keypoints only with images that share more keypoints with A than B does; the same applies to B.
    Two images share a keypoint if both match the same keypoint of a third image."""
    min_num_partners: int = 6
    """Minimum number of verified pairs of an image. Until an image has this number of pairs, its weak pairs
    do not restrict with which images it is matched (see `min_num_matches`)."""


@dataclass(frozen=True)
class TwoViewGeometryOptions:
    """RANSAC options for the fundamental matrix and the homography of an image pair."""

    confidence: float = 0.9999
    """Probability of drawing at least one sample without outliers. Higher values need more RANSAC trials."""
    trial_multiplier: float = 3.0
    """Factor by which the theoretical number of RANSAC trials is multiplied (COLMAP's
    `dyn_num_trials_multiplier`). It is needed because noise makes some samples without outliers useless."""
    min_num_trials: int = 100
    """Minimum number of RANSAC trials for the fundamental matrix."""
    max_num_trials: int = 10_000
    """Maximum number of RANSAC trials for the fundamental matrix."""
    subset_size: int = 50
    """Number of matches in the subset on which RANSAC runs first. If nearly all of the subset are inliers,
    the subset determines the geometry as well as all matches do."""
    min_subset_inlier_ratio: float = 0.8
    """Minimum fraction of inliers in the subset at which RANSAC on the subset suffices; its geometry is then
    refined on all matches. If there are fewer inliers, RANSAC also runs on all matches."""
    min_num_subset_trials: int = 20
    """Minimum number of RANSAC trials on the subset. With fewer trials, all of them might fail by chance."""
    homography_subset_size: int = 100
    """Maximum number of inlier matches from which the homography is estimated."""
    max_num_homography_trials: int = 200
    """Maximum number of RANSAC trials for the homography. A homography that explains nearly all matches is
    found in few trials."""


@dataclass(frozen=True)
class StationaryOptions:
    """Options for finding image regions that do not move while the scene moves, such as a logo."""

    max_motion: float = 1.0
    """Maximum distance between the two keypoints of a stationary match, in pixels of the image in which
    keypoints are detected. Keypoints of a logo differ by a fraction of a pixel."""
    num_grid_cells: int = 48
    """Number of cells along the longer image side of the grid that represents stationary regions. More cells
    follow the outlines of the regions more closely."""
    min_num_pairs: int = 3
    """Minimum number of image pairs in which a grid cell must contain stationary matches. In a single pair,
    matches may be stationary by chance."""


@dataclass(frozen=True)
class InvertedMaskOptions:
    """Options for recognizing masks that hide the subject instead of its surroundings."""

    max_keypoint_share: float = 0.05
    """Masks seem to be inverted only if less than this fraction of all keypoints is in the used area, that
    is, outside the area that the masks hide."""
    max_density_ratio: float = 0.1
    """Masks seem to be inverted only if the density of keypoints (number per area) in the used area is less
    than this fraction of the density in the hidden area. With correct masks, even a small subject has about
    as much texture as its surroundings, so the ratio of the densities is near one."""


@dataclass(frozen=True)
class MirroringOptions:
    """Options for finding mirrored images.

    A flipped match is a match found after mirroring the SIFT descriptors of one image.
    """

    min_flipped_ratio: float = 3.0
    """A pair is evidence that exactly one of its images is mirrored only if it has at least this number of
    flipped matches (found after mirroring one image) per ordinary match."""
    flipped_weight: float = 1 / 6
    """Weight of a match found after mirroring one image (flipped match), relative to an ordinary match. The
    weight is small because symmetric objects have flipped matches in ordinary images, too: a pair of such
    images may have up to six times as many flipped matches as neighboring images have ordinary matches."""
    min_strong_matches: int = 50
    """Minimum number of matches of a strong pair. Images connected by strong pairs are not tested against
    each other, because either all of them are mirrored or none is."""
    min_strong_ratio: float = 1 / 3
    """A strong pair (see `min_strong_matches`) must also have at least this fraction of the number of matches
    of any other pair that contains one of its two images."""
    num_probe_keypoints: int = 400
    """Number of keypoints in the quick test of whether one image of a pair is mirrored: the largest keypoints
    of one image are mirrored and matched to the other image. Large keypoints are more likely to be detected
    in both images."""
    num_target_keypoints: int = 2048
    """Number of keypoints of the other image, the largest ones, to which the mirrored keypoints are matched
    in the quick test (see `num_probe_keypoints`)."""
    min_probe_ratio: float = 0.05
    """Minimum fraction of the mirrored keypoints that match in the quick test (see `num_probe_keypoints`);
    pairs with a smaller fraction are not tested further. In unrelated images, up to 4 percent match."""
    max_num_partners: int = 20
    """Maximum number of other images against which each image is tested for mirroring, evenly spaced in the
    image order. The limit makes the time proportional to the number of images."""


@dataclass(frozen=True)
class AmbiguityOptions:
    """Options for measuring how ambiguous the matches are."""

    min_contradicting_error_ratio: float = 3.0
    """Matches with an epipolar error above this multiple of `max_epipolar_error` contradict the epipolar
    geometry of their pair and may belong to a second motion."""
    min_second_motion_inlier_ratio: float = 0.5
    """A pair has a second motion only if at least this fraction of its contradicting matches (see
    `min_contradicting_error_ratio`) are inliers of a second epipolar geometry."""
    max_num_trials: int = 500
    """Number of RANSAC trials for the second motion. If half of the contradicting matches belong to the
    motion, it is found with a probability of 98 percent."""
    max_num_keypoints: int = 300
    """Approximate number of keypoints per image for which repetition is measured, by comparing them with all
    keypoints of the image. They are sampled evenly, and rounding may give up to twice this number."""
    similarity_quantile: float = 0.25
    """Threshold of the descriptor similarity at which a keypoint resembles another place in its image, as a
    quantile (0 to 1) of the similarities of the image's verified matches. Larger values find fewer
    repetitions."""
    min_distance: float = 24.0
    """Minimum distance between two places in an image that are compared to find repetition, in pixels of the
    image in which keypoints are detected."""


@dataclass(frozen=True)
class WideAngleOptions:
    """Options for recognizing wide-angle lenses by their distortion (see `geometry.division`)."""

    max_num_pairs: int = 8
    """Number of pairs with the most matches from which lenses are recognized."""
    max_inlier_coefficient: float = -0.05
    """Other coefficients of the division model are tried only if the median of the coefficients that fit the
    inliers of undistorted epipolar geometries is at most this value. The inliers of wide-angle images give
    values near zero, because matches that contradict a straight geometry are missing among them."""
    candidates: tuple[float, ...] = (-0.2, -0.3, -0.4, -0.5, -0.6, -0.7, -0.8, -0.9, -1.0, -1.1, -1.2)
    """Coefficients of the division model to try: from lenses with a field of view of 85 degrees across the
    diagonal to 200 degrees."""
    min_inlier_gain: float = 1.1
    """A lens is a wide-angle lens only if the best coefficient gives this factor more inliers than zero."""
    max_num_trials: int = 300
    """Maximum number of RANSAC trials for each pair and coefficient."""


@dataclass(frozen=True)
class PointmapOptions:
    """Options for matching a regular grid of pixels, the anchors, by pointmaps."""

    anchor_spacing: int = 12
    """Spacing of the anchors (the pixels that are matched), in pixels of the network's input image. Smaller
    values give more tracks."""
    min_confidence: float = 1.5
    """Minimum confidence of a valid pointmap point. The network's confidences start at one."""
    max_cycle_error: float = 1.5
    """Maximum distance, in pixels of the network's input image, between an anchor and the pixel that matches
    the anchor's match in the reverse direction. Anchors with a larger distance are not matched."""
    max_order_error: float = 2.0
    """Maximum distance, in pixels of the network's input image, between the two matches of an anchor that
    result from the image orders (i, j) and (j, i). Anchors with a larger distance are not matched."""
    plane_radius: int = 2
    """Radius, in pixels of the network's input image, of the window in which a plane is fitted to the points
    to get matches with sub-pixel accuracy."""


@dataclass(frozen=True)
class MatchingSettings:
    """Settings of image matching."""

    matcher: Literal["sift", "disk", "dust3r"] = "sift"
    """Method for finding matches. "sift" needs no other package. "disk" (DISK with LightGlue) handles larger
    changes of lighting and viewpoint than SIFT; it needs `pip install kornia`, downloads 50 MB of weights and
    is slow without a GPU; kornia and the weights are licensed under Apache-2.0. "dust3r" matches surfaces
    without texture; it needs the DUSt3R package (`pip install --no-deps mini-dust3r roma`, `pip install
    beartype einops safetensors huggingface_hub`), 2 GB of weights (see dust3r-weights) and, for acceptable
    speed, a GPU; DUSt3R and the weights are for non-commercial use only (CC BY-NC-SA 4.0)."""
    dust3r_weights: str = DUST3R_WEIGHTS
    """Weights for the matcher dust3r: a folder with config.json and model.safetensors, or a name on
    huggingface.co. The published weights are for non-commercial use only (CC BY-NC-SA 4.0, and the terms of
    the training data)."""
    max_keypoints: Annotated[int, COUNT] = 8192
    """Maximum number of keypoints per image. With SIFT, half of them are the largest keypoints, and the other
    half are the strongest keypoints of each image region. More keypoints give more tracks but take longer to
    match."""
    max_feature_size: Annotated[int, Ge(32)] = 1600
    """Longer image side, in pixels, at which keypoints are detected. Larger images are downscaled to this
    size first."""
    match_ratio: Annotated[float, POSITIVE_SHARE] = 0.8
    """Maximum ratio of the distances to the nearest and the second nearest descriptor (Lowe's ratio test).
    Smaller values keep fewer but more reliable matches. Only the matcher sift uses this ratio."""
    max_epipolar_error: Annotated[float, Interval(gt=0, le=100)] = 2.0
    """Maximum epipolar error of an inlier match, in pixels of the image in which keypoints are detected."""
    min_matches: Annotated[int, Ge(8)] = 15
    """Minimum number of inlier matches for a verified pair; pairs with fewer are dropped."""
    pairs: Literal["exhaustive", "retrieval", "sequential"] | None = None
    """Selection of the image pairs that are matched. "exhaustive": all pairs. "retrieval", for hundreds of
    images: each image with the most similar images, compared by their keypoints, and with neighboring frames
    of its video; then, except with dust3r, also pairs of images that were both matched to the same keypoints
    of a third image. "sequential": neighbors in the order of the file names. By default, exhaustive up to
    max-exhaustive-images, and retrieval for more images."""
    num_partners: Annotated[int, COUNT] = 20
    """Number of candidates with which each image may be matched. With sequential pairs, these are its
    neighbors in the order of the file names, half of them before and half after the image. With retrieval,
    these are the most similar images; in addition, images that match the same keypoints of a third image are
    matched."""
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
    """Options of transitive matching, which selects pairs of images that match the same keypoints of a third
    image."""
    two_view_geometry: Suppress[TwoViewGeometryOptions] = field(default_factory=TwoViewGeometryOptions)
    """RANSAC options of geometric verification."""
    stationary: Suppress[StationaryOptions] = field(default_factory=StationaryOptions)
    """Options for finding image regions that do not move while the scene moves."""
    inverted_masks: Suppress[InvertedMaskOptions] = field(default_factory=InvertedMaskOptions)
    """Options for recognizing inverted masks."""
    mirroring: Suppress[MirroringOptions] = field(default_factory=MirroringOptions)
    """Options for finding mirrored images."""
    ambiguity: Suppress[AmbiguityOptions] = field(default_factory=AmbiguityOptions)
    """Options for measuring how ambiguous the matches are."""
    wide_angle: Suppress[WideAngleOptions] = field(default_factory=WideAngleOptions)
    """Options for recognizing wide-angle lenses."""
    pointmaps: Suppress[PointmapOptions] = field(default_factory=PointmapOptions)
    """Options of matching by pointmaps, for the matcher dust3r."""

    def pair_selection(self, num_images: int) -> Literal["exhaustive", "retrieval", "sequential"]:
        """Return the method by which image pairs are selected; the default depends on the number of images.

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
            Factor by which the image is downscaled, at least 1, and the (width, height) of the downscaled
            image in pixels.
        """
        pixel_size = max(1.0, max(image.width, image.height) / self.max_feature_size)
        return pixel_size, (round(image.width / pixel_size), round(image.height / pixel_size))
