"""Log what users should know about their photos and masks: one message for each kind of problem."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nope_splat.io.color import ColorProblem
from nope_splat.io.photo_files import PhotoFiles, examples

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileFindings:
    """What the user should know about a photo and its mask."""

    has_frames: bool = False
    """Whether the file contains several pictures, of which the first one is used."""
    color_problem: ColorProblem | None = None
    """Why the colors cannot be converted to sRGB; None if they can be, or are sRGB."""
    scaled_mask: Path | None = None
    """The mask file, if its size differs from the size of the photo; else None."""


def log_listing(root: Path, files: PhotoFiles) -> None:
    """Log which files of an image folder are not read, and which masks are not used.

    Args:
        root: The image folder.
        files: The files in the image folder.
    """
    for part in files.unread:
        logger.warning(f"In {root}, {part}.")
    masks = files.masks
    if masks.rejected:
        photo, others = next(iter(masks.rejected.items()))
        logger.warning(
            f"These photos have several masks: {examples(list(masks.rejected))}. For example,"
            f" {masks.paths[photo]} is used and {others[0]} is not; remove the masks that should not be used."
        )
    for folder in masks.folders:
        unused = [path.relative_to(folder).as_posix() for path in masks.unused if path.is_relative_to(folder)]
        if unused:
            logger.warning(
                f"These masks in {folder} are not used because no photo has their name: {examples(unused)}."
            )


def log_findings(findings: Mapping[str, FileFindings]) -> None:
    """Log which photos are only partly used, or have colors or masks that need attention.

    Args:
        findings: Findings by photo name.
    """

    def names(condition: Callable[[FileFindings], bool]) -> list[str]:
        return [name for name, finding in findings.items() if condition(finding)]

    if frames := names(lambda finding: finding.has_frames):
        logger.warning(
            f"These files contain several pictures, of which only the first is used: {examples(frames)}."
        )
    if damaged := names(lambda finding: finding.color_problem == "damaged"):
        logger.warning(
            f"The color profiles of these photos are damaged and ignored: {examples(damaged)}. If their"
            " colors differ from the other photos, save them again in sRGB."
        )
    if hdr := names(lambda finding: finding.color_problem == "hdr"):
        logger.warning(
            f"The HDR colors of these photos are not converted: {examples(hdr)}. If their colors differ from"
            " the other photos, export them as JPEG."
        )
    masks = (str(finding.scaled_mask) for finding in findings.values() if finding.scaled_mask is not None)
    if scaled := list(dict.fromkeys(masks)):  # all frames of a video have the same mask
        logger.warning(f"These masks are scaled because their photos have another size: {examples(scaled)}.")
