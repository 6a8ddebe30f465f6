"""The exception of this package for errors that the user can correct, and its error codes."""

from __future__ import annotations

from typing import Literal

ErrorCode = Literal[
    "missing-file",
    "unreadable-file",
    "unreadable-image",
    "unwritable-output",
    "wrong-size",
    "name-mismatch",
    "too-few-images",
    "no-texture",
    "no-matches",
    "no-baseline",
    "no-cameras",
    "doubtful-cameras",
    "inconsistent-depth",
    "unsupported-scene",
    "missing-option",
    "invalid-option",
    "conflicting-options",
    "missing-package",
    "missing-weights",
    "missing-device",
    "damaged-checkpoint",
    "checkpoint-mismatch",
    "run-in-use",
    "nothing-to-evaluate",
]
"""Error codes of `NopeSplatError`; the docstring of `NopeSplatError` explains each code."""


class NopeSplatError(Exception):
    """An error that the user can correct: wrong input or options, or a missing file, package or device.

    `str(error)` is one sentence for the user: what is wrong, in which file or option, and what to do. The
    commands print this sentence after `nope-splat:` and exit with status 1. Programs distinguish errors by
    `error.code`:

    - `missing-file`: A file or folder does not exist.
    - `unreadable-file`: A file or folder is damaged, has the wrong format, or lacks read permission.
    - `unreadable-image`: A photo or mask cannot be decoded.
    - `unwritable-output`: A file or folder cannot be written, or must not be overwritten.
    - `wrong-size`: A mask or depth map differs in size from its photo.
    - `name-mismatch`: A camera file or an option names a photo that does not exist.
    - `too-few-images`: Fewer than two photos are left for the reconstruction.
    - `no-texture`: No photo has enough keypoints.
    - `no-matches`: No two photos match, or all matching photos form isolated pairs.
    - `no-baseline`: The camera only rotated: no two photos were taken from different positions.
    - `no-cameras`: Fewer than two photos have a pose, whether estimated or read from a file.
    - `doubtful-cameras`: The estimated cameras may be wrong, and the option `strict` is set.
    - `inconsistent-depth`: Depth maps or pointmaps contradict the matches of all photos.
    - `unsupported-scene`: A benchmark script does not support masks or several cameras.
    - `missing-option`: A required option is not set.
    - `invalid-option`: The value of an option is out of range, or impossible for these photos.
    - `conflicting-options`: Two options contradict each other, or an option requires another option.
    - `missing-package`: A Python package is not installed.
    - `missing-weights`: The weights of a network are not on this machine and cannot be downloaded.
    - `missing-device`: PyTorch finds no GPU, or gsplat has no kernels for the GPU.
    - `damaged-checkpoint`: A checkpoint cannot be loaded.
    - `checkpoint-mismatch`: A checkpoint was saved with other photos or settings, or by another version.
    - `run-in-use`: Another process is training in the folder of the run.
    - `nothing-to-evaluate`: No photo is held out, or no held-out photo could be registered.

    Args:
        code: Error code, for programs.
        message: The sentence for the user.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(code, message)  # unpickling in another process needs both arguments
        self.code: ErrorCode = code

    def __str__(self) -> str:
        return self.args[1]
