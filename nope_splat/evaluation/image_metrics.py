"""How well a rendering agrees with an image: PSNR, SSIM, LPIPS."""

from __future__ import annotations

import logging
from functools import cached_property

import torch
from pytorch_msssim import ssim
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class ImageMetrics:
    """The metrics of Splatfacto, so that figures compare; masked pixels do not count.

    SSIM and LPIPS need whole images: masked pixels are made equal, and the difference that is left, spread
    over all pixels, is gathered on those that count.

    LPIPS needs weights from the network. They are fetched when first asked for, and where they cannot be had
    the metric is left out, which is said once. (No module on purpose: its weights stay out of checkpoints.)
    """

    def __call__(self, rendered: Tensor, image: Tensor, mask: Tensor | None = None) -> dict[str, float]:
        """All metrics that are available.

        Args:
            rendered: Rendered image. (H, W, 3), in [0, 1].
            image: Image. (H, W, 3), in [0, 1].
            mask: True where the image counts. (H, W, 1), bool.

        Returns:
            `psnr`, `ssim` and perhaps `lpips`.
        """
        metrics, share = {"psnr": float(self.psnr(rendered, image, mask))}, 1.0
        if mask is not None:
            image, share = torch.where(mask, image, rendered), float(mask.float().mean())
        images = rendered.permute(2, 0, 1)[None], image.permute(2, 0, 1)[None]
        metrics["ssim"] = 1 - (1 - float(ssim(*images, data_range=1.0))) / share
        if self._lpips is not None:
            metrics["lpips"] = float(self._lpips.to(rendered.device)(*images)) / share
        return metrics

    @staticmethod
    def psnr(rendered: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Peak signal-to-noise ratio in dB; arguments as for the whole. ()."""
        squared = (rendered - image).square()
        mse = squared.mean() if mask is None else squared[mask.expand_as(squared)].mean()
        return -10 * torch.log10(mse)

    @cached_property
    def _lpips(self) -> nn.Module | None:
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            return LearnedPerceptualImagePatchSimilarity(normalize=True)
        except Exception as error:  # whatever the download, the cache or the package raises
            logger.warning(
                f"LPIPS is unavailable, its weights cannot be had ({type(error).__name__}: {error})."
            )
            return None
