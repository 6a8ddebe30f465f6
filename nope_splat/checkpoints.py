"""The checkpoints of a run: which is the last one, and whether it is whole."""

from __future__ import annotations

import zipfile
from pathlib import Path

from nope_splat.errors import UserError


def last_checkpoint(folder: Path) -> Path:
    """The checkpoint that nerfstudio would load from a folder, which it does not check.

    Args:
        folder: The `nerfstudio_models` of a run.

    Returns:
        The file.

    Raises:
        UserError: If there is none, or it is damaged.
    """
    found = sorted(folder.glob("step-*.ckpt"))
    if not found:
        raise UserError(f"there is no checkpoint in {folder}; let the training run until it saves one")
    if not zipfile.is_zipfile(found[-1]):  # a zip archive ends with its directory: what is cut off has none
        raise UserError(f"the checkpoint {found[-1]} is damaged; remove it, and train anew or from another")
    return found[-1]
