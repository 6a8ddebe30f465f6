"""nope-splat: a folder of photographs, without poses, intrinsics or order, into a Gaussian splat."""

__version__ = "0.1.0"
