"""Depth supervision of a model in training by depth maps of single images."""

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
"""Number of random pixels of each view in the Chamfer loss."""


class DepthSupervision(nn.Module):
    """Depth losses, with a learned correction to the fitted scale and shift of each prior.

    Args:
        num_views: Number V of training views.
        priors: The priors; None outside training.
        depth_weight: Weight of the difference between rendered depth and priors.
        chamfer_weight: Weight of the Chamfer distance between point clouds of neighboring views.
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
        """Log scale and shift relative to the fit. (V, 2)."""
        self.priors = priors

    def losses(
        self,
        view: int,
        outputs: Mapping[str, Tensor],
        T_camera_world: Tensor,
        focals: Tensor,
        lens: Lens | None = None,
    ) -> dict[str, Tensor]:
        """Compute the weighted losses `depth` and `chamfer`; terms without weight or prior are left out.

        Args:
            view: Index of the training view.
            outputs: Model outputs `accumulation` (H, W, 1) and, if `depth_weight` is not zero, `depth`
                (H, W, 1).
            T_camera_world: World-to-camera transforms of the training views. (V, 4, 4).
            focals: Focal lengths of the training views in full-resolution pixels. (V,).
            lens: Learned lenses of the training views, if any. (V, 2) each.
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
        neighbors = self.priors.neighbors[view]
        if neighbors and self.chamfer_weight:
            pair = view, neighbors[int(torch.randint(len(neighbors), (), device="cpu"))]
            chamfer = self._chamfer(pair, T_camera_world, focals, lens, self.priors)
            losses["chamfer"] = self.chamfer_weight * chamfer
        return losses

    def _depth(self, view: int, rendered: Tensor, opacity: Tensor, priors: DepthPriors) -> Tensor:
        """Compute the difference between rendered depth (H, W), at any resolution, and prior."""
        # Nearest-neighbor sampling keeps depth edges sharp and does not spread unknown values.
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

        Only points that project to unmasked pixels of the other view are compared, as views overlap in part.
        """
        points, cameras = [], []
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
            points.append(camera.unproject(xy.to(depth), depth))
            cameras.append(camera)
        covisible = []
        for source, target in ((0, 1), (1, 0)):
            prior = priors.views[pair[target]]
            height, width = prior.values.shape
            xy, depth = cameras[target].project(points[source])
            grid = (2 * xy / xy.new_tensor((width, height)) - 1)[None, None]
            used = grid_sample(prior.used.to(xy)[None, None], grid, align_corners=False)[0, 0, 0]
            covisible.append(points[source][(used > 0.999) & (depth > 0)])
        return chamfer_loss(*covisible)
