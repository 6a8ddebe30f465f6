"""Matching by DUSt3R (Wang et al., CVPR 2024), for textureless surfaces and for small image sets.

The network comes from the installed package `dust3r` or `mini_dust3r`. Both packages and the weights are
licensed for non-commercial use only (CC BY-NC-SA 4.0), so neither package is a dependency.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nope_splat.errors import NopeSplatError
from nope_splat.io.images import ImageFile, read_image, read_mask
from nope_splat.matching.options import DUST3R_WEIGHTS, MatchingSettings
from nope_splat.matching.pointmaps import (
    Pointmap,
    average_matches,
    build_anchor_tracks,
    match_anchors,
)
from nope_splat.matching.verification import verify_pair
from nope_splat.scene.features import Keypoints, PairMatches, PairPointmaps, Pointmaps
from nope_splat.utils.device_defaults import network_device
from nope_splat.utils.progress import progress_bar
from nope_splat.utils.typing import Array

PATCH_SIZE = 16
"""Side length, in pixels, of the network's square patches. Width and height of the network's input must be
multiples of this length."""
LONGER_SIDE = 512
"""Longer side, in pixels, of the network's input images. The network was trained for this size."""
STORED_STRIDE = 8
"""Spacing, in pixels of the network's input image, of the pointmap points that are stored."""
MEMORY_PER_PAIR = 2**30
"""Upper bound of the GPU memory, in bytes, that a batch needs for each of its pairs."""
MAX_BATCH_SIZE = 16
"""Maximum number of pairs decoded in one batch. Larger batches are not faster."""
INSTALL = (
    "pip install --no-deps mini-dust3r roma",
    "pip install beartype einops safetensors huggingface_hub",
)
"""Commands that install the network in nerfstudio's environment. Installing the declared dependencies of the
network would replace packages of nerfstudio."""

Prediction = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Output of the network for one image of a pair: points (H, W, 3) and confidence (H, W)."""
EncodedImage = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Output of the encoder for one image: patch features, patch positions and image shape (height, width), each
with a batch axis."""


