"""Depth supervision of a model in training: losses that compare the model with depth priors."""

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

NUM_SAMPLES = 1024
"""Number of pixels sampled at random in each of the two views for the Chamfer loss."""


class DepthSupervision(nn.Module):
    """Depth and Chamfer losses, with a learned correction of each depth prior.

    The corrected value is exp(a) v + b, where v is the value of the prior (depth or inverse depth), a the
    learned log scale and b the learned shift; a and b start at zero.

    Args:
        num_views: Number V of training views.
        priors: Depth priors of the training views; None outside training.
        depth_weight: Weight of the difference between rendered depth and priors; 0 disables this loss.
        chamfer_weight: Weight of the Chamfer distance between the unprojected depth priors of a view and of
            one of its neighbors (`DepthPriors.neighbors`); 0 disables this loss.
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
        """Log scale a and shift b of each prior (V, 2). The corrected value is exp(a) v + b, where v is a
        value of the prior, after the fit to the track points."""
        self.priors = priors

    def losses(
        self,
        view: int,
        outputs: Mapping[str, Tensor],
        T_camera_world: Tensor,
        focals: Tensor,
        lens: Lens | None = None,
    ) -> dict[str, Tensor]:
        """Compute the weighted depth losses of a training view.

        Args:
            view: Index of the training view.
            outputs: Outputs of the model for this view: opacity `accumulation` (H, W, 1) and, if
                `depth_weight` is not zero, `depth` (H, W, 1) in world units.
            T_camera_world: World-to-camera transforms of all training views, OpenCV axes. (V, 4, 4).
            focals: Focal lengths of all training views in full-resolution pixels. (V,).
            lens: Principal point shifts, distortion and projections of all training views; None for pinhole
                cameras with fixed principal points.

        Returns:
            Losses `depth` and `chamfer` by name, () each. A loss is omitted if its weight is zero or the view
            has no prior; `chamfer` is also omitted if the view has no neighbors.
        """
        if self.priors is None or view not in self.priors.views:
            return {}
        if self.priors.views[view].values.device != self.corrections.device:  # moves the priors to a GPU once
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
        """Compute the mean absolute difference between the rendered depth and the prior of a view. ().

        The prior is corrected by the learned scale and shift (`corrections`). `rendered` and `opacity` are
        rendered depth and opacity of the view, (H, W) each. If the priors are inverse depths, the inverse of
        the rendered depth is compared.
        """
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
        """Compute the Chamfer distance between the unprojected depth priors of two views, in world units. ().

        Random pixels of the depth prior of each view are unprojected to world points. Because views overlap
        only partially, points that do not project to unmasked pixels of the other view are ignored.
        """
        points, cameras = [], []
        for view in pair:
            prior = priors.views[view]
            camera = ImageView(T_camera_world[view], focals[view] * prior.size_ratio, prior.center)
            if lens is not None:
                center = prior.center + lens.shift[view] * prior.size_ratio
                camera = camera._replace(center=center, lens=lens.select(view).model)
            height, width = prior.values.shape
            index = torch.randint(height * width, (NUM_SAMPLES,), device=prior.values.device)
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
