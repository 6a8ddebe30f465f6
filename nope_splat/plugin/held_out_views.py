"""Render the held-out images at their aligned poses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from nope_splat.plugin.datamanager import NopeDataManager
from nope_splat.plugin.model import NopeSplatModel


class HeldOutView(NamedTuple):
    """A held-out image and its rendering."""

    image_id: int
    """Index of the image in the scene."""
    image: Tensor
    """The image. (H, W, 3), in [0, 1]."""
    rendered: Tensor
    """The rendering. (H, W, 3), in [0, 1]."""
    mask: Tensor | None
    """True for used pixels. (H, W, 1), bool."""


@torch.no_grad()
def held_out_views(model: NopeSplatModel, data: NopeDataManager) -> Iterator[HeldOutView]:
    """Render the registered held-out images.

    Args:
        model: The model; its mode is restored at the end.
        data: The data manager, with the aligned poses of the images.

    Yields:
        The views, in the order of the scene.
    """
    was_training = model.training
    model.eval()
    try:
        for index, image_id in enumerate(data.dataparser.image_ids("eval").tolist()):
            camera = data.eval_dataset.cameras[index : index + 1].to(model.device)
            outputs = model.get_outputs_for_camera(camera)
            image, mask = model.image(data.cached_eval[index], outputs["background"])
            yield HeldOutView(image_id, image, outputs["rgb"], mask)
    finally:
        model.train(was_training)
