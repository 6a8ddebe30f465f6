"""Compare the peak memory of trainings on a CPU with an upper bound that a formula predicts.

    python -m scripts.analysis.memory

Trains a few iterations on images of the demo scene, prints a table, and reports whether the bound holds. Two
constants are measured first: the memory of the imports, and the memory that a training on tiny images (first
row of the table) takes in addition to the formula, such as compiled kernels and libraries that are loaded
late. All other memory is computed from the sizes of the arrays, see `stage_bytes` and `peak`. Linux only.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from nope_splat.matching.descriptors import CPU_BLOCK_SIZE
from nope_splat.matching.matching import MAX_SIFT_THREADS
from nope_splat.matching.options import MatchingSettings
from nope_splat.seeding import SeedSettings
from nope_splat.utils.terminal import set_up_terminal
from scripts.benchmark.stages import cores, run_stage

MIB = 2**20

NUMBERS = 3 + 3 + 4 + 3 * 16 + 1
"""Number of parameters of a Gaussian: center, scales, quaternion, colors of SH degree 3, and opacity."""
STATISTICS = 3
"""Number of values that densification stores per Gaussian: gradient, count and radius."""
PER_GAUSSIAN = 4 * (
    4 * NUMBERS  # parameters, their gradients, Adam's two moments
    + STATISTICS
    + 2 * (3 + 1 + 48)  # scales, opacity and joined colors as rendered, and their gradients
    + (1 + 2 + 1 + 3 + 1)  # the splat: radius, mean, depth, conic, compensation
    + 16  # the record of the splat for compositing
    + (2 + 2 + 1 + 1)  # buffers for sorting: two of 8 bytes (slots) and two of 4 bytes (order)
    + (2 + 2 + 3 + 1 + 3)  # gradients of the splat: mean, |mean gradient|, conic, opacity, color
)
"""Bytes per Gaussian in the backward pass, without the intersections of splats with tiles."""
PER_INTERSECTION = 8 + 4 * 16
"""Bytes per intersection of a splat with a tile: list entries and gradient slot, see `TileLists`."""
INTERSECTIONS = 2
"""Assumed number of tiles that a splat intersects. Most splats intersect one or two tiles."""

PER_CACHED_PIXEL = 4 * 3
"""Bytes per pixel of a cached image for training or evaluation: float32 RGB."""
PER_ADJUSTED_PIXEL = (
    4 * (3 + 3 + 1 + 1)  # rendering, image, depth, opacity
    + 4 * (2 * 7 + 4 + 2)  # Jacobian by the camera, structure tensor, vector
    + 2 * 4 * 2 * 7  # intermediate results of the Jacobian: without the focal length, and in two parts
    + 2 * 4 * 2 * 3  # image gradient, at all pixels and at the used pixels
    + 4 * (3 + 2 + 2)  # residual, position in the image, position at depth one
)
"""Bytes per pixel of the view that joint refinement renders; more than the loss of a training iteration
needs."""

PER_SEARCHED_PIXEL = 4 * 4 + 4 * 4 * (6 + 5) * 4 / 3
"""Bytes per pixel of SIFT keypoint detection: the image at twice the size in float32, and 6 blurred images
and 5 differences per octave."""
PER_KEYPOINT = 8 * 2 + 8 + (4 + 1) * 128
"""Bytes per keypoint: position, noise, descriptor and quantized descriptor."""

PER_SEEDED_PIXEL = 3 + 1 + 4 + 6 * 8 + 4 + 8
"""Bytes per pixel that seeding keeps of every training image: colors, mask, rough depth, optical flow to and
from three source views, depth, and number of views that confirm the depth."""
PER_TRIANGULATED_PIXEL = 110 + 40
"""Bytes per pixel that a seeding thread needs for its current image: arrays of the triangulation, and the
result for each source view."""


@dataclass(frozen=True)
class Workload:
    """Quantities that determine the memory of a training."""

    num_images: int
    """Number of all images, including held-out images."""
    image_size: tuple[int, int]
    """Width and height of the images in pixels."""
    max_image_size: int
    """Longer side of the training images in pixels."""
    num_gaussians: int
    """Maximum number of Gaussians during the training."""

    def pixels(self, longer_side: int) -> float:
        """Compute the number of pixels of an image that is downscaled to a given longer side.

        Args:
            longer_side: Longer side in pixels; smaller images keep their size.
        """
        width, height = self.image_size
        return width * height * min(1.0, longer_side / max(width, height)) ** 2


def stage_bytes(work: Workload, num_cores: int) -> dict[str, float]:
    """Compute the size of the arrays in each stage, for the default settings on a CPU.

    Each of N images has p_k pixels for keypoints (longer side up to 1600), p_s pixels for seeding (up to 512)
    and p_t pixels for training (`max-image-size`). With W cores and G Gaussians, the bytes are

        keypoints  251 p_k min(W, 8)  + 8192 x 536 N
        matching   8192 x 664 N  + 4 x 2^21 W
        seeding    68 p_s N  + 150 p_s (W + 4)
        training   12 p_t N  + 300 p_t  + 1680 G

    The stages run one after the other. For seeding, the formula assumes six optical flows per image, which is
    the maximum, and that all threads reach their peak at the same time.

    The formula omits masks (one byte per pixel); decoding (up to eight bytes per full-resolution pixel, of
    200 megapixels at a time); matches and bundle adjustment (about 16 bytes per match and a kilobyte per
    observation, which can be the largest term for hundreds of images); learned matchers, depth maps and
    their losses, learned lenses, the viewer and LPIPS.

    Args:
        work: Numbers and sizes of images, and number of Gaussians.
        num_cores: Number of cores that the training may use.

    Returns:
        Bytes by name of the stage.
    """
    matching, seeding = MatchingSettings(), SeedSettings()
    keypoints = matching.max_keypoints * work.num_images
    kept_keypoints = keypoints * (PER_KEYPOINT - 128)
    searched, seeded = work.pixels(matching.max_feature_size), work.pixels(seeding.max_image_size)
    trained = work.pixels(work.max_image_size)
    rendered = PER_GAUSSIAN + INTERSECTIONS * PER_INTERSECTION
    return {
        "keypoints": MAX_SIFT_THREADS * PER_SEARCHED_PIXEL * searched + kept_keypoints,
        "matching": keypoints * PER_KEYPOINT + num_cores * 4 * CPU_BLOCK_SIZE,
        "seeding": (PER_SEEDED_PIXEL * work.num_images + PER_TRIANGULATED_PIXEL * (num_cores + 4)) * seeded,
        "training": (PER_CACHED_PIXEL * work.num_images + PER_ADJUSTED_PIXEL) * trained
        + rendered * work.num_gaussians,
    }


def peak(work: Workload, num_cores: int, imports: float, started: float) -> tuple[str, float]:
    """Compute the upper bound of the memory of `ns-train`.

    The bound is the memory of the largest stage, including the code that is loaded by then. The memory of
    seeding is added to that of training although seeding has freed it, because about as much memory stays
    fragmented in the allocator after the earlier stages and joint refinement. The peak varies by about a
    percent between runs.

    Args:
        work: Numbers and sizes of images, and number of Gaussians.
        num_cores: Number of cores that the training may use.
        imports: Memory of the imports, in bytes.
        started: Memory in bytes that a started training takes in addition to the arrays in the formula.

    Returns:
        Name of the largest stage, and its memory in bytes.
    """
    stages = stage_bytes(work, num_cores)
    loaded = {stage: imports + size for stage, size in stages.items()}
    loaded["training"] = started + stages["seeding"] + stages["training"]
    return max(loaded.items(), key=lambda item: item[1])


@dataclass(frozen=True)
class Case:
    """Images and Gaussians of one training to measure."""

    num_images: int
    """Number of images of the demo scene."""
    image_size: tuple[int, int]
    """Width and height of the images in pixels."""
    cell: int = 4
    """Width in pixels of the image cells that get one Gaussian each; smaller cells give more Gaussians."""


IMPORTS = """
import nerfstudio.scripts.train, nope_splat.plugin.trainer
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
"""Program that imports the training code and prints its peak memory in kilobytes."""
TINY = Case(6, (320, 240))
CASES = (Case(8, (640, 480), cell=1), Case(6, (1200, 900)), Case(20, (640, 480)))
"""Trainings to measure, with more Gaussians, more pixels or more images than `TINY`."""


