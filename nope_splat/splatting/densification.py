"""Where Gaussians are added and removed: gsplat's strategy of 3D Gaussian Splatting, with three additions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from gsplat.strategy import DefaultStrategy
from gsplat.strategy.ops import reset_opa
from torch import Tensor
from torch.nn import ParameterDict
from torch.optim import Optimizer

if TYPE_CHECKING:
    pass


def most_gaussians(num_pixels: int, sh_degree: int = 3) -> int:
    """How many Gaussians images can determine: no more numbers than their pixels tell, three each.

    Args:
        num_pixels: Of all training images together, without those that are masked.
        sh_degree: Of the colors; beside them there are place, size, orientation and opacity.
    """
    return 3 * num_pixels // (3 * (sh_degree + 1) ** 2 + 3 + 3 + 4 + 1)


@dataclass
class CappedStrategy(DefaultStrategy):
    """`DefaultStrategy` that leaves the first Gaussians of a rendering alone, limits number and size.

    Near the maximum number, the Gaussians with the largest image-plane gradients grow first. Works with
    gsplat 1.4 and later, whose `radii` have one more dimension.
    """

    num_fixed: int = 0
    """How many Gaussians at the start of the rendering are not in `params`: never split, pruned or reset."""
    max_gaussians: int = 1_000_000
    """No growth beyond this number, fixed ones included."""
    max_scale2d: float = 1.0
    """Share of the image's longer side beyond which no Gaussian may reach from its center."""

    def step_post_backward(
        self,
        params: ParameterDict,
        optimizers: dict[str, Optimizer],
        state: dict[str, Any],
        step: int,
        info: dict[str, Any],
        packed: bool = False,
    ) -> None:
        """Update statistics, and grow, prune and reset opacities where the step calls for it.

        Args:
            params: Parameters of the free Gaussians; replaced by longer or shorter ones.
            optimizers: One optimizer per parameter, of the same name.
            state: Running statistics of the free Gaussians.
            step: Iteration.
            info: What the rasterizer reports about the rendering, with gradients.
            packed: Must be false.
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
                torch.cuda.empty_cache()  # parameters have new sizes, which old blocks of memory do not fit
        if step > 0 and since_reset == 0:
            reset_opa(params=params, optimizers=optimizers, state=state, value=2 * self.prune_opa)

    @torch.no_grad()
    def _limit_sizes(self, scales: Tensor, info: dict[str, Any]) -> None:
        """Shorten the axes of Gaussians that reach too far in this rendering.

        What shows in a corner of the images, as the sky does between roofs, gains from growing behind
        everything else. Where no image looks it would then cover all.
        """
        radii = self._radii(info)
        limit = self.max_scale2d * max(info["width"], info["height"])
        large = radii > limit
        if not (large.is_cuda or large.any()):  # a GPU is not asked: the answer would be waited for
            return
        excess = (radii / limit).clamp(min=1.0).log()[:, None]
        shortened = scales.minimum(scales.amax(dim=-1, keepdim=True) - excess)
        scales.copy_(torch.where(large[:, None], shortened, scales))

    def _radii(self, info: dict[str, Any]) -> Tensor:
        """Radii of the free Gaussians in pixels, zero for those out of sight. (N,)."""
        radii: Tensor = info["radii"][0, self.num_fixed :]
        return radii.amax(dim=-1) if radii.ndim == 2 else radii

    @torch.no_grad()
    def _update_state(
        self, params: ParameterDict, state: dict[str, Any], info: dict[str, Any], packed: bool = False
    ) -> None:
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
        room = self.max_gaussians - self.num_fixed - len(params["means"])
        if room <= 0:
            return 0, 0
        if room < len(params["means"]):
            order = torch.argsort(state["grad2d"] / state["count"].clamp(min=1), descending=True)
            state["grad2d"][order[room:]] = 0.0
            state["radii"][order[room:]] = 0.0
        return super()._grow_gs(params, optimizers, state, step)
