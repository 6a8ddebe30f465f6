"""Optimized principal points and distortion of cameras, and their prior in joint refinement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nope_splat.geometry.camera import Camera
from nope_splat.geometry.distortion import NUM_TERMS
from nope_splat.geometry.rigid import rotate
from nope_splat.sfm import Reconstruction
from nope_splat.sfm.mapper_options import IntrinsicsPriorOptions
from nope_splat.splatting.lens import Lens


class LearnedLens(nn.Module):
    """Corrections of the principal points and the distortion of K cameras, relative to the reconstruction.

    The parameters are scaled so that the same learning rate suits all of them: a unit step moves image
    corners by about the same distance as a unit step of the log focal length. The parameters are:

    - `principal_point` (K, 2): Shift of the principal point (x, y), divided by the focal length.
    - `distortion` (K, 2): Change of k1, multiplied by r^2, and change of k2, multiplied by r^4. r is the
      distance of an image corner from the image center, divided by the focal length. The other distortion
      coefficients stay those of the reconstruction.

    If the images of a camera were turned upright by different angles, its principal point is fixed, because
    the upright images then have different principal points.

    Args:
        num_intrinsics: Number K of cameras.
        learn_principal_point: Whether to optimize principal points.
        learn_distortion: Whether to optimize distortion.
        by_gradient: Whether Adam optimizes the parameters; otherwise joint refinement optimizes them.
        device: Initial device of the parameters.
    """

    focal: Tensor
    """Focal lengths of the K cameras in the reconstruction, in full-resolution pixels. (K,)."""
    offset: Tensor
    """Principal points (x, y) in the reconstruction, in full-resolution pixels of the upright image, relative
    to the image center. (K, 2)."""
    base_distortion: Tensor
    """Distortion coefficients of the K cameras in the reconstruction, for upright images. (K, 6)."""
    size: Tensor
    """Maximum width and height of the images of each camera, in full-resolution pixels. (K, 2)."""
    one_orientation: Tensor
    """True for cameras whose images all have the same size and were turned upright in the same way. (K, 1),
    bool."""
    upright_from_sensor: Tensor
    """Rotation and mirroring from pixels of the sensor to pixels of the upright image, both relative to the
    image center; one matrix per camera, from its first image. (K, 2, 2)."""

    def __init__(
        self,
        num_intrinsics: int,
        learn_principal_point: bool,
        learn_distortion: bool,
        by_gradient: bool,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        pairs = torch.zeros(num_intrinsics, 2, device=device)
        self.learns = {"principal_point": learn_principal_point, "distortion": learn_distortion}
        self.principal_point = nn.Parameter(pairs.clone(), requires_grad=by_gradient)
        self.distortion = nn.Parameter(pairs.clone(), requires_grad=by_gradient)
        self.register_buffer("focal", torch.ones_like(pairs[:, 0]))
        self.register_buffer("offset", torch.zeros_like(pairs))
        self.register_buffer("base_distortion", pairs.new_zeros(num_intrinsics, NUM_TERMS))
        self.register_buffer("size", torch.ones_like(pairs))
        self.register_buffer("one_orientation", torch.ones_like(pairs[:, :1], dtype=torch.bool))
        self.register_buffer("upright_from_sensor", torch.eye(2, device=device).repeat(num_intrinsics, 1, 1))
        self._update()
        self.register_load_state_dict_post_hook(lambda module, _: module._update())

    def set_base(self, scene: Reconstruction) -> None:
        """Set the cameras of the reconstruction, to which the corrections are relative.

        Args:
            scene: Reconstruction of the original images. If `scene.focal_fixed` is True, the principal points
                are fixed too.
        """
        self.learns["principal_point"] &= not scene.focal_fixed
        turns = scene.upright_from_sensor
        for number, camera in enumerate(scene.cameras):
            images = np.flatnonzero(scene.camera_ids == number)
            sizes = np.unique(scene.image_sizes[images], axis=0)
            upright = scene.camera_of(int(images[0]))
            self.focal[number] = camera.focal
            self.offset[number] = self.offset.new_tensor(upright.offset)
            self.base_distortion[number] = self.base_distortion.new_tensor(upright.distortion)
            self.size[number] = torch.from_numpy(sizes.max(axis=0))
            is_turned_alike = turns is None or bool((turns[images] == turns[images[0]]).all())
            self.one_orientation[number] = is_turned_alike and len(sizes) == 1
            if turns is not None:
                self.upright_from_sensor[number] = torch.from_numpy(turns[images[0]])
        self._update()

    def lens(self) -> Lens:
        """Compute the current principal point shifts and distortion of the K cameras, for upright images.

        Returns:
            Principal point shifts (x, y) relative to the reconstruction in full-resolution pixels (K, 2), and
            distortion coefficients (K, 6).
        """
        shift, distortion = torch.zeros_like(self.offset), self.base_distortion
        if self.learns["principal_point"]:
            shift = self.focal[:, None] * self.principal_point * self.one_orientation
        if self.learns["distortion"]:
            distortion = distortion + pad(self.distortion / self._corner_radius_powers(), (0, NUM_TERMS - 2))
        return Lens(shift, distortion)

    @torch.no_grad()
    def set_lens(self, lens: Lens) -> None:
        """Set the corrections so that the cameras have given principal points and distortion.

        Parameters that are not optimized are not changed.

        Args:
            lens: Principal point shifts (x, y) relative to the reconstruction, in full-resolution pixels
                (K, 2); distortion coefficients, of which k1 and k2 are used (K, 6).
        """
        if self.learns["principal_point"]:
            self.principal_point.copy_(lens.shift / self.focal[:, None])
        if self.learns["distortion"]:
            change = (lens.distortion - self.base_distortion)[:, :2]
            self.distortion.copy_(change * self._corner_radius_powers())
        self._update()

    def cameras(self, start: Sequence[Camera]) -> tuple[Camera, ...]:
        """Return cameras with the current principal points and distortion.

        Args:
            start: The K cameras of the reconstruction.

        Returns:
            K cameras, with the focal lengths of `start`.
        """
        shift, terms = (part.detach().double() for part in self.lens()[:2])
        shifts, learned = rotate(self.upright_from_sensor.double().mT, shift).tolist(), terms[:, :2].tolist()
        return tuple(
            replace(
                camera,
                offset=(camera.offset[0] + dx, camera.offset[1] + dy),
                distortion=(k1, k2, *camera.distortion[2:]),
            )
            for camera, (dx, dy), (k1, k2) in zip(start, shifts, learned, strict=True)
        )

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the optimized parameters by the names of nerfstudio's parameter groups."""
        parameters = {"principal_point": self.principal_point, "distortion": self.distortion}
        return {f"{name}_opt": [parameters[name]] for name, learns in self.learns.items() if learns}

    def free_mask(self) -> Tensor:
        """Return which parameters of each camera are optimized. (K, 8), bool.

        The eight parameters are the principal point coordinates x and y, k1, k2, k3, k4, p1 and p2.
        """
        shift = self.one_orientation & self.learns["principal_point"]
        terms = torch.full_like(shift, self.learns["distortion"])
        return pad(torch.cat([shift, shift, terms, terms], 1), (0, NUM_TERMS - 2))

    def prior(self) -> tuple[Tensor, Tensor]:
        """Compute the Gaussian prior on principal points and distortion for joint refinement.

        The mean is a principal point at the image center and no distortion. With the
        estimate of the reconstruction as the mean, the track observations would count twice, because this
        estimate comes from the same observations that joint refinement uses.

        Returns:
            Mean and standard deviation of principal point shift x and y (full-resolution pixels, relative to
            the reconstruction), k1, k2, k3, k4, p1 and p2. Those of the last four, which are not optimized,
            are zero and one. (K, 8) each.
        """
        centered = IntrinsicsPriorOptions.principal_point_sigma_ratio * self.size.amax(
            1, keepdim=True
        ).expand(-1, 2)
        mean = torch.cat([-self.offset, torch.zeros_like(self.base_distortion)], 1)
        terms = IntrinsicsPriorOptions.corner_distortion_sigma / self._corner_radius_powers()
        sigma = torch.cat([centered, terms], 1)
        return mean, pad(sigma, (0, NUM_TERMS - 2), value=1.0)

    @torch.no_grad()
    def _update(self) -> None:
        """Update `has_distortion` after a change of the parameters or of the reconstruction."""
        by_gradient = self.learns["distortion"] and self.distortion.requires_grad
        self.has_distortion = by_gradient or bool(self.lens().distortion.any())
        """Whether any camera has distortion or may get distortion by a gradient step. The value is stored, so
        that rendering does not wait for a GPU."""

    def _corner_radius_powers(self) -> Tensor:
        """Compute r^2 and r^4 of each camera. (K, 2).

        r is the distance of an image corner from the image center, divided by the focal length.
        """
        square = (self.size.norm(dim=1) / 2 / self.focal) ** 2
        return torch.stack([square, square**2], 1)
