"""Normal equations of aligning images to renderings: what the colors say about the cameras.

The rendering of a view is moved, not made anew: a camera that moves by xi takes the scene point behind a
pixel from x to x + J xi, with J as in bundle adjustment and the rendered depth. To first order the rendering
changes by -grad(I) J xi, and the residuals, rendering minus image, ask for the xi that lets them vanish
(Lucas and Kanade 1981; the gradient is the mean of both images', as in Benhimane and Malis 2004).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from nope_splat.geometry.distortion import distort, distortion_jacobian, radial_term_jacobian
from nope_splat.geometry.projection import projection_jacobian, rotation_jacobian, unproject
from nope_splat.geometry.robust import cauchy_cost, cauchy_weight, robust_sigma

MIN_OPACITY = 0.9
"""Pixels that let more background through have no depth to speak of."""
MAX_DEPTH_STEP = 0.05
"""Relative change of depth to a neighboring pixel beyond which the two may not move together."""
MIN_NOISE = 12**-0.5 / 255
"""Standard deviation of rounding to 8 bits."""
MIN_SIZE = 32
"""Images are not halved below this number of pixels."""
AT_A_TIME = 2**15
"""Pixels that are in memory in double precision: few enough for the cache of a CPU."""
AT_A_TIME_ON_GPU = 2**19
"""The same on a GPU, which takes as long to start a small kernel as a large one: up to 300 MB."""
BLOCKS = 12
"""Blocks along the longer side of an image within which residuals may depend on each other."""
MIN_BLOCKS = 12
"""Twice as many as a pose has parameters: the spread of fewer tells nothing."""


@dataclass(frozen=True)
class RenderedView:
    """A rendering beside its image, and the camera."""

    rendered: Tensor
    """Rendering. (H, W, 3), in [0, 1]."""
    image: Tensor
    """Image. (H, W, 3), in [0, 1]."""
    depth: Tensor
    """Rendered depth. (H, W)."""
    used: Tensor
    """Pixels that count. (H, W), bool."""
    focal: Tensor
    """Focal lengths along x and y in pixels of these images. (2,)."""
    center: Tensor
    """Principal point in pixels of these images. (2,)."""
    radial: Tensor | None = None
    """Distortion k1 and k2, by which both images are seen; None of a camera that has none and of which
    nothing but pose and focal length may change. (2,)."""

    def halved(self, times: int = 1) -> RenderedView:
        """The same at half the resolution, repeatedly; odd last rows and columns are left out.

        Args:
            times: How often, unless the image gets too small before.
        """
        if times == 0 or min(self.used.shape) < 2 * MIN_SIZE:
            return self

        def pool(image: Tensor) -> Tensor:
            return avg_pool2d(image.movedim(-1, 0)[None], 2)[0].movedim(0, -1)

        return RenderedView(
            rendered=pool(self.rendered),
            image=pool(self.image),
            depth=pool(self.depth[..., None])[..., 0],
            used=pool(self.used[..., None].to(self.depth))[..., 0] == 1,
            focal=self.focal / 2,
            center=self.center / 2,
            radial=self.radial,
        ).halved(times - 1)

    def residuals(self) -> Tensor:
        """Rendering minus image at the pixels that count. (N, 3)."""
        return (self.rendered - self.image)[self.used]

    def plane(self) -> Tensor:
        """Where the pixels that count are on the plane at depth one, without distortion. (N, 2)."""
        return self.rays()[:, :2]

    def rays(self) -> Tensor:
        """Rays through the pixels that count, at depth one in camera coordinates. (N, 3)."""
        row, column = torch.nonzero(self.used, as_tuple=True)
        xy = torch.stack([column + 0.5, row + 0.5], -1).to(self.depth)
        return unproject(xy - self.center, self.focal, self.radial)


class PixelEquations(NamedTuple):
    """What the pixels of a view that count say about their motions x in the image: x^T A x / 2 + v^T x."""

    jacobian: Tensor
    """Derivatives of the motions by the variables of `motion_on_plane`. (N, 2, 7 or 11)."""
    tensor: Tensor
    """A, the robustly weighted structure tensor. (N, 2, 2)."""
    vector: Tensor
    """v. (N, 2)."""

    def in_double(self) -> Iterator[tuple[slice, PixelEquations]]:
        """The same in double precision, some pixels at a time, and which these are.

        What is summed over all pixels of a view must be: displacements of patches take most of it away again,
        and beside the rounding errors of single precision nothing may be left.
        """
        count = AT_A_TIME_ON_GPU if self.jacobian.is_cuda else AT_A_TIME
        for start in range(0, len(self.jacobian), count):
            rows = slice(start, start + count)
            yield rows, PixelEquations(*(values[rows].double() for values in self))

    def sum(self) -> ViewEquations:
        """The equations of the view."""
        count = self.jacobian.shape[-1]
        matrix = self.jacobian.new_zeros(count, count, dtype=torch.float64)
        gradient = matrix.new_zeros(count)
        for _, part in self.in_double():
            jacobian = part.jacobian.flatten(0, 1)
            matrix += jacobian.T @ (part.tensor @ part.jacobian).flatten(0, 1)
            gradient += jacobian.T @ part.vector.flatten()
        return ViewEquations(matrix, gradient)


class ViewEquations(NamedTuple):
    """Robust normal equations of one view, by the 7 or 11 variables of `motion_on_plane`."""

    matrix: Tensor
    """Gauss-Newton's approximation of half the second derivative of the cost. (7 or 11, 7 or 11), float64."""
    gradient: Tensor
    """Half the derivative of the cost. (7 or 11,), float64."""