def measure(case: Case, folder: Path, iterations: int) -> tuple[Workload, float]:
    """Train at full resolution for a few iterations, without densification, and measure the peak memory.

    Args:
        case: Images and Gaussians of the training.
        folder: Output folder.
        iterations: Number of iterations of the training.

    Returns:
        The workload, and its peak memory in bytes.
    """
    width, height = case.image_size
    images = folder / f"{case.num_images}-{width}x{height}"
    arguments = ["--num-images", str(case.num_images), "--size", str(width), str(height)]
    run_stage(["nope-splat", "demo-scene", "--output-dir", str(images / "images"), *arguments], images)
    run = folder / f"{images.name}-{case.cell}"
    command = [
        "ns-train", "nope-splat", "--data", str(images / "images"), "--output-dir", str(run / "outputs"),
        "--experiment-name", "memory", "--timestamp", "run", "--vis", "tensorboard",
        "--max-num-iterations", str(iterations), "--machine.device-type", "cpu",
        "--pipeline.model.num-downscales", "0",
        "--pipeline.datamanager.cache-images-type", "float32",
        "--pipeline.datamanager.dataparser.max-image-size", str(width),
        "--pipeline.datamanager.dataparser.seeding.cell-size", str(case.cell),
    ]  # fmt: skip
    peak_gib = run_stage(command, run).peak_gib
    (checkpoint,) = (run / "outputs/memory/nope-splat/run/nerfstudio_models").glob("*.ckpt")
    gaussians = torch.load(checkpoint, weights_only=True, mmap=True)["pipeline"]["_model.gauss_params.means"]
    return Workload(case.num_images, case.image_size, width, len(gaussians)), peak_gib * 2**30