@dataclass(frozen=True)
class NetworkInput:
    """Preparation of an image for the network: the image is resized, then center-cropped to whole patches."""

    size: tuple[int, int]
    """Width and height of the resized image in pixels."""
    crop_offset: tuple[int, int]
    """Number of columns cropped at the left and of rows cropped at the top."""
    shape: tuple[int, int]
    """Height and width of the cropped image in pixels."""
    scale: tuple[float, float]
    """Full-resolution pixels per pixel of the resized image, in x and y."""

    @classmethod
    def from_image(cls, image: ImageFile) -> NetworkInput:
        """Compute the resizing and the crop of an image for the network's input.

        Args:
            image: The image.
        """
        shrink = LONGER_SIDE / max(image.width, image.height)
        size = (max(round(image.width * shrink), PATCH_SIZE), max(round(image.height * shrink), PATCH_SIZE))
        width, height = (side // PATCH_SIZE * PATCH_SIZE for side in size)
        crop_offset = ((size[0] - width) // 2, (size[1] - height) // 2)
        return cls(size, crop_offset, (height, width), (image.width / size[0], image.height / size[1]))

    def stored_grid(self) -> tuple[Array, Array]:
        """Compute the grid of the stored pointmap points in full-resolution pixels.

        Returns:
            Spacing of the points, x then y (2,); and upper left corner of the grid, x then y (2,), which is
            half a spacing to the left of the first point and above it.
        """
        # The center of STORED_STRIDE pixels is a pixel corner; the stored point is half a pixel further.
        return np.multiply(self.scale, float(STORED_STRIDE)), self.to_image(np.array([0.5, 0.5]))

    def to_image(self, xy: Array) -> Array:
        """Convert positions from pixels of the cropped image to full-resolution pixels. (n, 2) -> (n, 2)."""
        return (xy + self.crop_offset) * self.scale

    def crop(self, values: NDArray[Any]) -> NDArray[Any]:
        """Crop an array that has one entry per pixel of the resized image. (h, w, ...) -> (H, W, ...)."""
        (column, row), (height, width) = self.crop_offset, self.shape
        return values[row : row + height, column : column + width]


def match_by_dust3r(
    images: Sequence[ImageFile], pairs: Sequence[tuple[int, int]], settings: MatchingSettings
) -> tuple[list[Keypoints], list[PairMatches], Pointmaps]:
    """Match images by tracking a grid of anchor pixels through DUSt3R's pointmaps.

    Args:
        images: The images; masked pixels are not used.
        pairs: Image indices of each pair on which the network runs, the smaller index first.
        settings: Weights, pointmap options, and verification options.

    Returns:
        The track positions in each image as keypoints without descriptors; the verified pairs, with the
        smaller image index first; and the pointmaps, subsampled by `STORED_STRIDE`.

    Raises:
        NopeSplatError: If the package or the weights are missing.
    """
    inputs = [NetworkInput.from_image(image) for image in images]
    masks = [_read_mask(image, geometry) for image, geometry in zip(images, inputs, strict=True)]
    options = settings.pointmaps
    matches: dict[tuple[int, int], Array] = {}
    stored: list[PairPointmaps] = []

    def pointmaps_of(order: tuple[int, int], predictions: Sequence[Prediction]) -> list[Pointmap]:
        return [
            Pointmap.from_prediction(*prediction, options, masks[image_id])
            for image_id, prediction in zip(order, predictions, strict=True)
        ]

    predictions = predict(images, inputs, pairs, settings)
    for (first, second), (forward, backward) in zip(
        pairs, progress_bar(predictions, "Matching photos", len(pairs)), strict=True
    ):
        maps = pointmaps_of((first, second), forward)
        reverse_maps = pointmaps_of((second, first), backward)
        for source, target in ((0, 1), (1, 0)):
            matches[(first, second)[source], (first, second)[target]] = average_matches(
                match_anchors(maps[source], maps[target], options),
                match_anchors(reverse_maps[target], reverse_maps[source], options),
                options.max_order_error,
            )
        stored.append(_subsample(first, second, maps, forward))
        stored.append(_subsample(second, first, reverse_maps, backward))
    tracks, positions = build_anchor_tracks(
        matches, [geometry.shape for geometry in inputs], options.anchor_spacing
    )
    keypoints = [
        Keypoints(geometry.to_image(xy), np.zeros((len(xy), 0), np.float32), max(geometry.scale))
        for geometry, xy in zip(inputs, positions, strict=True)
    ]
    verified = []
    for first, second in combinations(range(len(images)), 2):
        _, *indices = np.intersect1d(tracks[first], tracks[second], True, return_indices=True)
        verified.append(verify_pair(first, second, np.stack(indices, axis=1), keypoints, settings))
    grids = [geometry.stored_grid() for geometry in inputs]
    pixel_sizes, corners = (np.stack(parts) for parts in zip(*grids, strict=True))
    pointmaps = Pointmaps(pixel_sizes, corners, tuple(stored))
    return keypoints, [pair for pair in verified if pair is not None], pointmaps


def _subsample(
    first: int, second: int, maps: Sequence[Pointmap], predictions: Sequence[Prediction]
) -> PairPointmaps:
    """Subsample the pointmaps of an ordered image pair by `STORED_STRIDE`; invalid points become NaN."""
    stride = np.s_[STORED_STRIDE // 2 :: STORED_STRIDE, STORED_STRIDE // 2 :: STORED_STRIDE]
    points = (
        np.where(pointmap.valid[..., None], pointmap.points, np.nan)[stride].astype(np.float32)
        for pointmap in maps
    )
    confidences = tuple(confidence[stride] for _, confidence in predictions)
    return PairPointmaps(first, second, tuple(points), confidences)  # pyright: ignore[reportArgumentType] (two each)


def predict(
    images: Sequence[ImageFile],
    inputs: Sequence[NetworkInput],
    pairs: Sequence[tuple[int, int]],
    settings: MatchingSettings,
) -> Iterator[tuple[tuple[Prediction, Prediction], tuple[Prediction, Prediction]]]:
    """Run the network on both orders of each image pair.

    Each image is encoded once, and pairs are decoded in batches.

    Args:
        images: The images.
        inputs: Resizing and crop of each image.
        pairs: Image indices (i, j) of each pair.
        settings: Weights and device.

    Yields:
        For each pair (i, j): the predictions for i and for j in the camera frame of i, then the predictions
        for j and for i in the camera frame of j.

    Raises:
        NopeSplatError: If the package or the weights are missing.
    """
    device = network_device(settings.device)
    model = _load(settings.dust3r_weights, device)
    with torch.inference_mode():
        encoded = [
            _encode(model, image, geometry, device) for image, geometry in zip(images, inputs, strict=True)
        ]
        batch_size = _batch_size(device)
        for _, same_shapes in groupby(pairs, key=lambda pair: [inputs[image_id].shape for image_id in pair]):
            group = list(same_shapes)
            for start in range(0, len(group), batch_size):
                firsts, seconds = (
                    [encoded[image_id] for image_id in image_ids]
                    for image_ids in zip(*group[start : start + batch_size], strict=True)
                )
                yield from zip(_decode(model, firsts, seconds), _decode(model, seconds, firsts), strict=True)


def _batch_size(device: torch.device) -> int:
    """Compute the number of pairs per batch.

    On a GPU: as many as fit into free memory, but at most `MAX_BATCH_SIZE`. On a CPU: one.
    """
    if device.type == "cpu":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    return min(max(free // MEMORY_PER_PAIR, 1), MAX_BATCH_SIZE)


def _encode(model: Any, image_file: ImageFile, geometry: NetworkInput, device: torch.device) -> EncodedImage:
    """Resize, crop and encode an image; the output has a batch axis of length one."""
    pixels = geometry.crop(read_image(image_file, geometry.size)[..., :3])
    image = torch.tensor(pixels, device=device).permute(2, 0, 1)[None] / 127.5 - 1
    shape = torch.tensor([geometry.shape], device=device)
    features, positions, _ = model._encode_image(image, shape)
    return features, positions, shape


def _decode(
    model: Any, firsts: Sequence[EncodedImage], seconds: Sequence[EncodedImage]
) -> list[tuple[Prediction, Prediction]]:
    """Predict the pointmaps of pairs of encoded images, both in the camera frame of the first image.

    All first images must have the same shape, and all second images must have the same shape.

    Args:
        model: The network.
        firsts: First image of each pair.
        seconds: Second image of each pair.

    Returns:
        For each pair, the predictions for its first and its second image.
    """
    first, second = ([torch.cat(parts) for parts in zip(*batch, strict=True)] for batch in (firsts, seconds))
    decoded = model._decoder(*first[:2], *second[:2])
    predictions = []
    for number, (tokens, shape) in enumerate(zip(decoded, (first[2], second[2]), strict=True), start=1):
        output = model._downstream_head(number, [token.float() for token in tokens], shape)
        predictions.append(zip(output["pts3d"].cpu().numpy(), output["conf"].cpu().numpy(), strict=True))
    return list(zip(*predictions, strict=True))


def _read_mask(image: ImageFile, geometry: NetworkInput) -> NDArray[np.bool_] | None:
    """Read the mask of an image at the network's input size.

    Returns:
        True for pixels that are used (H, W); None if the image has no mask.
    """
    mask = read_mask(image, geometry.size)
    return None if mask is None else geometry.crop(mask)


def _load(weights: str, device: torch.device) -> Any:
    """Load the network onto a device, in evaluation mode.

    Args:
        weights: Folder with the weights, or name on huggingface.co.
        device: Device of the network.

    Raises:
        NopeSplatError: If the package or the weights are missing.
    """
    why = ""
    for package in ("dust3r", "mini_dust3r"):
        try:
            module = importlib.import_module(f"{package}.model")
        except ImportError as error:
            if error.name not in (package, f"{package}.model"):  # a dependency of the package is missing
                why = f" ({package}: {error})"
            continue
        try:
            return module.AsymmetricCroCo3DStereo.from_pretrained(weights).eval().to(device)
        except Exception as error:  # missing files and failed downloads raise many kinds of errors
            raise NopeSplatError(
                "missing-weights",
                f"the DUSt3R weights cannot be loaded from {weights} ({error}); without internet access, put"
                f" config.json and model.safetensors from https://huggingface.co/{DUST3R_WEIGHTS} into a"
                " folder and set dust3r-weights to this folder",
            ) from error
    raise NopeSplatError(
        "missing-package", f"the matcher dust3r needs DUSt3R{why}; install it with: {' && '.join(INSTALL)}"
    )
