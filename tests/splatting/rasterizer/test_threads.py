"""Thread pool: results do not depend on the number of threads or on concurrent calls."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.dense_reference import Scene, random_loss, random_scene

from nope_splat.splatting.rasterizer import get_num_threads, rasterization, set_num_threads, ssim, threads
from nope_splat.splatting.rasterizer.kernels import kernel
from nope_splat.splatting.rasterizer.threads import claim, finish_item, wait_for_items


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    count = get_num_threads()
    yield
    set_num_threads(count)


def evaluate(scene: Scene) -> list[torch.Tensor]:
    """Compute images, alphas, SSIM and all gradients of a scene."""
    scene = scene.leaves()
    images, alphas, info = rasterization(
        scene.means,
        scene.quats,
        scene.scales,
        scene.opacities,
        torch.cat([scene.colors[:, None], 0.1 * scene.means[:, None].expand(-1, 3, 3)], 1),
        scene.viewmats,
        scene.Ks,
        scene.width,
        scene.height,
        backgrounds=scene.backgrounds,
        sh_degree=1,
        absgrad=True,
    )
    similarity = ssim(images[0], torch.full_like(images[0], 0.5))
    (random_loss(images, alphas) + similarity).backward()
    return [images, alphas, similarity, info["means2d"].absgrad, *scene.gradients().values()]


def test_results_are_bitwise_independent_of_the_number_of_threads() -> None:
    scene = random_scene(1, count=3000, width=160, height=130)
    set_num_threads(1)
    single_threaded = evaluate(scene)
    for count in (2, 3, 7):
        set_num_threads(count)
        assert all(torch.equal(x, y) for x, y in zip(evaluate(scene), single_threaded, strict=True))


def test_concurrent_calls_do_not_interfere() -> None:
    training, viewed = random_scene(2, count=2000, width=140), random_scene(3, count=500)
    expected_training, expected_view = evaluate(training), evaluate(viewed)
    failures = []

    def view() -> None:
        for _ in range(20):
            if not all(torch.equal(x, y) for x, y in zip(evaluate(viewed), expected_view, strict=True)):
                failures.append("view")

    viewers = [threading.Thread(target=view) for _ in range(3)]
    for thread in viewers:
        thread.start()
    for _ in range(20):
        if not all(torch.equal(x, y) for x, y in zip(evaluate(training), expected_training, strict=True)):
            failures.append("training")
    for thread in viewers:
        thread.join()
    assert not failures


def test_zero_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one thread"):
        set_num_threads(0)


def test_workers_run_every_kernel() -> None:
    set_num_threads(3)
    barrier = threading.Barrier(3, timeout=10)
    thread_ids = []

    def kernel(counter: np.ndarray) -> None:
        counter[0] += 1
        thread_ids.append(threading.get_ident())
        barrier.wait()

    for _ in range(20):
        threads.run_on_all_threads(kernel)
        assert len(set(thread_ids)) == 3
        thread_ids.clear()


@pytest.mark.skipif(sys.platform != "linux", reason="thread affinity needs Linux")
@pytest.mark.parametrize("allowed", [{3, 5, 8}, {5}])
def test_workers_exclude_their_callers_core(monkeypatch: pytest.MonkeyPatch, allowed: set[int]) -> None:
    affinity = allowed

    def set_affinity(_: int, cores: set[int]) -> None:
        nonlocal affinity
        if not cores:
            raise OSError("Invalid argument")
        affinity = cores

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: affinity)
    monkeypatch.setattr(os, "sched_setaffinity", set_affinity)
    with threads._excluding_core(5):
        assert affinity == (allowed - {5} or allowed)
    assert affinity == allowed


def test_caller_finishes_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = random_scene(4, count=500)
    expected = evaluate(scene)
    set_num_threads(2)
    with ThreadPoolExecutor(1) as new_caller, monkeypatch.context() as patch:
        patch.setattr(threads._Worker, "_run", lambda worker, caller_core: None)
        actual = new_caller.submit(evaluate, scene).result(timeout=60)
    assert all(torch.equal(x, y) for x, y in zip(actual, expected, strict=True))


@kernel
def _number_then_sum(counters, first, second):
    """Write the number of every item in the first stage, and the sum of all numbers in the second."""
    while True:
        item = claim(counters[0], 1)
        if item >= len(first):
            break
        first[item] = item
        finish_item(counters[0])
    wait_for_items(counters[0], len(first))
    while True:
        item = claim(counters[1], 1)
        if item >= len(first):
            break
        second[item] = first.sum()


def test_stages_run_one_after_the_other() -> None:
    set_num_threads(3)
    expected = np.full(100, np.arange(100).sum())
    for _ in range(500):
        first, second = np.full((2, 100), -1)
        threads.run_on_all_threads(_number_then_sum, first, second)
        assert np.array_equal(second, expected)


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 8), ("350000 100000", 4), ("20000 100000", 1), ("6400000 100000", 8), (None, 8)],
)
def test_cgroup_quota_limits_the_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, cores: int
) -> None:
    if limit:
        (tmp_path / "cpu.max").write_text(limit + "\n")
    monkeypatch.setattr(threads, "_CGROUP_CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert threads._available_cores() == cores


def test_error_in_a_worker_is_raised_once() -> None:
    set_num_threads(2)
    caller, failed = threading.get_ident(), threading.Event()

    def kernel(counter: np.ndarray) -> None:
        counter[0] += 1
        if threading.get_ident() == caller:
            assert failed.wait(timeout=10)
            return
        failed.set()
        raise ArithmeticError("in a worker")

    with pytest.raises(ArithmeticError, match="in a worker"):
        threads.run_on_all_threads(kernel)
    threads.run_on_all_threads(lambda counter: None)