def main(output_dir: Path | None = None, iterations: int = 10) -> None:
    """Measure all trainings and print the table.

    Args:
        output_dir: Folder of images and trainings, which are reused; None for a temporary folder.
        iterations: Number of iterations of each training.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = output_dir or Path(temporary)
        run_stage(["python", "-c", IMPORTS], folder / "imports")
        imports = 1024 * int((folder / "imports" / "log.txt").read_text().split()[-1])
        print(f"Imports: {imports / MIB:.0f} MiB.\n")
        print("| photos | size | Gaussians | largest stage | at most MiB | measured MiB | ratio |")
        print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
        started, ratios = None, []
        for case in (TINY, *CASES):
            work, measured = measure(case, folder, iterations)
            if started is None:
                stages = stage_bytes(work, len(cores()))
                started = measured - stages["seeding"] - stages["training"]
            stage, predicted = peak(work, len(cores()), imports, started)
            ratios.append(predicted / measured)
            print(
                f"| {work.num_images} | {' x '.join(map(str, work.image_size))} | {work.num_gaussians}"
                f" | {stage} | {predicted / MIB:.0f} | {measured / MIB:.0f}"
                f" | {ratios[-1]:.2f} |",
                flush=True,
            )
        print(f"\nMemory of a started training in addition to the formula: {(started or 0) / MIB:.0f} MiB.")
        verdict = "a bound" if min(ratios) >= 1 - 1e-9 else "NO bound"
        print(f"The formula was {verdict}: {min(ratios):.2f} to {max(ratios):.2f} times the measured memory.")


if __name__ == "__main__":
    set_up_terminal()
    tyro.cli(main, description=__doc__)
