"""Reconstruct one image set with the `nope_splat` on the Python path, in a process of its own.

Run by its path, not as a module: another checkout has a package `scripts` of its own. It only uses what all
versions of the package have. The outcome is written as JSON; an error of the package is an outcome, too.
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
    """Reconstruct and write the outcome.

    Args:
        images: Folder of images.
        output: JSON file to write.
        timeout: Seconds after which the process ends with an error.
        known_cameras: Cameras to start from.
        max_keypoints: Maximum number of keypoints of an image; None for the default.
        cache_dir: Folder of cached matches; reconstructions in it are ignored.
    """
    faulthandler.dump_traceback_later(timeout, exit=True)
    show_messages()
    options = SfmOptions()
    if max_keypoints is not None:
        options = replace(options, matching=replace(options.matching, max_keypoints=max_keypoints))
    if known_cameras is not None:
        options = replace(options, initialization=KnownCamerasInitialization(known_cameras))
    if cache_dir is not None:
        for stale in cache_dir.glob("scene-*"):  # made by other code, perhaps
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
    """Collect what is judged of a reconstruction; of any version of the package.

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
    """Convert what JSON does not know: arrays, numbers of numpy, paths and sets."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


if __name__ == "__main__":
    tyro.cli(run)