def usable_pixels(depth: Tensor, opacity: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pixels whose motion the rendered depth predicts.

    Args:
        depth: Rendered depth. (H, W).
        opacity: Rendered opacity. (H, W).
        mask: True where the image counts. (H, W), bool.

    Returns:
        True inside the image, where it is opaque and the depth continuous. (H, W), bool.
    """
    farthest = max_pool2d(depth[None, None], 3, 1, 1)[0, 0]
    nearest = -max_pool2d(-depth[None, None], 3, 1, 1)[0, 0]
    used = (opacity > MIN_OPACITY) & (nearest > 0) & (farthest - nearest < MAX_DEPTH_STEP * nearest)
    used[[0, -1]] = False
    used[:, [0, -1]] = False
    return used if mask is None else used & mask


def robust_noise(view: RenderedView) -> float:
    """Standard deviation of the residuals by their median absolute value, as if they were normal.

    Args:
        view: Rendering and image.

    Returns:
        In units of color; at least that of rounding.
    """
    residuals = view.residuals()
    return max(robust_sigma(residuals.abs()), MIN_NOISE) if len(residuals) else MIN_NOISE


def photometric_cost(view: RenderedView, noise: float) -> float:
    """Cauchy cost of the residuals, summed over the pixels.

    Args:
        view: Rendering and image.
        noise: Standard deviation of the residuals.
    """
    return float(cauchy_cost(_squared(view.residuals(), noise)).double().sum())


def pixel_equations(view: RenderedView, noise: float) -> PixelEquations:
    """Linearize the cost of every pixel.

    Args:
        view: Rendering and image.
        noise: Standard deviation of the residuals.
    """
    residuals = view.residuals()
    jacobian = view.focal[:, None] * motion_on_plane(view.plane(), view.depth[view.used], view.radial)
    gradient = _image_gradient((view.rendered + view.image) / 2)[view.used]  # (N, 3, 2)
    weight = cauchy_weight(_squared(residuals, noise)) / (3 * noise**2)
    return PixelEquations(
        jacobian,
        torch.einsum("n,nci,ncj->nij", weight, gradient, gradient),
        -torch.einsum("n,nci,nc->ni", weight, gradient, residuals),
    )


def information_weight(pixels: PixelEquations, used: Tensor) -> float:
    """How much the pixels of a view are worth.

    Pixels are no independent witnesses: what blurs or shades one blurs and shades its neighbors. Summed as
    if they were, they would outvote any number of tracks. The sum is a composite likelihood; multiplied by
    p / tr(H^-1 S), with the number p of pose parameters, the matrix H of the equations and the covariance S
    of their gradient, it carries the information that it really has (Varin, Reid and Firth 2011). S is
    measured on blocks of pixels: what remains of their gradients after the best motion of this view, squared.

    Args:
        pixels: What they say.
        used: Which pixels of the view these are. (H, W), bool.

    Returns:
        The factor; 0 where the view says nothing, or shows so little that the best motion would explain it.
    """
    equations, jacobian = pixels.sum(), pixels.jacobian[..., :6]
    factor, info = torch.linalg.cholesky_ex(equations.matrix[:6, :6])
    if info != 0 or not len(jacobian):
        return 0.0
    best = -torch.cholesky_solve(equations.gradient[:6, None], factor).to(jacobian)
    remaining = pixels.vector + (pixels.tensor @ (jacobian @ best)).squeeze(-1)
    scores = torch.einsum("nip,ni->np", jacobian, remaining)
    row, column = torch.nonzero(used, as_tuple=True)
    size = -(-max(used.shape) // BLOCKS)
    block = (row // size) * -(-used.shape[1] // size) + column // size
    if len(block.unique()) < MIN_BLOCKS:
        return 0.0
    sums = scores.new_zeros(int(block.max()) + 1, 6).index_add_(0, block, scores).double()
    spread = torch.cholesky_solve(sums.T @ sums, factor).diagonal().sum()
    return float(6 / spread) if spread > 0 else 0.0


def motion_on_plane(plane: Tensor, depth: Tensor, radial: Tensor | None = None) -> Tensor:
    """How scene points move on the plane at depth one when their camera moves or its intrinsics change.

    With distortion, of a point p it is the motion of d(p), as in `problem.linearize`.

    Args:
        plane: Where the points are, without distortion: (x, y) at depth one, camera coordinates. (N, 2).
        depth: Their depths. (N,).
        radial: Distortion k1 and k2, if there is some or it may change. (2,).

    Returns:
        Derivatives by the rotation (3) and translation (3) increments of `rigid.move_poses`, and
        by the logarithm of the focal length; with `radial` also by the principal point in focal lengths (2),
        k1 and k2. (N, 2, 7), or (N, 2, 11).
    """
    pose = torch.cat([rotation_jacobian(plane), projection_jacobian(plane, 1 / depth)], -1)
    if radial is None:
        return torch.cat([pose, plane[..., None]], -1)
    bend, unit = distortion_jacobian(plane, radial), torch.eye(2, dtype=plane.dtype, device=plane.device)
    by_focal = distort(plane, radial)[..., None]
    return torch.cat([bend @ pose, by_focal, unit.expand_as(bend), radial_term_jacobian(plane)], -1)


def _squared(residuals: Tensor, noise: float) -> Tensor:
    """Mean square of the three channels in units of the noise. (N, 3) to (N,)."""
    return residuals.square().mean(-1) / noise**2


def _image_gradient(image: Tensor) -> Tensor:
    """Central differences along x and y, zero at the border. (H, W, 3) to (H, W, 3, 2)."""
    gradient = image.new_zeros(*image.shape, 2)
    gradient[:, 1:-1, :, 0] = (image[:, 2:] - image[:, :-2]) / 2
    gradient[1:-1, :, :, 1] = (image[2:] - image[:-2]) / 2
    return gradient
