"""Supervise a model in training by the depth maps of single images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate

from nope_splat.plugin.depth_priors import DepthPriors
from nope_splat.splatting.depth_losses import (
    ImageView,
    chamfer_loss,
    corrected_depth,
    depth_consistency_loss,
)
from nope_splat.splatting.lens import Lens

SAMPLES = 1024
"""Pixels of each image that are compared with a neighbor's."""


class DepthSupervision(nn.Module):
    """Depth priors with the scale and shift of each, which are learned from where the fit has put them.

    Args:
        num_views: Number V of training views.
        priors: The priors; only a training has them.
        depth_weight: Weight of the difference between rendered depth and priors.
        chamfer_weight: Weight of the Chamfer distance between neighbors.
    """

    def __init__(
        self,
        num_views: int,
        priors: DepthPriors | None,
        depth_weight: float,
        chamfer_weight: float,
    ) -> None:
        super().__init__()
        self.depth_weight, self.chamfer_weight = depth_weight, chamfer_weight
        self.corrections = nn.Parameter(torch.zeros(num_views, 2, device="cpu"))
        """Logarithm of the scale, and shift, beside those of the fit. (V, 2)."""
        self.priors = priors

    def losses(
        self,
        view: int,
        outputs: Mapping[str, Tensor],
        T_camera_world: Tensor,
        focals: Tensor,
        lens: Lens | None = None,
    ) -> dict[str, Tensor]:
        """Compute the weighted terms `depth` and `chamfer` that have a weight and priors.

        Args:
            view: The training view.
            outputs: What the model rendered: `accumulation` (H, W, 1) and, where its weight is not zero,
                `depth` (H, W, 1).
            T_camera_world: World-to-camera transforms of the training views. (V, 4, 4).
            focals: Focal lengths of these in pixels of the full-resolution images. (V,).
            lens: Their learned lenses, if any. (V, 2) each.
        """
        if self.priors is None or view not in self.priors.views:
            return {}
        if self.priors.views[view].values.device != self.corrections.device:  # once, on a GPU
            self.priors = self.priors.to(self.corrections.device)
        losses = {}
        if self.depth_weight:
            losses["depth"] = self.depth_weight * self._depth(
                view, outputs["depth"][..., 0], outputs["accumulation"][..., 0], self.priors
            )
        others = self.priors.neighbors[view]
        if others and self.chamfer_weight:
            pair = view, others[int(torch.randint(len(others), (), device="cpu"))]
            chamfer = self._chamfer(pair, T_camera_world, focals, lens, self.priors)
            losses["chamfer"] = self.chamfer_weight * chamfer
        return losses

    def _depth(self, view: int, rendered: Tensor, opacity: Tensor, priors: DepthPriors) -> Tensor:
        """Difference between rendered depth (H, W), at any resolution, and prior."""
        # The nearest values: unknown ones do not spread, and depth edges stay edges.
        values = interpolate(priors.views[view].values[None, None], rendered.shape, mode="nearest-exact")
        return depth_consistency_loss(rendered, opacity, values[0, 0], self.corrections[view], priors.inverse)

    def _chamfer(
        self,
        pair: tuple[int, int],
        T_camera_world: Tensor,
        focals: Tensor,
        lens: Lens | None,
        priors: DepthPriors,
    ) -> Tensor:
        """Compute the Chamfer distance between random pixels of two views.

        Only points inside the used part of the other image are compared: unordered images overlap in part.
        """
        clouds, cameras = [], []
        for view in pair:
            prior = priors.views[view]
            camera = ImageView(T_camera_world[view], focals[view] * prior.pixels, prior.center)
            if lens is not None:
                center = prior.center + lens.shift[view] * prior.pixels
                camera = camera._replace(center=center, radial=lens.radial[view])
            height, width = prior.values.shape
            index = torch.randint(height * width, (SAMPLES,), device=prior.values.device)
            values = prior.values.flatten()[index]
            depth, valid = corrected_depth(values, self.corrections[view], priors.inverse)
            index, depth = index[valid], depth[valid]
            xy = torch.stack([index % width, index // width], -1) + 0.5
            clouds.append(camera.unproject(xy.to(depth), depth))
            cameras.append(camera)
        common = []
        for source, target in ((0, 1), (1, 0)):
            prior = priors.views[pair[target]]
            height, width = prior.values.shape
            xy, depth = cameras[target].project(clouds[source])
            grid = (2 * xy / xy.new_tensor((width, height)) - 1)[None, None]
            used = grid_sample(prior.used.to(xy)[None, None], grid, align_corners=False)[0, 0, 0]
            common.append(clouds[source][(used > 0.999) & (depth > 0)])
        return chamfer_loss(*common)
