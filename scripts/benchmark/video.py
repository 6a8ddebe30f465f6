"""Reconstruct videos, and compare the chosen frames with evenly spaced ones.

    python -m scripts.benchmark.video --clip CLIP [--clip CLIP ...] --output-dir OUT [--num-frames N]
    python -m scripts.benchmark.video --clip CLIP ... --output-dir OUT --num-frames N --compare

The first command runs `nope-splat reconstruct` on each video. The second one compares the chosen frames with
as many frames at equal distances in time. Both sets get the same test frames, which are evenly spaced in time
and in neither set; every eighth image is a test frame, which is held out from reconstruction and training.
The frames are trained with `ns-train` and evaluated with `ns-eval`.

Prints one Markdown table. Results are kept in `OUT`: run the same command again to continue.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from nope_splat.io.frame_choice import FrameOptions
from nope_splat.io.video import open_video
from nope_splat.io.video_frames import extract_frames
from nope_splat.utils.cache import Cache
from nope_splat.utils.terminal import set_up_terminal
from scripts.benchmark.stages import StageFailed, run_stage

EVAL_INTERVAL = 8
"""Interval of the test frames among the images of a set."""


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement of videos."""

    clip: tyro.conf.UseAppendAction[tuple[Path, ...]]
    """Video; repeat the flag for several videos."""
    output_dir: Path
    """Output folder. Results that it already contains are reused."""
    num_frames: int | None = None
    """Maximum number of frames of each video; by default that of nope-splat."""
    compare: bool = False
    """Whether to compare the chosen frames with evenly spaced frames."""
    iterations: int = 300
    """Number of iterations of the trainings of a comparison."""
    max_image_size: int = 256
    """Longer side of the training images of a comparison in pixels."""


def main(settings: Settings) -> None:
    """Measure every video, and print the table.

    Args:
        settings: Settings of the measurement.
    """
    columns = ["video", "frames", "registered", "focal length", "seconds", "notices"]
    if settings.compare:
        columns = ["video", "frames", "set", "registered", "focal length", "test frames", "PSNR", "SSIM"]
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns), flush=True)
    for clip in settings.clip:
        for row in (_compare if settings.compare else _reconstruct)(clip, settings):
            print("| " + " | ".join([clip.name, *row]) + " |", flush=True)


def _reconstruct(clip: Path, settings: Settings) -> list[list[str]]:
    """Run `nope-splat reconstruct` on a video, and return the row of the table without its name."""
    out = settings.output_dir / clip.stem / "reconstruction"
    flags = [] if settings.num_frames is None else ["--num-frames", str(settings.num_frames)]
    with open_video(clip) as video:
        total = str(video.num_frames)
    try:
        run_stage(
            ["nope-splat", "reconstruct", "--data", str(clip), "--output-dir", str(out / "files"), *flags],
            out,
        )
    except StageFailed as error:
        reason = str(error).strip().splitlines()[-1]
        return [["of " + total, "-", "-", "-", reason]]
    report = json.loads((out / "files" / "report.json").read_text())
    notices = ", ".join(notice["code"] for notice in report["notices"])
    seconds = f"{report['seconds_total']:.0f}"
    return [[f"{report['images']} of {total}", f"{report['registered']}", _focals(report), seconds, notices]]


def _compare(clip: Path, settings: Settings) -> list[list[str]]:
    """Train on chosen and evenly spaced frames, and return the rows of the table without the name."""
    out = settings.output_dir / clip.stem
    options = FrameOptions(num_frames=settings.num_frames)
    _, frames = extract_frames(clip, clip.name, options, Cache(out / "cache"))
    chosen = [int(Path(file).stem) for file in frames.files]
    even = _evenly_spaced(range(frames.total), len(chosen))
    unused = [index for index in range(frames.total) if index not in {*chosen, *even}]
    test = _evenly_spaced(unused, 1 + (len(chosen) - 1) // (EVAL_INTERVAL - 1))
    rows = []
    for name, indices in (("chosen", chosen), ("even", even)):
        folder = out / name
        _write_set(clip, folder / "images", indices, test)
        row = [f"{len(chosen)} of {frames.total}", name]
        try:
            rows.append([*row, *_train(folder, settings)])
        except StageFailed as error:
            rows.append([*row, "-", "-", "-", "-", str(error).strip().splitlines()[-1]])
    return rows


def _evenly_spaced(indices: Sequence[int], count: int) -> list[int]:
    """Select evenly spaced elements, at the centers of `count` equal parts of a sequence."""
    centers = (np.arange(count) + 0.5) * len(indices) / count
    return [indices[int(center)] for center in centers] if indices else []


def _write_set(clip: Path, folder: Path, indices: Sequence[int], test: Sequence[int]) -> None:
    """Write the frames of a set, named such that every eighth image is a test frame.

    Args:
        clip: The video.
        folder: Folder of the images.
        indices: Indices of the training frames, ascending.
        test: Indices of the test frames, ascending.
    """
    if folder.exists():
        return
    order, training = [], list(indices)
    for index in test:
        order += [index, *training[: EVAL_INTERVAL - 1]]
        del training[: EVAL_INTERVAL - 1]
    names = {index: f"{position:04d}.png" for position, index in enumerate([*order, *training])}
    partial = folder.with_name("partial")
    partial.mkdir(parents=True, exist_ok=True)
    with open_video(clip) as video:
        for index, frame in enumerate(frame for frame in video.frames() if frame is not None):
            if index in names:
                Image.fromarray(video.read_srgb(frame)).save(partial / names[index], compress_level=1)
    partial.rename(folder)


def _train(folder: Path, settings: Settings) -> list[str]:
    """Train on a set, and return the columns from `registered` on."""
    parser = "--pipeline.datamanager.dataparser"
    flags = {
        "--data": folder / "images",
        "--output-dir": folder / "train" / "files",
        "--experiment-name": "set",
        "--timestamp": "run",
        "--vis": "tensorboard",
        "--max-num-iterations": settings.iterations,
        "--steps-per-eval-image": 0,
        f"{parser}.eval-interval": EVAL_INTERVAL,
        f"{parser}.max-image-size": settings.max_image_size,
    }
    command = ["ns-train", "nope-splat", *(str(part) for flag in flags.items() for part in flag)]
    trained = run_stage(command, folder / "train")
    run = folder / "train" / "files" / "set" / "nope-splat" / "run"
    result = folder / "eval" / "result.json"
    evaluate = ["ns-eval", "--load-config", str(run / "config.yml"), "--output-path", str(result)]
    run_stage(evaluate, folder / "eval", [trained])
    export = ["nope-splat", "export-cameras", "--load-config", str(run / "config.yml")]
    run_stage([*export, "--output-dir", str(folder / "cameras" / "files")], folder / "cameras", [trained])
    report = json.loads((folder / "cameras" / "files" / "report.json").read_text())
    metrics = json.loads(result.read_text())["results"]
    tested = [name for name in report["held_out"] if name not in report["unregistered"]]
    registered = f"{report['registered'] - len(tested)} of {report['images'] - len(report['held_out'])}"
    num_tested = f"{len(tested)} of {len(report['held_out'])}"
    return [registered, _focals(report), num_tested, f"{metrics['psnr']:.2f}", f"{metrics['ssim']:.3f}"]


def _focals(report: dict[str, Any]) -> str:
    """Format the focal lengths of the cameras in pixels."""
    return ", ".join(f"{camera['focal_px']:.0f}" for camera in report["cameras"])


if __name__ == "__main__":
    set_up_terminal()
    main(tyro.cli(Settings))
