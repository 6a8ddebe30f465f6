"""Image metrics: PSNR, SSIM and LPIPS."""

from __future__ import annotations

import logging
from functools import cached_property

import torch
from pytorch_msssim import ssim
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class ImageMetrics:
    """Masked PSNR, SSIM and LPIPS, with Splatfacto's definitions so that figures are comparable.

    SSIM is that of pytorch_msssim, as in Splatfacto, and not that of the training loss: a metric should not
    share code with what is optimized. The loss has a fused kernel, which saves time on a CPU in every
    iteration, and which is tested against pytorch_msssim.

    SSIM and LPIPS need whole images: masked pixels are made equal, and the difference that is left, spread
    over all pixels, is gathered on those that count.

    The weights of LPIPS are downloaded on first use. If that fails, a message is printed once and the metric
    is omitted. (The class is not an `nn.Module`, so that these weights stay out of checkpoints.)
    """

    def __call__(self, rendered: Tensor, image: Tensor, mask: Tensor | None = None) -> dict[str, float]:
        """Compute all available metrics.

        Args:
            rendered: Rendered image. (H, W, 3), in [0, 1].
            image: Ground truth image. (H, W, 3), in [0, 1].
            mask: True for pixels that are evaluated. (H, W, 1), bool.

        Returns:
            `psnr`, `ssim` and, if available, `lpips`.
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
        """Compute the peak signal-to-noise ratio in dB. ().

        Args:
            rendered: Rendered image. (H, W, 3), in [0, 1].
            image: Ground truth image. (H, W, 3), in [0, 1].
            mask: True for pixels that are evaluated. (H, W, 1), bool.
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
