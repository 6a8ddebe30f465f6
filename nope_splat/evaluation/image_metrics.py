"""Image metrics of renderings: PSNR, SSIM and LPIPS."""

from __future__ import annotations

import logging
from functools import cached_property

import torch
from pytorch_msssim import ssim
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class ImageMetrics:
    """PSNR, SSIM and LPIPS of a rendering with an optional mask, defined as in Splatfacto.

    SSIM is computed by pytorch_msssim, as in Splatfacto, and not by the code of the training loss, because a
    metric should not share code with the loss that is optimized. The training loss uses a separate kernel,
    which is faster on a CPU and tested against pytorch_msssim.

    SSIM and LPIPS need whole images. With a mask, the ground truth pixels that are not evaluated are replaced
    by pixels of the rendering, and the values 1 - SSIM and LPIPS are divided by the fraction of evaluated
    pixels.

    The weights of LPIPS are downloaded on first use. If the download fails, a message is logged once and
    LPIPS is omitted. The class is not an `nn.Module`, so that checkpoints do not contain these weights.
    """

    def __call__(self, rendered: Tensor, image: Tensor, mask: Tensor | None = None) -> dict[str, float]:
        """Compute all available metrics of a rendering.

        Args:
            rendered: Rendered image. (H, W, 3), in [0, 1].
            image: Ground truth image. (H, W, 3), in [0, 1].
            mask: True for pixels that are evaluated; None to evaluate all pixels. (H, W, 1), bool.

        Returns:
            Metrics by name: `psnr` in dB, `ssim` and, if its weights are available, `lpips`.
        """
        metrics, unmasked_ratio = {"psnr": float(self.psnr(rendered, image, mask))}, 1.0
        if mask is not None:
            image, unmasked_ratio = torch.where(mask, image, rendered), float(mask.float().mean())
        images = rendered.permute(2, 0, 1)[None], image.permute(2, 0, 1)[None]
        metrics["ssim"] = 1 - (1 - float(ssim(*images, data_range=1.0))) / unmasked_ratio
        if self._lpips is not None:
            metrics["lpips"] = float(self._lpips.to(rendered.device)(*images)) / unmasked_ratio
        return metrics

    @staticmethod
    def psnr(rendered: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the peak signal-to-noise ratio of a rendering in dB.

        Args:
            rendered: Rendered image. (H, W, 3), in [0, 1].
            image: Ground truth image. (H, W, 3), in [0, 1].
            mask: True for pixels that are evaluated; None to evaluate all pixels. (H, W, 1), bool.

        Returns:
            PSNR in dB; infinity for equal images. ().
        """
        squared = (rendered - image).square()
        mse = squared.mean() if mask is None else squared[mask.expand_as(squared)].mean()
        return -10 * torch.log10(mse)

    @cached_property
    def _lpips(self) -> nn.Module | None:
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            return LearnedPerceptualImagePatchSimilarity(normalize=True)
        except Exception as error:  # the download, the cache and the package raise many kinds of errors
            logger.warning(
                f"LPIPS is unavailable because its weights cannot be loaded ({type(error).__name__}:"
                f" {error})."
            )
            return None
