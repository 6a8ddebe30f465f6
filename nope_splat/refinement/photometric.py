"""Photometric alignment: normal equations of the color residuals between renderings and images.

A step is computed from one rendering per view, without differentiating the rasterizer. A pose increment xi
moves the projection of a pixel's scene point from x to x + J xi, where J is the Jacobian of the projection at
the rendered depth. To first order, the color of the rendering at x changes by -grad(I) J xi, with the image
gradient grad(I). Gauss-Newton finds the xi that minimizes the residuals, rendering minus image (Lucas and
Kanade 1981). grad(I) is the mean of the gradients of rendering and image, as in Benhimane and Malis (2004).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from nope_splat.geometry.distortion import (
    NUM_TERMS,
    distort,
    distortion_jacobian,
    distortion_term_jacobian,
)
from nope_splat.geometry.projection import (
    LensModel,
    equidistant_jacobian,
    projection_jacobian,
    rotation_jacobian,
    to_plane,
    unproject,
)
from nope_splat.geometry.rigid import skew
from nope_splat.geometry.robust import cauchy_cost, cauchy_weight, robust_sigma
from nope_splat.io.undistortion import MIN_RAY_DEPTH
from nope_splat.splatting.lens import Rendering

MIN_NOISE = 12**-0.5 / 255
"""Lower limit of the standard deviation of the residuals, in units of color (0 to 1): the standard deviation
of the error from rounding colors to 8 bits."""
MIN_SIZE = 32
"""Smallest side of a downsampled image in pixels. An image is not halved if a side would become shorter."""
CHUNK_SIZE = 2**15
"""Number of pixels processed at once in double precision on a CPU; their equations fit into the cache of the
CPU."""
CHUNK_SIZE_ON_GPU = 2**19
"""Number of pixels processed at once on a GPU; the processing needs up to 300 MB. With smaller chunks,
launching kernels would dominate the time."""
MIN_BLOCKS = 12
"""Minimum number of image blocks with used pixels for estimating the covariance of the gradient in
`information_weight`: twice the number of pose parameters."""


@dataclass(frozen=True)
class RenderedView:
    """Rendering of a view, together with its image and camera."""

    rendered: Tensor
    """Rendered image. (H, W, 3), in [0, 1]."""
    image: Tensor
    """Image to compare the rendering with. (H, W, 3), in [0, 1]."""
    depth: Tensor
    """Rendered depth along the optical axis (z), in world units. (H, W)."""
    used: Tensor
    """True for the pixels that have residuals. (H, W), bool."""
    focal: Tensor
    """Focal lengths along x and y, in pixels of the rendering. (2,)."""
    center: Tensor
    """Principal point (x, y), in pixels of the rendering. (2,)."""
    distortion: Tensor | None = None
    """Distortion coefficients of rendering and image. None without distortion, in which case only pose and
    focal length are refined. (6,)."""
    is_fisheye: bool = False
    """Whether the projection is equidistant instead of perspective. The rays of used pixels must then lie in
    front of the camera (see `compare`)."""

    def downsampled(self, level: int = 1) -> RenderedView:
        """Halve the resolution `level` times by averaging blocks of 2 x 2 pixels.

        Odd last rows and columns are dropped. A pixel is used only if all four of its source pixels are used.

        Args:
            level: Number of times to halve the resolution; 0 returns the view unchanged. Images are not
                halved if a side would become shorter than `MIN_SIZE`.
        """
        if level == 0 or min(self.used.shape) < 2 * MIN_SIZE:
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
            distortion=self.distortion,
            is_fisheye=self.is_fisheye,
        ).downsampled(level - 1)

    def residuals(self) -> Tensor:
        """Compute rendering minus image at the N used pixels. (N, 3)."""
        return (self.rendered - self.image)[self.used]

    @property
    def lens(self) -> LensModel | None:
        """Projection and distortion; None for a pinhole camera without distortion."""
        if self.distortion is None and not self.is_fisheye:
            return None
        distortion = self.focal.new_zeros(NUM_TERMS) if self.distortion is None else self.distortion
        return LensModel(distortion, self.is_fisheye)

    def rays(self) -> Tensor:
        """Compute the rays of the N used pixels: points at depth one in camera coordinates. (N, 3)."""
        rays = self._rays(self.used)
        return rays / rays[:, 2:] if self.is_fisheye else rays

    def in_front(self) -> Tensor:
        """Check which of all pixels have rays in front of the camera (see `MIN_RAY_DEPTH`). (H, W), bool."""
        if not self.is_fisheye:
            return torch.ones_like(self.used)
        return (self._rays(torch.ones_like(self.used))[:, 2] > MIN_RAY_DEPTH).view_as(self.used)

    def _rays(self, pixels: Tensor) -> Tensor:
        """Compute the rays of some pixels (see `unproject`). (H, W), bool -> (N, 3)."""
        row, column = torch.nonzero(pixels, as_tuple=True)
        xy = torch.stack([column + 0.5, row + 0.5], -1).to(self.depth)
        return unproject(xy - self.center, self.focal, self.lens)

    def points(self) -> Tensor:
        """Compute the scene points that the N used pixels show, in camera coordinates. (N, 3)."""
        return self.depth[self.used][:, None] * self.rays()


class PixelEquations(NamedTuple):
    """Quadratic approximation of half the photometric cost of each used pixel.

    If the scene point of the pixel moves by x (2,) in the image, in pixels, half the cost is approximately
    x^T A x / 2 + v^T x + constant.
    """

    jacobian: Tensor
    """Derivatives of the image motion, in pixels, with respect to the variables of `motion_on_plane`.
    (N, 2, 7 or 11)."""
    tensor: Tensor
    """Matrices A: structure tensors of the image, with robust weights. (N, 2, 2)."""
    vector: Tensor
    """Vectors v: gradients of half the photometric cost with respect to the image motion, at zero motion.
    (N, 2)."""

    def in_double(self) -> Iterator[tuple[slice, PixelEquations]]:
        """Convert the equations to double precision in chunks of pixels.

        Sums over all pixels of a view need double precision: eliminating the surface patches cancels most of
        each sum, and rounding errors of single precision would dominate the remainder.

        Yields:
            The rows of a chunk, and the equations of its pixels.
        """
        size = CHUNK_SIZE_ON_GPU if self.jacobian.is_cuda else CHUNK_SIZE
        for start in range(0, len(self.jacobian), size):
            rows = slice(start, start + size)
            yield rows, PixelEquations(*(values[rows].double() for values in self))

    def sum(self) -> ViewEquations:
        """Sum the equations of all pixels, which gives the normal equations of the view."""
        count = self.jacobian.shape[-1]
        matrix = self.jacobian.new_zeros(count, count, dtype=torch.float64)
        gradient = matrix.new_zeros(count)
        for _, part in self.in_double():
            jacobian = part.jacobian.flatten(0, 1)
            matrix += jacobian.T @ (part.tensor @ part.jacobian).flatten(0, 1)
            gradient += jacobian.T @ part.vector.flatten()
        return ViewEquations(matrix, gradient)


class ViewEquations(NamedTuple):
    """Robust normal equations of one view, over the 7 or 11 variables of `motion_on_plane`."""

    matrix: Tensor
    """Gauss-Newton approximation of half the Hessian of the cost. (7 or 11, 7 or 11), float64."""
    gradient: Tensor
    """Half the gradient of the cost. (7 or 11,), float64."""


def usable_pixels(
    depth: Tensor,
    opacity: Tensor,
    mask: Tensor | None = None,
    min_opacity: float = 0.9,
    max_depth_step: float = 0.05,
) -> Tensor:
    """Select the pixels whose rendered depth is reliable enough to predict their image motion.

    Args:
        depth: Rendered depth (z). (H, W).
        opacity: Rendered opacity, 0 to 1. (H, W).
        mask: False for pixels to exclude; None to exclude no pixels. (H, W), bool.
        min_opacity: Pixels with this opacity or less are excluded.
        max_depth_step: Pixels are excluded if the largest depth in their 3 x 3 neighborhood exceeds the
            smallest depth by this fraction or more.

    Returns:
        True for opaque pixels with continuous depth, except at the image border. (H, W), bool.
    """
    farthest = max_pool2d(depth[None, None], 3, 1, 1)[0, 0]
    nearest = -max_pool2d(-depth[None, None], 3, 1, 1)[0, 0]
    used = (opacity > min_opacity) & (nearest > 0) & (farthest - nearest < max_depth_step * nearest)
    used[[0, -1]] = False
    used[:, [0, -1]] = False
    return used if mask is None else used & mask


def compare(
    rendering: Rendering, image: Tensor, mask: Tensor | None, K: Tensor, lens: LensModel | None
) -> RenderedView:
    """Pair a rendering with the image of the same view, and select the pixels to compare.

    Args:
        rendering: Rendering of the view, with depth.
        image: The image. (H, W, 3), in [0, 1].
        mask: True for used pixels (H, W, 1); None if all pixels are used.
        K: Intrinsic matrix in pixels of the rendering. (3, 3).
        lens: Projection and distortion of rendering and image, with a distortion of None to refine only pose
            and focal length; None for a pinhole camera.
    """
    depth = rendering.depth.squeeze(-1)
    used = usable_pixels(depth, rendering.opacity.squeeze(-1), None if mask is None else mask.squeeze(-1))
    if mask is not None:  # masked pixels must not affect image gradients beside the mask
        image = torch.where(mask, image, rendering.rgb)
    intrinsics = K.diagonal()[:2], K[:2, 2], *(lens or ())
    view = RenderedView(rendering.rgb, image, depth, used, *intrinsics)
    return replace(view, used=used & view.in_front()) if view.is_fisheye else view


def robust_noise(view: RenderedView) -> float:
    """Estimate the standard deviation of the photometric residuals from their median absolute value.

    Args:
        view: Rendering and image.

    Returns:
        The standard deviation in units of color (0 to 1), at least `MIN_NOISE`.
    """
    residuals = view.residuals()
    return max(robust_sigma(residuals.abs()), MIN_NOISE) if len(residuals) else MIN_NOISE


def photometric_cost(view: RenderedView, noise: float) -> float:
    """Compute the Cauchy cost of the photometric residuals, summed over the used pixels.

    Args:
        view: Rendering and image.
        noise: Standard deviation of the residuals, in units of color (0 to 1).

    Returns:
        Cost of the residuals divided by `noise`.
    """
    return float(cauchy_cost(_squared(view.residuals(), noise)).double().sum())


def pixel_equations(view: RenderedView, noise: float) -> PixelEquations:
    """Approximate the photometric cost of every used pixel by a quadratic function of its image motion.

    Args:
        view: Rendering and image.
        noise: Standard deviation of the residuals, in units of color (0 to 1).

    Returns:
        The equations of the used pixels.
    """
    residuals = view.residuals()
    rays = view.rays()
    points_camera, plane = view.depth[view.used][:, None] * rays, to_plane(rays, view.is_fisheye)
    motion = motion_on_plane(points_camera, plane, view.is_fisheye, view.distortion)
    jacobian = view.focal[:, None] * motion
    gradient = _image_gradient((view.rendered + view.image) / 2)[view.used]  # (N, 3, 2)
    weight = cauchy_weight(_squared(residuals, noise)) / (3 * noise**2)
    return PixelEquations(
        jacobian,
        torch.einsum("n,nci,ncj->nij", weight, gradient, gradient),
        -torch.einsum("n,nci,nc->ni", weight, gradient, residuals),
    )


def information_weight(pixels: PixelEquations, used: Tensor, num_blocks: int = 12) -> float:
    """Compute the factor on a view's photometric cost that accounts for correlated residuals.

    Photometric residuals are spatially correlated, because blur and shading affect neighboring pixels
    together. A cost that treats the residuals as independent overstates the Fisher information about the
    pose, and would have too much weight relative to the tracks. The factor p / tr(H^-1 S) corrects this on
    average over the p = 6 pose parameters, as for a composite likelihood (Varin, Reid and Firth 2011). H is
    the matrix of the normal equations of the pose, and S is the covariance of their gradient. S is estimated
    from the gradients of image blocks at the pose that minimizes the quadratic approximation of the cost of
    this view.

    Args:
        pixels: Equations of the used pixels.
        used: True for the used pixels, to which `pixels` belongs. (H, W), bool.
        num_blocks: Number of blocks along the longer side of the image. Residuals of different blocks are
            assumed to be uncorrelated.

    Returns:
        The factor; 0 if the pixels do not determine the pose, or lie in fewer than `MIN_BLOCKS` blocks.
    """
    equations, jacobian = pixels.sum(), pixels.jacobian[..., :6]
    factor, info = torch.linalg.cholesky_ex(equations.matrix[:6, :6])
    if info != 0 or not len(jacobian):
        return 0.0
    best = -torch.cholesky_solve(equations.gradient[:6, None], factor).to(jacobian)
    remaining = pixels.vector + (pixels.tensor @ (jacobian @ best)).squeeze(-1)
    scores = torch.einsum("nip,ni->np", jacobian, remaining)
    row, column = torch.nonzero(used, as_tuple=True)
    size = -(-max(used.shape) // num_blocks)
    block = (row // size) * -(-used.shape[1] // size) + column // size
    if len(block.unique()) < MIN_BLOCKS:
        return 0.0
    sums = scores.new_zeros(int(block.max()) + 1, 6).index_add_(0, block, scores).double()
    spread = torch.cholesky_solve(sums.T @ sums, factor).diagonal().sum()
    return float(6 / spread) if spread > 0 else 0.0


def motion_on_plane(
    points_camera: Tensor, plane: Tensor, is_fisheye: bool = False, distortion: Tensor | None = None
) -> Tensor:
    """Compute the derivatives of projections on the plane with respect to camera pose and intrinsics.

    With distortion, the derivatives are those of the distorted projection d(p) (see `geometry.distortion`),
    as in bundle adjustment. For the equidistant projection, whose Jacobian at the point X is J, the
    derivative with respect to a translation is J, and that with respect to a rotation is -J [X]x.

    Args:
        points_camera: N points X in camera coordinates. (N, 3).
        plane: Undistorted projections p of the points. (N, 2).
        is_fisheye: Whether the projection is equidistant instead of perspective.
        distortion: Distortion coefficients; None if distortion is neither present nor refined. (6,).

    Returns:
        Derivatives with respect to the following variables, in this order: the rotation (3) and translation
        (3) increments of `rigid.move_poses`, and the logarithm of the focal length (1). (N, 2, 7). With
        `distortion`, these are followed by the principal point in units of focal length (2), k1 and k2.
        (N, 2, 11).
    """
    if is_fisheye:
        by_position = equidistant_jacobian(points_camera)
        pose = torch.cat([-by_position @ skew(points_camera), by_position], -1)
    else:
        by_position = projection_jacobian(plane, 1 / points_camera[:, 2])
        pose = torch.cat([rotation_jacobian(plane), by_position], -1)
    if distortion is None:
        return torch.cat([pose, plane[..., None]], -1)
    bend, unit = distortion_jacobian(plane, distortion), torch.eye(2, dtype=plane.dtype, device=plane.device)
    by_focal, by_terms = distort(plane, distortion)[..., None], distortion_term_jacobian(plane)[..., :2]
    return torch.cat([bend @ pose, by_focal, unit.expand_as(bend), by_terms], -1)


def _squared(residuals: Tensor, noise: float) -> Tensor:
    """Compute the mean squared residual of each pixel, divided by noise^2.

    Args:
        residuals: Color residuals. (N, 3).
        noise: Standard deviation of the residuals.

    Returns:
        Mean over the color channels. (N,).
    """
    return residuals.square().mean(-1) / noise**2


def _image_gradient(image: Tensor) -> Tensor:
    """Compute central differences along x, then y; zero at the border. (H, W, 3) -> (H, W, 3, 2)."""
    gradient = image.new_zeros(*image.shape, 2)
    gradient[:, 1:-1, :, 0] = (image[:, 2:] - image[:, :-2]) / 2
    gradient[1:-1, :, :, 1] = (image[2:] - image[:-2]) / 2
    return gradient
