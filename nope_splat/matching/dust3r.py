"""Matches from DUSt3R (Wang et al., CVPR 2024): for surfaces without texture, and for few images.

The network is that of the packages `dust3r` or `mini_dust3r`, whichever is there. Both are licensed for
non-commercial use (CC BY-NC-SA 4.0) as are the weights, so neither is a dependency.
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
from nope_splat.matching.pointmaps import Array, Pointmap, agree, look_up, star_tracks
from nope_splat.matching.verification import verify_pair
from nope_splat.scene.features import Keypoints, PairMatches, PairPointmaps, Pointmaps
from nope_splat.utils.device_defaults import device_of_networks
from nope_splat.utils.progress import track

PATCH = 16
"""Sides of the images that the network sees are multiples of this many pixels."""
LONGER_SIDE = 512
"""Longer side of those images, the one that the network was trained for."""
GRID = 8
"""Pixels between the points that are kept of a pointmap."""
PAIR_MEMORY = 2**30
"""Bytes of a GPU's memory that decoding one more pair at once may take, generously."""
MAX_BATCH = 16
"""Most pairs decoded at once: more do not go faster."""
INSTALL = (
    "pip install --no-deps mini-dust3r roma",
    "pip install beartype einops safetensors huggingface_hub",
)
"""What installs the network beside nerfstudio: its own list of dependencies would replace nerfstudio's."""

Prediction = tuple[NDArray[np.float32], NDArray[np.float32]]
"""What the network says of one image of a pair: points (H, W, 3) and confidence (H, W)."""
Code = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""What the network's encoder makes of one image, each with a leading axis of one."""


