"""Render a trained model at the poses of the held-out images, aligned by `held_out_alignment`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from nope_splat.plugin.datamanager import NopeDataManager
from nope_splat.plugin.model import NopeSplatModel


class HeldOutView(NamedTuple):
    """A held-out image, and the rendering of the trained model at the pose of this image."""

    image_id: int
    """Index of the image in the reconstruction."""
    image: Tensor
    """Colors of the held-out image in [0, 1]. (H, W, 3)."""
    rendered: Tensor
    """Colors of the rendering in [0, 1]. (H, W, 3)."""
    mask: Tensor | None
    """True for pixels that are compared (H, W, 1); None if all pixels are compared."""


@torch.no_grad()
def held_out_views(model: NopeSplatModel, data: NopeDataManager) -> Iterator[HeldOutView]:
    """Render the model at the poses of all registered held-out images.

    The poses come from the data manager's evaluation dataset. Call `NopePipeline.align_held_out` first: it
    aligns the poses to the model, and stores them in this dataset.

    Args:
        model: The trained model; it renders in evaluation mode, and its previous mode is restored at the end.
        data: Data manager with the held-out images and their aligned poses.

    Yields:
        Held-out images with their renderings, in the order of the reconstruction.
    """
    was_training = model.training
    model.eval()
    try:
        for index, image_id in enumerate(data.dataparser.image_ids("eval").tolist()):
            camera = data.eval_dataset.cameras[index : index + 1].to(model.device)
            outputs = model.get_outputs_for_camera(camera)
            image, mask = model.image_and_mask(data.cached_eval[index], outputs["background"])
            yield HeldOutView(image_id, image, outputs["rgb"], mask)
    finally:
        model.train(was_training)
