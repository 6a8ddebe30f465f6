"""Test the formula of peak memory against the sizes of the arrays."""

from __future__ import annotations

import ctypes
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from nope_splat.io.images import find_images
from nope_splat.matching import MatchingSettings
from nope_splat.matching.sift import sift_keypoints
from nope_splat.plugin.datamanager import NopeDataManagerConfig
from nope_splat.plugin.model import NopeSplatModelConfig
from nope_splat.splatting.gaussians import initialize_gaussians
from nope_splat.splatting.rasterizer.autograd import TILE_SIZE
from nope_splat.splatting.rasterizer.binning import ProjectedSplats, bin_splats
from nope_splat.splatting.rasterizer.composite_gradient import slot_length
from nope_splat.splatting.rasterizer.simd import Lanes
from nope_splat.utils.device_defaults import resolve_defaults
from scripts.analysis.memory import (
    NUMBERS,
    PER_CACHED_PIXEL,
    PER_INTERSECTION,
    PER_SEARCHED_PIXEL,
    STATISTICS,
    Workload,
    peak,
    stage_bytes,
)


def bytes_of(*tensors: torch.Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def test_parameters_gradients_and_moments_are_counted_exactly() -> None:
    count = 50
    parameters = initialize_gaussians(
        torch.rand(count, 3), torch.zeros(count, 3, dtype=torch.uint8), sh_degree=3
    )
    optimizer = torch.optim.Adam(parameters.values(), fused=True)
    torch.stack([parameter.sum() for parameter in parameters.values()]).sum().backward()
    optimizer.step()
    held = bytes_of(*parameters.values(), *(parameter.grad for parameter in parameters.values()))
    for state in optimizer.state.values():
        held += bytes_of(state["exp_avg"], state["exp_avg_sq"])
    assert held == 4 * 4 * NUMBERS * count


def test_numbers_of_densification_are_counted_exactly() -> None:
    config = resolve_defaults(NopeSplatModelConfig(), "cpu").densification
    strategy = config.strategy(100, num_views=2, num_fixed=0, max_gaussians=10**6)
    state = strategy.initialize_state(scene_scale=1.0)
    assert len(state.keys() - {"scene_scale"}) == STATISTICS


def test_intersections_are_counted_exactly() -> None:
    rng, count = np.random.default_rng(0), 200
    projected = ProjectedSplats(
        radii=np.full(count, 20, np.int32),
        means2d=rng.uniform(0, 256, (count, 2)).astype(np.float32),
        conics=np.tile(np.array([0.01, 0.0, 0.01], np.float32), (count, 1)),
        opacities=np.full(count, 0.9, np.float32),
        depths=rng.uniform(1, 2, count).astype(np.float32),
        colors=np.zeros((count, 3), np.float32),
    )
    lists = bin_splats(projected, width=256, height=256, tile_size=TILE_SIZE)
    intersections = int(lists.tile_offsets[-1])
    of_gradient = 4 * slot_length(3, Lanes(16))  # with the widest registers
    assert lists.splats.nbytes + lists.slots.nbytes == (PER_INTERSECTION - of_gradient) * intersections
    assert lists.records.nbytes == 4 * 16 * count


def test_images_are_cached_as_floats_on_a_cpu() -> None:
    assert resolve_defaults(NopeDataManagerConfig(), "cpu").cache_images_type == "float32"
    assert 3 * torch.float32.itemsize == PER_CACHED_PIXEL


@pytest.mark.slow  # a busy machine searches fewer images at once
def test_keypoint_memory_grows_as_predicted(tmp_path: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs the memory figures of Linux")
    # Blurred images have few keypoints, so that the image pyramid dominates.
    noise = np.random.default_rng(0).uniform(0, 255, (900, 1200, 3)).astype(np.float32)
    image = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 8.0), np.zeros(0), 0, 255, cv2.NORM_MINMAX)
    for width in (400, 1200):
        cv2.imwrite(str(tmp_path / f"{width}.png"), cv2.resize(image, (width, width * 3 // 4)))
    peaks = []
    for image in sorted(find_images(tmp_path).images, key=lambda image: image.width):
        before = memory("VmRSS", reset=True)
        sift_keypoints(image, MatchingSettings())
        peaks.append(memory("VmHWM") - before)
    predicted = PER_SEARCHED_PIXEL * (1200 * 900 - 400 * 300)
    assert peaks[1] - peaks[0] == pytest.approx(predicted, rel=0.2)


def memory(which: str, reset: bool = False) -> int:
    """Return the memory of this process in bytes; optionally return freed memory and reset the peak."""
    if reset:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if which in line)
    return 1024 * int(line.split()[1])


def test_the_formula_equals_its_docstring() -> None:
    work = Workload(num_images=10, image_size=(1600, 1200), max_image_size=512, num_gaussians=60_000)
    stages, p_s = stage_bytes(work, num_cores=2), 512 * 384
    assert stages["seeding"] == pytest.approx((68 * 10 + 150 * 6) * p_s)
    assert stages["training"] == pytest.approx((12 * 10 + 300) * p_s + 1680 * 60_000)
    assert stages["matching"] == pytest.approx(8192 * 664 * 10 + 2 * 4 * 2**21)


def test_the_largest_stage_counts() -> None:
    few = Workload(num_images=8, image_size=(640, 480), max_image_size=512, num_gaussians=1_000_000)
    stages = stage_bytes(few, num_cores=2)
    kept = stages["seeding"] + stages["training"]
    assert peak(few, 2, imports=1e8, started=1e9) == ("training", pytest.approx(1e9 + kept))
    large = Workload(num_images=8, image_size=(1600, 1200), max_image_size=320, num_gaussians=1000)
    assert peak(large, 2, imports=1e8, started=2e8) == (
        "keypoints",
        pytest.approx(1e8 + stage_bytes(large, num_cores=2)["keypoints"]),
    )