@dataclass(frozen=True)
class View:
    """An image as the network sees it: scaled, then cut to whole patches about its center."""

    size: tuple[int, int]
    """Width and height of the scaled image."""
    cut: tuple[int, int]
    """Columns and rows cut off at the left and at the top."""
    shape: tuple[int, int]
    """Height and width that are left."""
    scale: tuple[float, float]
    """Full-resolution pixels per pixel, across and down."""

    @classmethod
    def of(cls, image: ImageFile) -> View:
        """The view of an image."""
        shrink = LONGER_SIDE / max(image.width, image.height)
        size = (max(round(image.width * shrink), PATCH), max(round(image.height * shrink), PATCH))
        width, height = (side // PATCH * PATCH for side in size)
        cut = ((size[0] - width) // 2, (size[1] - height) // 2)
        return cls(size, cut, (height, width), (image.width / size[0], image.height / size[1]))

    def grid(self) -> tuple[Array, Array]:
        """Distance between, and corner before, the kept points, full-resolution pixels. (2,), (2,)."""
        # The middle of GRID pixels is a corner of one; the kept point is that pixel's, half a pixel on.
        return np.multiply(self.scale, float(GRID)), self.to_image(np.array([0.5, 0.5]))

    def to_image(self, xy: Array) -> Array:
        """Full-resolution pixels of positions in the view, both from the corner. (n, 2) -> (n, 2)."""
        return (xy + self.cut) * self.scale

    def crop(self, values: NDArray[Any]) -> NDArray[Any]:
        """The part of the scaled image that is left. (height of `size`, width, ...) -> (H, W, ...)."""
        (column, row), (height, width) = self.cut, self.shape
        return values[row : row + height, column : column + width]


def match_by_dust3r(
    images: Sequence[ImageFile], pairs: Sequence[tuple[int, int]], settings: MatchingSettings
) -> tuple[list[Keypoints], list[PairMatches], Pointmaps]:
    """Track a grid of anchors through the pointmaps of pairs.

    Args:
        images: The images; what their masks exclude is not used.
        pairs: Indices of the images of each pair that the network sees, the lesser one first.
        settings: The weights, and how to verify.

    Returns:
        Where each image shows a track, without descriptors; the verified pairs, the lesser index first;
        the pointmaps, thinned out.

    Raises:
        NopeSplatError: If the package or the weights are missing.
    """
    views = [View.of(image) for image in images]
    masks = [_mask(image, view) for image, view in zip(images, views, strict=True)]
    found: dict[tuple[int, int], Array] = {}
    said: list[PairPointmaps] = []
    predictions = predict(images, views, pairs, settings)
    for (first, second), (forward, backward) in zip(
        pairs, track(predictions, "Comparing photos", len(pairs)), strict=True
    ):
        order = (first, second)
        ahead = [Pointmap.sanitised(*one, masks[image]) for image, one in zip(order, forward, strict=True)]
        back = [
            Pointmap.sanitised(*one, masks[image]) for image, one in zip(order[::-1], backward, strict=True)
        ][::-1]
        found[first, second] = agree(look_up(ahead[0], ahead[1]), look_up(back[0], back[1]))
        found[second, first] = agree(look_up(back[1], back[0]), look_up(ahead[1], ahead[0]))
        said.append(_thinned(first, second, ahead, forward))
        said.append(_thinned(second, first, back[::-1], backward))
    tracks, positions = star_tracks(found, [view.shape for view in views])
    keypoints = [
        Keypoints(view.to_image(xy), np.zeros((len(xy), 0), np.float32), max(view.scale))
        for view, xy in zip(views, positions, strict=True)
    ]
    verified = []
    for first, second in combinations(range(len(images)), 2):
        _, *indices = np.intersect1d(tracks[first], tracks[second], True, return_indices=True)
        verified.append(verify_pair(first, second, np.stack(indices, axis=1), keypoints, settings))
    pixel_sizes, corners = (np.stack(parts) for parts in zip(*(view.grid() for view in views), strict=True))
    pointmaps = Pointmaps(pixel_sizes, corners, tuple(said))
    return keypoints, [pair for pair in verified if pair is not None], pointmaps


def _thinned(first: int, second: int, maps: Sequence[Pointmap], said: Sequence[Prediction]) -> PairPointmaps:
    """What is kept of the pointmaps of an ordered pair."""
    thin = np.s_[GRID // 2 :: GRID, GRID // 2 :: GRID]
    points = (np.where(one.usable[..., None], one.points, np.nan)[thin].astype(np.float32) for one in maps)
    return PairPointmaps(first, second, tuple(points), tuple(confidence[thin] for _, confidence in said))  # pyright: ignore[reportArgumentType] (two each)


def predict(
    images: Sequence[ImageFile],
    views: Sequence[View],
    pairs: Sequence[tuple[int, int]],
    settings: MatchingSettings,
) -> Iterator[tuple[tuple[Prediction, Prediction], tuple[Prediction, Prediction]]]:
    """Run the network on both orders of each pair; images are encoded once, pairs decoded in batches.

    Args:
        images: The images.
        views: How the network sees them.
        pairs: Indices of the images of each pair.
        settings: The weights, and where the network runs.

    Yields:
        For a pair (i, j): what is said of i and of j in the frame of i, and of j and of i in that of j.

    Raises:
        NopeSplatError: If the package or the weights are missing.
    """
    device = device_of_networks(settings.device)
    model = _load(settings.dust3r_weights, device)
    with torch.inference_mode():
        codes = [_encode(model, image_id, view, device) for image_id, view in zip(images, views, strict=True)]
        most = _batch_size(device)
        for _, alike in groupby(pairs, key=lambda pair: [views[image_id].shape for image_id in pair]):
            waiting = list(alike)
            for start in range(0, len(waiting), most):
                firsts, seconds = (
                    [codes[image_id] for image_id in images_of_pairs]
                    for images_of_pairs in zip(*waiting[start : start + most], strict=True)
                )
                yield from zip(_decode(model, firsts, seconds), _decode(model, seconds, firsts), strict=True)


def _batch_size(device: torch.device) -> int:
    """Pairs decoded at once: as many as a GPU has memory for; on a CPU nothing is gained."""
    if device.type == "cpu":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    return min(max(free // PAIR_MEMORY, 1), MAX_BATCH)


def _encode(model: Any, image_file: ImageFile, view: View, device: torch.device) -> Code:
    """Features of the patches of an image, their places, and height and width of the image."""
    pixels = view.crop(read_image(image_file, view.size)[..., :3])
    image = torch.tensor(pixels, device=device).permute(2, 0, 1)[None] / 127.5 - 1
    shape = torch.tensor([view.shape], device=device)
    features, places, _ = model._encode_image(image, shape)
    return features, places, shape


def _decode(
    model: Any, firsts: Sequence[Code], seconds: Sequence[Code]
) -> list[tuple[Prediction, Prediction]]:
    """Pointmaps of pairs of encoded images, both in the frame of the first.

    All first images have one shape, and all second ones.
    """
    first, second = ([torch.cat(parts) for parts in zip(*codes, strict=True)] for codes in (firsts, seconds))
    decoded = model._decoder(*first[:2], *second[:2])
    predictions = []
    for number, (tokens, shape) in enumerate(zip(decoded, (first[2], second[2]), strict=True), start=1):
        said = model._downstream_head(number, [token.float() for token in tokens], shape)
        predictions.append(zip(said["pts3d"].cpu().numpy(), said["conf"].cpu().numpy(), strict=True))
    return list(zip(*predictions, strict=True))


def _mask(image: ImageFile, view: View) -> NDArray[np.bool_] | None:
    """Pixels of the view that are used, None for all of them."""
    mask = read_mask(image, view.size)
    return None if mask is None else view.crop(mask)


def _load(weights: str, device: torch.device) -> Any:
    """The network, ready for use on a device."""
    why = ""
    for package in ("dust3r", "mini_dust3r"):
        try:
            module = importlib.import_module(f"{package}.model")
        except ImportError as error:
            if error.name not in (package, f"{package}.model"):  # it is there, but lacks something
                why = f" ({package}: {error})"
            continue
        try:
            return module.AsymmetricCroCo3DStereo.from_pretrained(weights).eval().to(device)
        except Exception as error:  # missing files and failing downloads raise many things
            raise NopeSplatError(
                "missing-weights",
                f"the weights of DUSt3R cannot be loaded from {weights} ({error}); without a network, put"
                f" config.json and model.safetensors of https://huggingface.co/{DUST3R_WEIGHTS} into a folder"
                " and give that as dust3r-weights",
            ) from error
    raise NopeSplatError(
        "missing-package", f"the matcher dust3r needs DUSt3R{why}; install it with: {' && '.join(INSTALL)}"
    )
