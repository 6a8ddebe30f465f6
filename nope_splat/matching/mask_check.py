"""Recognize masks that hide the subject instead of its surroundings, by the keypoints that they hide."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from nope_splat.io.images import ImageFile
from nope_splat.matching.options import InvertedMaskOptions
from nope_splat.scene.features import Keypoints

logger = logging.getLogger(__name__)


def warn_about_inverted_masks(
    images: Sequence[ImageFile], keypoints: Sequence[Keypoints], options: InvertedMaskOptions
) -> None:
    """Log a warning if the masks of all photos together seem to be inverted.

    Inverted masks hide most keypoints that would be matched. Correct masks of a small object also leave few
    keypoints, but in a small area. Masks therefore seem to be inverted if they leave a small fraction of the
    keypoints, and if the used area has a much lower density of keypoints than the hidden area. Inverted masks
    are not recognized if the surroundings have much texture; enough keypoints are then left.

    Args:
        images: The images; those without a mask file are ignored.
        keypoints: Keypoints of each image, with `mask_effect`.
        options: Thresholds.
    """
    effects = [
        features.mask_effect
        for image, features in zip(images, keypoints, strict=True)
        if image.mask_path is not None and features.mask_effect is not None
    ]
    used = sum(effect.num_used for effect in effects)
    hidden = sum(effect.num_hidden for effect in effects)
    if not hidden:
        return
    used_share = used / (used + hidden)
    used_area = sum(effect.used_area for effect in effects) / len(effects)
    is_rare = used * (1 - used_area) < options.max_density_ratio * hidden * used_area
    if used_share < options.max_keypoint_share and is_rare:
        is_inverted = any(image.mask_inverted for image in images)
        advice = "remove the option invert-masks" if is_inverted else "set the option invert-masks"
        logger.warning(
            f"The masks seem to be inverted: {used_area:.0%} of the area is used, but has only"
            f" {used_share:.1%} of the keypoints. If the masks hide the subject, {advice}."
        )
