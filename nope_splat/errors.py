"""The exception for mistakes that the user can mend."""

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
"""What can be wrong; `NopeSplatError` explains each code."""


class NopeSplatError(Exception):
    """Bad input, or a machine that lacks something.

    `str(error)` is one sentence for the user: what is wrong, in which file or option, and what to do. The
    commands print it after `nope-splat:` and exit with status 1. Programs compare the code:

    - `missing-file`: A file or folder does not exist.
    - `unreadable-file`: A file or folder is damaged, may not be read, or holds something else.
    - `unreadable-image`: A photo or mask cannot be decoded.
    - `unwritable-output`: A file or folder cannot be written, or must not be overwritten.
    - `wrong-size`: A mask or depth map has another size than its photo.
    - `name-mismatch`: A name refers to no photo.
    - `too-few-images`: Fewer than two photos are left to reconstruct.
    - `no-texture`: No photo has enough keypoints.
    - `no-matches`: No two photos match, or they match only as isolated pairs.
    - `no-baseline`: The camera only turned: no two photos were taken from different places.
    - `no-cameras`: Fewer than two photos have a pose, found or given.
    - `doubtful-cameras`: There is reason to doubt the cameras, and the option strict is set.
    - `inconsistent-depth`: Depth maps or pointmaps contradict the matches of all photos.
    - `unsupported-scene`: A benchmark does not support masks or several cameras.
    - `missing-option`: An option has to be given.
    - `invalid-option`: The value of an option is out of range, or impossible for these photos.
    - `conflicting-options`: Two options contradict each other, or one has no effect without another.
    - `missing-package`: A Python package is not installed.
    - `missing-weights`: The weights of a network are neither on this machine nor can be downloaded.
    - `missing-device`: There is no GPU, or there are no kernels for it.
    - `damaged-checkpoint`: A checkpoint cannot be loaded.
    - `checkpoint-mismatch`: A training has other photos, settings or another version than its checkpoint.
    - `run-in-use`: Another process is training in the folder of the run.
    - `nothing-to-evaluate`: No photo is held out, or no held-out photo could be registered.

    Args:
        code: What is wrong, for programs.
        message: What is wrong, for the user.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(code, message)  # both, or unpickling in another process fails
        self.code: ErrorCode = code

    def __str__(self) -> str:
        return self.args[1]
