"""Prediction of depth maps with monocular depth networks from the package transformers.

The package is imported and the weights are loaded on first use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nope_splat.depth.depth_map import DepthKind, DepthMap
from nope_splat.depth.options import DepthSettings
from nope_splat.errors import NopeSplatError
from nope_splat.io.images import ImageFile, read_image
from nope_splat.utils.device_defaults import network_device

INPUT_SIZE = 1024
"""Maximum longer side, in pixels, of the images passed to the network's preprocessor, which downscales them
further."""
MAP_SIZE = 518
"""Maximum longer side, in pixels, of the predicted depth maps. The supported networks resolve no
finer detail."""
DEPTH_KINDS: dict[str, DepthKind] = {
    "depth_anything": "disparity",
    "depth_pro": "metric",
    "dpt": "disparity",
    "glpn": "metric",
    "zoedepth": "metric",
}
"""Quantity that a network predicts, by the network's model type in transformers."""


class DepthNetwork:
    """Monocular depth network with its preprocessor.

    Args:
        settings: Name or folder of the network, its device, and the quantity that it predicts. If the
            quantity is None, it is inferred from the network's configuration.

    Raises:
        NopeSplatError: If transformers or the weights are missing, or the predicted quantity is unknown.
    """

    def __init__(self, settings: DepthSettings) -> None:
        self.processor, self.network = _load(settings.model, network_device(settings.device))
        self.kind: DepthKind = settings.kind or network_depth_kind(self.network.config, settings.model)

    @torch.inference_mode()
    def predict(self, image_file: ImageFile) -> DepthMap:
        """Predict the depth map of an image.

        Args:
            image_file: The image.

        Returns:
            The depth map of the whole image, with a longer side of at most `MAP_SIZE` pixels.
        """
        pixels = read_image(image_file, _size_within(image_file, INPUT_SIZE))[..., :3]
        inputs = self.processor(images=np.array(pixels), return_tensors="pt")  # torch needs a writable copy
        inputs = inputs.to(self.network.device)
        width, height = _size_within(image_file, MAP_SIZE)
        (predicted,) = self.processor.post_process_depth_estimation(
            self.network(**inputs), target_sizes=[(height, width)]
        )
        values = predicted["predicted_depth"].float().cpu().numpy()
        # Bicubic resizing overshoots at depth edges; neither disparity nor depth is negative.
        values = np.where(np.isfinite(values), values.clip(0), np.nan).astype(np.float32)
        return DepthMap.of_whole_image(values, self.kind, (image_file.width, image_file.height))


def network_depth_kind(config: Any, model: str) -> DepthKind:
    """Infer from the configuration of a depth network which quantity the network predicts.

    Args:
        config: Configuration of the network in transformers.
        model: Name of the network, used in the error message.

    Raises:
        NopeSplatError: If the model type is not in `DEPTH_KINDS`.
    """
    if getattr(config, "depth_estimation_type", None) == "metric":
        return "metric"
    if config.model_type not in DEPTH_KINDS:
        raise NopeSplatError(
            "missing-option",
            f"the kind of depth that {model} ({config.model_type}) predicts is unknown; set depth.kind to"
            " metric, affine or disparity",
        )
    return DEPTH_KINDS[config.model_type]


def _size_within(image: ImageFile, longer_side: int) -> tuple[int, int]:
    """Compute the (width, height) in pixels of an image that is downscaled to a given longer side.

    Args:
        image: The image.
        longer_side: Longer side of the downscaled image in pixels. Smaller images keep their size.
    """
    shrink = min(1.0, longer_side / max(image.width, image.height))
    return max(1, round(image.width * shrink)), max(1, round(image.height * shrink))


def _load(model: str, device: torch.device) -> tuple[Any, Any]:
    """Load the preprocessor and the network of a model.

    Args:
        model: Name of the network on huggingface.co, or folder with its files.
        device: Device of the network.

    Returns:
        The preprocessor and the network.

    Raises:
        NopeSplatError: If transformers is not installed or the weights cannot be loaded.
    """
    try:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation
    except ImportError as error:
        raise NopeSplatError(
            "missing-package",
            "predicting depth with a network needs transformers; run pip install transformers",
        ) from error
    try:
        processor = AutoImageProcessor.from_pretrained(model)
        network = AutoModelForDepthEstimation.from_pretrained(model)
    except Exception as error:  # missing files and failed downloads raise many kinds of errors
        reason = str(error).strip().splitlines()[0]
        raise NopeSplatError(
            "missing-weights",
            f"the depth network {model} is not on this machine and cannot be downloaded; on a machine with"
            f" internet access, run `hf download {model} --local-dir FOLDER`, then copy FOLDER to this"
            f" machine and set depth.model to FOLDER ({reason})",
        ) from error
    return processor, network.eval().to(device)
