"""Gaussian splatting written for clarity: every splat at every pixel, in any precision, by autograd."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

PARAMETERS = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "backgrounds")


@dataclass(frozen=True)
class Scene:
    """Arguments of `rasterization`."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    viewmats: Tensor
    Ks: Tensor
    backgrounds: Tensor
    width: int
    height: int

    def parameters(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def leaves(self, dtype: torch.dtype = torch.float32) -> Scene:
        """A copy whose tensors collect gradients."""
        return replace(
            self, **{k: v.detach().to(dtype).clone().requires_grad_() for k, v in self.parameters().items()}
        )

    def gradients(self) -> dict[str, Tensor]:
        """Gradients of the leaves, zero where none arrived."""
        return {k: torch.zeros_like(v) if v.grad is None else v.grad for k, v in self.parameters().items()}


def random_scene(seed: int, count: int = 60, width: int = 75, height: int = 50, cameras: int = 1) -> Scene:
    """Gaussians before and behind the cameras, on the border, far outside, in opaque stacks, tiny, huge."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    means = torch.cat([3 * rand(count, 2) - 1.5, 2 + 3 * rand(count, 1)], 1)
    scales = 0.03 * torch.exp(1.2 * randn(count, 3))
    opacities = rand(count)
    tenth = count // 10
    kinds = [torch.arange(k * tenth, (k + 1) * tenth) for k in range(5)]
    means[kinds[0], 2] *= -1  # behind
    means[kinds[1], :2] *= 4  # beyond the border and the clamped field of view
    scales[kinds[1]] *= 10
    means[kinds[2]] = means[kinds[2]] * torch.tensor([0.05, 0.05, 1.0])  # opaque stack
    scales[kinds[2]], opacities[kinds[2]] = 0.1, 0.9995
    scales[kinds[3]] = 1e-5
    scales[kinds[4]] = 2.0
    opacities[kinds[4]] = 0.2
    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    for camera in range(cameras):
        axis = 0.1 * randn(3)
        cross = torch.zeros(3, 3)
        cross[0, 1], cross[0, 2], cross[1, 2] = -axis[2], axis[1], -axis[0]
        viewmats[camera, :3, :3] = torch.matrix_exp(cross - cross.T)
        viewmats[camera, :3, 3] = 0.1 * randn(3)
    Ks = torch.tensor([[60.0, 0.0, width / 2 + 1], [0.0, 63.0, height / 2 - 2], [0.0, 0.0, 1.0]])
    return Scene(
        means,
        2 * randn(count, 4),
        scales,
        opacities,
        rand(count, 3),
        viewmats,
        Ks.repeat(cameras, 1, 1),
        rand(cameras, 3),
        width,
        height,
    )


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices of quaternions (w, x, y, z) of any length. (N, 4) to (N, 3, 3)."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def project(scene: Scene, camera: int, eps2d: float = 0.3) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """means2d, depths, covariances (N, 2, 2) with blur, compensations, and radii of one camera."""
    V, K = scene.viewmats[camera], scene.Ks[camera]
    p = scene.means @ V[:3, :3].T + V[:3, 3]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    z = p[:, 2]
    means2d = torch.stack([fx * p[:, 0] / z + cx, fy * p[:, 1] / z + cy], -1)
    x_margin, y_margin = 0.15 * scene.width, 0.15 * scene.height
    u = torch.clamp(p[:, 0] / z, (-x_margin - cx) / fx, (scene.width + x_margin - cx) / fx)
    v = torch.clamp(p[:, 1] / z, (-y_margin - cy) / fy, (scene.height + y_margin - cy) / fy)
    zero = torch.zeros_like(z)
    J = torch.stack(
        [torch.stack([fx / z, zero, -fx * u / z], -1), torch.stack([zero, fy / z, -fy * v / z], -1)], -2
    )
    M = J @ V[:3, :3] @ (rotation_matrices(scene.quats) * scene.scales[:, None])
    sharp = M @ M.transpose(-1, -2)
    covariance = sharp + eps2d * torch.eye(2, dtype=z.dtype)
    compensation = (sharp.det() / covariance.det()).clamp_min(1e-12).sqrt()
    half_trace = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
    longest = half_trace + (half_trace**2 - covariance.det()).clamp_min(0.01).sqrt()
    return means2d, z, covariance, compensation, torch.ceil(3 * longest.sqrt()).detach()


def render(
    scene: Scene,
    *,
    eps2d: float = 0.3,
    near: float = 0.01,
    far: float = 1e10,
    radius_clip: float = 0.0,
    antialiased: bool = False,
    render_mode: str = "RGB",
) -> tuple[Tensor, Tensor]:
    """Images (C, H, W, channels) and alphas (C, H, W, 1)."""
    pixels = torch.meshgrid(torch.arange(scene.width) + 0.5, torch.arange(scene.height) + 0.5, indexing="xy")
    pixel = torch.stack(pixels, -1).to(scene.means.dtype)
    images, alphas = [], []
    for camera in range(len(scene.viewmats)):
        mean, depth, covariance, compensation, radius = project(scene, camera, eps2d)
        x, y = mean.detach().unbind(-1)
        seen = (depth >= near) & (depth <= far) & (radius > radius_clip)
        seen &= (x + radius > 0) & (x - radius < scene.width)
        seen &= (y + radius > 0) & (y - radius < scene.height)
        order = torch.argsort(depth[seen], stable=True)
        mean, depth, covariance, compensation = (
            values[seen][order] for values in (mean, depth, covariance, compensation)
        )
        opacity, color = scene.opacities[seen][order], scene.colors[seen][order]
        background = scene.backgrounds[camera]
        if antialiased:
            opacity = opacity * compensation
        if render_mode in ("RGB+D", "RGB+ED"):
            color = torch.cat([color, depth[:, None]], -1)
            background = torch.cat([background, background.new_zeros(1)])
        elif render_mode in ("D", "ED"):
            color, background = depth[:, None], background.new_zeros(1)

        offset = mean[:, None, None] - pixel
        sigma = 0.5 * torch.einsum("nhwi,nij,nhwj->nhw", offset, torch.linalg.inv(covariance), offset)
        alpha = torch.clamp_max(opacity[:, None, None] * torch.exp(-sigma), 0.999)
        alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
        transmittance = torch.cumprod(1 - alpha, 0)
        ended = ((transmittance <= 1e-4) & (alpha > 0)).int().cumsum(0) > 0
        alpha = torch.where(ended, 0.0, alpha)
        after = torch.cat([torch.ones_like(pixel[None, ..., 0]), torch.cumprod(1 - alpha, 0)])
        image = torch.einsum("nhw,nc->hwc", alpha * after[:-1], color) + after[-1][..., None] * background
        total = 1 - after[-1][..., None]
        if render_mode in ("ED", "RGB+ED"):
            image = torch.cat([image[..., :-1], image[..., -1:] / total.clamp(min=1e-10)], -1)
        images.append(image)
        alphas.append(total)
    return torch.stack(images), torch.stack(alphas)


def random_loss(images: Tensor, alphas: Tensor) -> Tensor:
    """A loss with a different gradient at every pixel, the same for every precision."""
    g = torch.Generator().manual_seed(0)
    weights = torch.randn(images.shape, generator=g).to(images.dtype)
    return (weights * images).sum() + (alphas**2).sum()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-12)).item()
