"""Measure the error of SSIM in single precision, relative to double precision, on the GPU.

    python -m scripts.gpu.ssim_precision --image FILE --output FILE

PyTorch by default allows cuDNN to compute convolutions in TF32, which has ten bits of mantissa. The variances
in SSIM are differences of filtered squares, which can lose precision.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nope_splat.splatting.rasterizer import ssim
from nope_splat.utils.terminal import set_up_terminal


def measure(image: Path, output: Path) -> None:
    """Measure the errors of SSIM with and without TF32, in the memory layout that training uses.

    Args:
        image: Path of an image, from which test images are made.
        output: JSON file for the results.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with Image.open(image) as file:
        target = np.asarray(file.convert("RGB"), np.float64) / 255
    result: dict[str, Any] = {"device": device, "size": list(target.shape[1::-1])}
    for name, images in pairs(target).items():
        pair = [torch.from_numpy(each) for each in images]
        exact = value_and_gradient(pair[0], pair[1], reference=True)
        result[name] = {"ssim": float(exact[0])}
        for allowed in (True, False):
            torch.backends.cudnn.allow_tf32 = allowed
            result_on_device = value_and_gradient(pair[0].float().to(device), pair[1].float().to(device))
            result[name]["tf32" if allowed else "no_tf32"] = deviations(result_on_device, exact)
    output.write_text(json.dumps(result))


def pairs(image: NDArray[np.floating]) -> dict[str, tuple[NDArray[np.floating], NDArray[np.floating]]]:
    """Create pairs of a rendering and an image that resemble those in a training.

    Args:
        image: An image. (H, W, 3), in [0, 1].

    Returns:
        Pairs (H, W, 3) by name: "blurred", a blurred rendering; "close", an almost perfect rendering; and
        "flat", the worst case of two bright and nearly constant images, whose variances are small differences
        of large numbers.
    """
    noise = np.random.default_rng(0).normal(size=(2, *image.shape))
    flat = np.clip(0.9 + 0.002 * noise, 0, 1)
    return {
        "blurred": (np.asarray(cv2.GaussianBlur(image, (0, 0), 4.0), np.float64), image),
        "close": (np.clip(image + 0.02 * noise[0], 0, 1), image),
        "flat": (flat[0], flat[1]),
    }


def value_and_gradient(rendered: Tensor, target: Tensor, reference: bool = False) -> tuple[Tensor, Tensor]:
    """Compute SSIM and its gradient with respect to the rendering.

    Args:
        rendered: Rendering. (H, W, 3).
        target: Image. (H, W, 3).
        reference: Whether to use pytorch_msssim, in the precision of the images, instead of the SSIM of the
            training loss.

    Returns:
        SSIM () and its gradient (H, W, 3), converted to double precision on the CPU.
    """
    from pytorch_msssim import ssim as plain_ssim

    rendered = rendered.clone().requires_grad_()
    if reference:
        planes = (each.permute(2, 0, 1)[None].contiguous() for each in (rendered, target))
        value = plain_ssim(*planes, data_range=1.0)
    else:
        value = ssim(rendered, target)
    value.backward()
    assert rendered.grad is not None
    return value.detach().double().cpu(), rendered.grad.double().cpu()


def deviations(measured: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Compute the errors of SSIM and its gradient.

    Args:
        measured: Value and gradient in single precision.
        exact: Value and gradient in double precision.

    Returns:
        `value`, the absolute error of SSIM; `gradient_max`, the largest absolute error of the gradient
        divided by its largest absolute value; and `gradient_rms`, the RMS error of the gradient divided by
        its RMS value.
    """
    difference = measured[1] - exact[1]
    return {
        "value": float((measured[0] - exact[0]).abs()),
        "gradient_max": float(difference.abs().max() / exact[1].abs().max()),
        "gradient_rms": float(difference.square().mean().sqrt() / exact[1].square().mean().sqrt()),
    }


if __name__ == "__main__":
    set_up_terminal()
    tyro.cli(measure)
