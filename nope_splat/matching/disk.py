"""DISK keypoints (Tyszkiewicz et al., NeurIPS 2020), matched by LightGlue (Lindenberger et al., ICCV 2023).

Both networks come from the package kornia, which is imported on first use. kornia and the weights are
licensed under Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from nope_splat.errors import NopeSplatError
from nope_splat.io.images import ImageFile, read_image, read_mask
from nope_splat.matching.options import MatchingSettings
from nope_splat.scene.features import Keypoints, MaskEffect
from nope_splat.utils.device_defaults import network_device

Network = TypeVar("Network", bound=torch.nn.Module)

SITE = "https://huggingface.co/kornia"


def disk_keypoints(images: Sequence[ImageFile], settings: MatchingSettings) -> Iterator[Keypoints]:
    """Detect and describe the DISK keypoints of images.

    Args:
        images: The images; masked pixels are not used.
        settings: Maximum number of keypoints, image size for detection, and device.

    Yields:
        The keypoints of each image, by decreasing detection score.

    Raises:
        NopeSplatError: If kornia or the weights are missing.
    """

    def load() -> torch.nn.Module:
        from kornia.feature import DISK

        return DISK.from_pretrained("depth")

    device = network_device(settings.device)
    network = _load(load, device)
    for image_file in images:
        pixel_size, size = settings.feature_size(image_file)
        pixels = torch.tensor(read_image(image_file, size)[..., :3], device=device)
        image = pixels.permute(2, 0, 1)[None] / 255.0
        mask = read_mask(image_file, size)
        # The network does not support masks, so detect all keypoints and keep the best unmasked keypoints.
        max_keypoints = settings.max_keypoints if mask is None else None
        with torch.inference_mode():
            (features,) = network(image, n=max_keypoints, pad_if_not_divisible=True)
        order = torch.argsort(features.detection_scores, descending=True, stable=True)
        pixels = features.keypoints[order].long().cpu().numpy()
        descriptors = features.descriptors[order].float().cpu().numpy()
        mask_effect = None
        if mask is not None:
            unmasked = np.flatnonzero(mask[pixels[:, 1], pixels[:, 0]])
            mask_effect = MaskEffect(len(unmasked), len(pixels) - len(unmasked), float(mask.mean()))
            unmasked = unmasked[: settings.max_keypoints]
            pixels, descriptors = pixels[unmasked], descriptors[unmasked]
        # DISK returns integer pixel indices: the center of pixel 0 is at 0.5.
        xy = (pixels + 0.5) * (image_file.width / size[0], image_file.height / size[1])
        image_size = (image_file.width, image_file.height)
        yield Keypoints(xy, descriptors, pixel_size, image_size=image_size, mask_effect=mask_effect)


def lightglue(
    keypoints: Sequence[Keypoints], device: torch.device
) -> Callable[[int, int], NDArray[np.int64]]:
    """Create a thread-safe LightGlue matcher for the keypoints of images.

    Args:
        keypoints: Keypoints of each image, with descriptors and image sizes.
        device: Device of the network.

    Returns:
        A function that takes two image indices and returns their matches (M, 2): keypoint indices in the
        first and in the second image. Each keypoint occurs at most once.

    Raises:
        NopeSplatError: If kornia or the weights are missing.
    """

    def load() -> torch.nn.Module:
        from kornia.feature import LightGlue

        return LightGlue("disk")

    network = _load(load, device)

    def to_input(features: Keypoints) -> dict[str, torch.Tensor]:
        # LightGlue puts the center of the first pixel at (0, 0).
        values = {
            "keypoints": features.xy / features.pixel_size - 0.5,
            "descriptors": features.descriptors,
            "image_size": np.array(features.image_size) / features.pixel_size,
        }
        return {name: torch.as_tensor(value).float()[None].to(device) for name, value in values.items()}

    def match(first: int, second: int) -> NDArray[np.int64]:
        pair = keypoints[first], keypoints[second]
        if not all(len(features.xy) for features in pair):
            return np.zeros((0, 2), np.int64)
        with torch.inference_mode():
            output = network({f"image{index}": to_input(features) for index, features in enumerate(pair)})
        return output["matches"][0].cpu().numpy()

    return match


def _load(load: Callable[[], Network], device: torch.device) -> Network:
    """Create a network and move it to a device, in evaluation mode.

    Args:
        load: Function that creates the network and loads its weights.
        device: Device of the network.

    Raises:
        NopeSplatError: If kornia or the weights are missing.
    """
    try:
        return load().eval().to(device)
    except ImportError as error:
        raise NopeSplatError(
            "missing-package", "the matcher 'disk' needs kornia; run pip install kornia"
        ) from error
    except Exception as error:  # failed downloads raise many kinds of errors
        raise NopeSplatError(
            "missing-weights",
            f"the weights of DISK and LightGlue are not in {torch.hub.get_dir()}/checkpoints and cannot be"
            f" downloaded ({error}); put {SITE}/disk/resolve/main/depth-save.pth into that folder as"
            f" depth-save.pth, and {SITE}/lightglue/resolve/main/disk_lightglue.pth as"
            " disk_lightglue_v0-1_arxiv-pth",
        ) from error
