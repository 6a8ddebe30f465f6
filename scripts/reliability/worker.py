"""Reconstruct one image set with the `nope_splat` on the Python path.

This file is run by its path, not as a module, because another checkout also has a package `scripts`. It only
uses functions that all tested versions of nope_splat have. The outcome is written as JSON; an error of
nope_splat is also an outcome.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import nope_splat
from nope_splat import NopeSplatError, SfmOptions, reconstruct
from nope_splat.sfm.initialization.known_cameras import KnownCamerasInitialization
from nope_splat.utils.terminal import show_messages

Outcome = dict[str, Any]


def run(
    images: Path,
    output: Path,
    timeout: int,
    known_cameras: Path | None = None,
    max_keypoints: int | None = None,
    cache_dir: Path | None = None,
) -> None:
    """Reconstruct an image set and write the outcome.

    Args:
        images: Folder of the images.
        output: JSON file for the outcome.
        timeout: Time limit in seconds, after which the process ends with an error.
        known_cameras: File of the known cameras, which initialize the reconstruction; None to reconstruct
            without known cameras.
        max_keypoints: Maximum number of keypoints per image; None for the default.
        cache_dir: Folder of cached matches, from which cached reconstructions are removed first; None for no
            cache.
    """
    faulthandler.dump_traceback_later(timeout, exit=True)
    show_messages()
    options = SfmOptions()
    if max_keypoints is not None:
        options = replace(options, matching=replace(options.matching, max_keypoints=max_keypoints))
    if known_cameras is not None:
        options = replace(options, initialization=KnownCamerasInitialization(known_cameras))
    if cache_dir is not None:
        for stale in cache_dir.glob("scene-*"):  # the reconstruction may come from other code
            stale.unlink()
    outcome: Outcome = {"package": str(Path(nope_splat.__file__).resolve().parents[1])}
    start = time.perf_counter()
    try:
        scene = reconstruct(images, options=options, cache_dir=cache_dir)
        outcome |= {"seconds": time.perf_counter() - start, **summarize(scene)}
    except NopeSplatError as error:
        outcome |= {"seconds": time.perf_counter() - start}
        outcome |= {"refused": {"code": error.code, "message": str(error)}}
    except Exception:
        outcome |= {"seconds": time.perf_counter() - start, "crashed": traceback.format_exc()[-3000:]}
    output.write_text(json.dumps(outcome, default=to_plain))


def summarize(scene: Any) -> Outcome:
    """Collect the properties of a reconstruction that are judged, for any version of nope_splat.

    Args:
        scene: The reconstruction.
    """
    registered = np.flatnonzero(scene.registered).tolist()
    notices = [{"code": notice.code, "message": notice.message} for notice in getattr(scene, "notices", ())]
    trust = getattr(scene, "trust", None)
    return {
        "images": list(scene.image_names),
        "cameras": {
            scene.image_names[i]: {
                "T_world_camera": scene.T_world_camera[i].tolist(),
                "focal": float(scene.camera_of(i).focal / scene.image_sizes[i].max()),
            }
            for i in registered
        },
        "failures": scene.failures,
        "notice": getattr(scene, "notice", ""),
        "notices": notices,
        "trust": trust if trust is None else dataclasses.asdict(trust),
        "reprojection_error": float(np.median(scene.reprojection_errors())),
        "points": len(scene.points),
        "stages": scene.seconds,
    }


def to_plain(value: Any) -> Any:
    """Convert a value that the `json` module does not support: arrays, NumPy numbers, paths and sets."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


if __name__ == "__main__":
    tyro.cli(run)
