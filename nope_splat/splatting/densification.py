"""Densification of Gaussians: gsplat's `DefaultStrategy` with limits on number and size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gsplat.strategy import DefaultStrategy
from gsplat.strategy.ops import reset_opa
from torch import Tensor
from torch.nn import ParameterDict
from torch.optim import Optimizer


def max_num_gaussians(num_pixels: int, sh_degree: int = 3) -> int:
    """Compute the largest number of Gaussians that the training images can determine.

    Assumes that each color value of the images determines one parameter.

    Args:
        num_pixels: Number of unmasked pixels in all training images; each has three color values.
        sh_degree: Degree of the spherical harmonics.

    Returns:
        Number of color values, 3 `num_pixels`, divided by the number of parameters per Gaussian, rounded
        down. A Gaussian has 3 (sh_degree + 1)^2 spherical-harmonics coefficients and 11 other parameters:
        mean (3), scales (3), quaternion (4) and opacity (1).
    """
    return 3 * num_pixels // (3 * (sh_degree + 1) ** 2 + 3 + 3 + 4 + 1)


@dataclass
class CappedStrategy(DefaultStrategy):
    """gsplat's `DefaultStrategy` with limits on the number and the size of Gaussians.

    The first `num_fixed` Gaussians are exempt from densification. If the limit on the number allows only some
    Gaussians to be duplicated or split, those with the largest mean image-plane gradients are chosen.
    Supports gsplat 1.4 and 1.5: for N Gaussians in C cameras, the shape of `radii` is (C, N) in gsplat 1.4,
    and (C, N, 2) in gsplat 1.5.
    """

    num_fixed: int = 0
    """Number of Gaussians that are exempt from densification: they are never duplicated, split, pruned or
    reset. They come first in the rasterizer's arrays and are not in `params`."""
    cap_max: int = 1_000_000
    """Maximum number of Gaussians, including the first `num_fixed`. When this number is reached, Gaussians
    are no longer duplicated or split, but still pruned."""
    max_scale2d: float = 1.0
    """Maximum radius (three standard deviations) of a Gaussian in a rendering, as a fraction of the longer
    image side. The longest axes of larger Gaussians are shortened."""

    def step_post_backward(
        self,
        params: ParameterDict,
        optimizers: dict[str, Optimizer],
        state: dict[str, Any],
        step: int,
        info: dict[str, Any],
        packed: bool = False,
    ) -> None:
        """Limit the sizes of the Gaussians, update their gradient statistics, and densify on schedule.

        Densification duplicates, splits and prunes Gaussians. Opacities are reset every `reset_every`
        iterations. From iteration `refine_stop_iter` on, only the sizes are limited.

        Args:
            params: Parameters of all Gaussians except the first `num_fixed`. The tensors are replaced when
                the number of Gaussians changes.
            optimizers: One optimizer per parameter, under the same names.
            state: Running statistics of the Gaussians in `params`: `grad2d`, `count` and `radii`.
            step: Number of the current iteration.
            info: The dictionary `info` that the rasterizer returned, after the backward pass.
            packed: Must be False. True would mean that the rasterizer used gsplat's packed layout, which is
                not supported.
        """
        self._limit_sizes(params["scales"], info)
        if step >= self.refine_stop_iter:
            return
        self._update_state(params, state, info, packed)
        since_reset = step % self.reset_every
        if step > self.refine_start_iter and step % self.refine_every == 0:
            if step < self.reset_every or since_reset >= self.pause_refine_after_reset:
                self._grow_gs(params, optimizers, state, step)
                self._prune_gs(params, optimizers, state, step)
            for name in ("grad2d", "count", "radii"):
                state[name].zero_()
            if params["means"].is_cuda:
                torch.cuda.empty_cache()  # cached blocks do not fit the new parameter sizes
        if step > 0 and since_reset == 0:
            reset_opa(params=params, optimizers=optimizers, state=state, value=2 * self.prune_opa)

    @torch.no_grad()
    def _limit_sizes(self, scales: Tensor, info: dict[str, Any]) -> None:
        """Shorten the longest axes of Gaussians whose radius exceeds `max_scale2d` in this rendering.

        A Gaussian that is visible only in a small region, such as the sky between roofs, can lower the loss
        by growing behind the rest of the scene. In views far from the training trajectory, such a Gaussian
        would cover the scene.

        Args:
            scales: Log scales of all Gaussians except the first `num_fixed`, changed in place. (N, 3).
            info: The dictionary `info` that the rasterizer returned.
        """
        radii = self._radii(info)
        limit = self.max_scale2d * max(info["width"], info["height"])
        large = radii > limit
        if not (large.is_cuda or large.any()):  # evaluating the condition on a GPU would wait for the GPU
            return
        excess = (radii / limit).clamp(min=1.0).log()[:, None]
        shortened = scales.minimum(scales.amax(dim=-1, keepdim=True) - excess)
        scales.copy_(torch.where(large[:, None], shortened, scales))

    def _radii(self, info: dict[str, Any]) -> Tensor:
        """Get the radii, in pixels, of all Gaussians except the first `num_fixed`; zero if culled. (N,)."""
        radii: Tensor = info["radii"][0, self.num_fixed :]
        return radii.amax(dim=-1) if radii.ndim == 2 else radii

    @torch.no_grad()
    def _update_state(
        self, params: ParameterDict, state: dict[str, Any], info: dict[str, Any], packed: bool = False
    ) -> None:
        """Add the gradients and radii of one rendering to the statistics of the visible Gaussians.

        The statistics in `state` cover all renderings in which a Gaussian is visible: the sum of the norms of
        its image-plane gradients (`grad2d`), the number of renderings (`count`), and its largest radius as a
        fraction of the longer image side (`radii`). The first `num_fixed` Gaussians have no statistics.
        """
        means2d = info["means2d"]
        gradients: Tensor = (means2d.absgrad if self.absgrad else means2d.grad)[0, self.num_fixed :]
        radii = self._radii(info)
        if state["grad2d"] is None:
            state |= {name: gradients.new_zeros(len(radii)) for name in ("grad2d", "count", "radii")}
        width, height = info["width"], info["height"]
        visible = radii > 0
        along_x, along_y = gradients.unbind(-1)
        norms = torch.stack([along_x * (width / 2), along_y * (height / 2)], -1).norm(dim=-1)
        state["grad2d"] += torch.where(visible, norms, 0.0)
        state["count"] += visible
        state["radii"] = torch.maximum(state["radii"], radii / max(width, height))

    @torch.no_grad()
    def _grow_gs(
        self, params: ParameterDict, optimizers: dict[str, Optimizer], state: dict[str, Any], step: int
    ) -> tuple[int, int]:
        """Duplicate and split Gaussians by the rules of `DefaultStrategy`, without exceeding the cap.

        Returns:
            The numbers of duplicated and of split Gaussians.
        """
        room = self.cap_max - self.num_fixed - len(params["means"])
        if room <= 0:
            return 0, 0
        if room < len(params["means"]):
            order = torch.argsort(state["grad2d"] / state["count"].clamp(min=1), descending=True)
            state["grad2d"][order[room:]] = 0.0
            state["radii"][order[room:]] = 0.0
        return super()._grow_gs(params, optimizers, state, step)
