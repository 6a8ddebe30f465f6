"""DISK keypoints (Tyszkiewicz et al., NeurIPS 2020), matched by LightGlue (Lindenberger et al., ICCV 2023).

Both networks are those of kornia (Apache-2.0, as are the weights), imported and loaded only when asked for.
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
from nope_splat.scene.features import Keypoints
from nope_splat.utils.device_defaults import device_of_networks

Network = TypeVar("Network", bound=torch.nn.Module)

SITE = "https://huggingface.co/kornia"


def disk_keypoints(images: Sequence[ImageFile], settings: MatchingSettings) -> Iterator[Keypoints]:
    """Find the keypoints of images.

    Args:
        images: The images; what their masks exclude is not used.
        settings: Number of keypoints and size at which they are sought.

    Yields:
        The keypoints of each image, strongest first.

    Raises:
        NopeSplatError: If kornia or the weights are missing.
    """

    def load() -> torch.nn.Module:
        from kornia.feature import DISK

        return DISK.from_pretrained("depth")

    device = device_of_networks(settings.device)
    network = _load(load, device)
    for image_file in images:
        pixel_size, size = settings.feature_size(image_file)
        pixels = torch.tensor(read_image(image_file, size)[..., :3], device=device)
        image = pixels.permute(2, 0, 1)[None] / 255.0
        mask = read_mask(image_file, size)
        # The network counts before anything is masked out: with a mask, all are found, the best kept below.
        count = settings.max_keypoints if mask is None else None
        with torch.inference_mode():
            (found,) = network(image, n=count, pad_if_not_divisible=True)
        order = torch.argsort(found.detection_scores, descending=True, stable=True)
        pixels = found.keypoints[order].long().cpu().numpy()
        descriptors = found.descriptors[order].float().cpu().numpy()
        if mask is not None:
            used = np.flatnonzero(mask[pixels[:, 1], pixels[:, 0]])[: settings.max_keypoints]
            pixels, descriptors = pixels[used], descriptors[used]
        # DISK names pixels by whole numbers: the center of pixel 0 is at 0.5.
        xy = (pixels + 0.5) * (image_file.width / size[0], image_file.height / size[1])
        yield Keypoints(xy, descriptors, pixel_size, image_size=(image_file.width, image_file.height))


def lightglue(
    keypoints: Sequence[Keypoints], device: torch.device
) -> Callable[[int, int], NDArray[np.int64]]:
    """A matcher for DISK keypoints; it may be called from several threads at once.

    Args:
        keypoints: Keypoints of each image, with descriptors and the sizes of the images.
        device: Where the network runs.

    Returns:
        Maps two images to keypoint indices in the first and the second, each at most once. (M, 2).

    Raises:
        NopeSplatError: If kornia or the weights are missing.
    """

    def load() -> torch.nn.Module:
        from kornia.feature import LightGlue

        return LightGlue("disk")

    network = _load(load, device)

    def entry(one: Keypoints) -> dict[str, torch.Tensor]:
        # LightGlue counts from the center of the first pixel, and wants the size of the image.
        values = {
            "keypoints": one.xy / one.pixel_size - 0.5,
            "descriptors": one.descriptors,
            "image_size": np.array(one.image_size) / one.pixel_size,
        }
        return {name: torch.as_tensor(value).float()[None].to(device) for name, value in values.items()}

    def match(first: int, second: int) -> NDArray[np.int64]:
        pair = keypoints[first], keypoints[second]
        if not all(len(one.xy) for one in pair):
            return np.zeros((0, 2), np.int64)
        with torch.inference_mode():
            found = network({f"image{index}": entry(one) for index, one in enumerate(pair)})
        return found["matches"][0].cpu().numpy()

    return match


def _load(load: Callable[[], Network], device: torch.device) -> Network:
    """Load a network onto a device, or say what is missing."""
    try:
        return load().eval().to(device)
    except ImportError as error:
        raise NopeSplatError(
            "missing-package", "the matcher disk needs kornia: pip install kornia"
        ) from error
    except Exception as error:  # downloads fail in many ways
        raise NopeSplatError(
            "missing-weights",
            f"the weights of DISK and LightGlue are not in {torch.hub.get_dir()}/checkpoints and cannot be"
            f" downloaded ({error}); put {SITE}/disk/resolve/main/depth-save.pth there as depth-save.pth, and"
            f" {SITE}/lightglue/resolve/main/disk_lightglue.pth as disk_lightglue_v0-1_arxiv-pth",
        ) from error
