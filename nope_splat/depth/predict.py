"""Depth from a network that has learned what depth looks like, through transformers.

The package and the weights are loaded only when asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nope_splat.depth.depth_map import DepthKind, DepthMap
from nope_splat.depth.settings import DepthSettings
from nope_splat.errors import NopeSplatError
from nope_splat.io.images import ImageFile, read_image
from nope_splat.utils.device_defaults import device_of_networks

INPUT_SIZE = 1024
"""Longer side at which images are handed over; networks scale them down further."""
MAP_SIZE = 518
"""Longer side of the maps: no network of today sees finer."""
KINDS: dict[str, DepthKind] = {
    "depth_anything": "disparity",
    "depth_pro": "metric",
    "dpt": "disparity",
    "glpn": "metric",
    "zoedepth": "metric",
}
"""What the networks of each type tell, by their name in transformers."""


class DepthNetwork:
    """A network with its preprocessor, ready for use.

    Args:
        settings: Which network, and perhaps what its values are.

    Raises:
        NopeSplatError: If transformers or the weights are missing, or the kind of the network's values is
            unknown.
    """

    def __init__(self, settings: DepthSettings) -> None:
        self.processor, self.network = _load(settings.model, device_of_networks(settings.device))
        self.kind: DepthKind = settings.kind or kind_of(self.network.config, settings.model)

    @torch.inference_mode()
    def predict(self, image_file: ImageFile) -> DepthMap:
        """Predict the depth of an image.

        Args:
            image_file: The image.
        """
        image = np.array(
            read_image(image_file, _fitted(image_file, INPUT_SIZE))[..., :3]
        )  # a writable one, for torch
        inputs = self.processor(images=image, return_tensors="pt").to(self.network.device)
        width, height = _fitted(image_file, MAP_SIZE)
        (predicted,) = self.processor.post_process_depth_estimation(
            self.network(**inputs), target_sizes=[(height, width)]
        )
        values = predicted["predicted_depth"].float().cpu().numpy()
        # The scaling overshoots at depth edges; no disparity and no depth is negative.
        values = np.where(np.isfinite(values), values.clip(0), np.nan).astype(np.float32)
        return DepthMap.covering(values, self.kind, (image_file.width, image_file.height))


def kind_of(config: Any, model: str) -> DepthKind:
    """What the values of a network are, by its configuration.

    Args:
        config: transformers' configuration of the network.
        model: Its name, for the message.

    Raises:
        NopeSplatError: If its type is not known here.
    """
    if getattr(config, "depth_estimation_type", None) == "metric":
        return "metric"
    if config.model_type not in KINDS:
        raise NopeSplatError(
            "missing-option",
            f"it is not known what the depths of {model} ({config.model_type}) are; say so with depth.kind"
            " (metric, affine or disparity)",
        )
    return KINDS[config.model_type]


def _fitted(image: ImageFile, longer_side: int) -> tuple[int, int]:
    """Width and height of an image that is scaled down to a longer side."""
    shrink = min(1.0, longer_side / max(image.width, image.height))
    return max(1, round(image.width * shrink)), max(1, round(image.height * shrink))


def _load(model: str, device: torch.device) -> tuple[Any, Any]:
    """Preprocessor and network, ready for use on a device, or a word on what is missing."""
    try:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation
    except ImportError as error:
        raise NopeSplatError(
            "missing-package", "depth from a network needs transformers: pip install transformers"
        ) from error
    try:
        processor = AutoImageProcessor.from_pretrained(model)
        network = AutoModelForDepthEstimation.from_pretrained(model)
    except Exception as error:  # missing files and failing downloads raise many things
        reason = str(error).strip().splitlines()[0]
        raise NopeSplatError(
            "missing-weights",
            f"the depth network {model} is not on this machine and cannot be downloaded; where it can be, run"
            f" `hf download {model} --local-dir FOLDER`, then give depth.model FOLDER ({reason})",
        ) from error
    return processor, network.eval().to(device)
