"""The result depends neither on the number of threads nor on who else is rasterizing."""

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
from nope_splat.splatting.rasterizer.threads import await_all, claim, finish


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    count = get_num_threads()
    yield
    set_num_threads(count)


def results(scene: Scene) -> list[torch.Tensor]:
    """Images, alphas, similarity and all gradients of a scene."""
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


def test_any_number_of_threads_gives_the_same_bits() -> None:
    scene = random_scene(1, count=3000, width=160, height=130)
    set_num_threads(1)
    alone = results(scene)
    for count in (2, 3, 7):
        set_num_threads(count)
        assert all(torch.equal(x, y) for x, y in zip(results(scene), alone, strict=True))


def test_a_viewer_may_render_while_training() -> None:
    training, viewed = random_scene(2, count=2000, width=140), random_scene(3, count=500)
    expected_training, expected_view = results(training), results(viewed)
    failures = []

    def view() -> None:
        for _ in range(20):
            if not all(torch.equal(x, y) for x, y in zip(results(viewed), expected_view, strict=True)):
                failures.append("view")

    viewers = [threading.Thread(target=view) for _ in range(3)]
    for thread in viewers:
        thread.start()
    for _ in range(20):
        if not all(torch.equal(x, y) for x, y in zip(results(training), expected_training, strict=True)):
            failures.append("training")
    for thread in viewers:
        thread.join()
    assert not failures


def test_at_least_one_thread() -> None:
    with pytest.raises(ValueError, match="at least one thread"):
        set_num_threads(0)


def test_helpers_join_in_and_come_again() -> None:
    set_num_threads(3)
    everyone = threading.Barrier(3, timeout=10)
    workers = []

    def kernel(counter: np.ndarray) -> None:
        counter[0] += 1
        workers.append(threading.get_ident())
        everyone.wait()

    for _ in range(20):
        threads.run_on_all_threads(kernel)
        assert len(set(workers)) == 3
        workers.clear()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a thread choose its cores")
@pytest.mark.parametrize("allowed", [{3, 5, 8}, {5}])
def test_a_helper_keeps_off_its_callers_core(monkeypatch: pytest.MonkeyPatch, allowed: set[int]) -> None:
    now = allowed

    def choose(_: int, cores: set[int]) -> None:
        nonlocal now
        if not cores:
            raise OSError("Invalid argument")
        now = cores

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: now)
    monkeypatch.setattr(os, "sched_setaffinity", choose)
    with threads._away_from(5):
        assert now == (allowed - {5} or allowed)
    assert now == allowed


def test_the_work_is_done_when_no_helper_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = random_scene(4, count=500)
    expected = results(scene)
    set_num_threads(2)
    with ThreadPoolExecutor(1) as new_caller, monkeypatch.context() as patch:
        patch.setattr(threads._Helper, "_work", lambda helper: None)
        actual = new_caller.submit(results, scene).result(timeout=60)
    assert all(torch.equal(x, y) for x, y in zip(actual, expected, strict=True))


@kernel
def _sum_everything(counters, first, second):
    """Number the pieces; once all are numbered, give each their sum."""
    while True:
        piece = claim(counters[0], 1)
        if piece >= len(first):
            break
        first[piece] = piece
        finish(counters[0])
    await_all(counters[0], len(first))
    while True:
        piece = claim(counters[1], 1)
        if piece >= len(first):
            break
        second[piece] = first.sum()


def test_a_stage_begins_when_the_one_before_is_finished() -> None:
    set_num_threads(3)
    expected = np.full(100, np.arange(100).sum())
    for _ in range(500):
        first, second = np.full((2, 100), -1)
        threads.run_on_all_threads(_sum_everything, first, second)
        assert np.array_equal(second, expected)


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 8), ("350000 100000", 4), ("20000 100000", 1), ("6400000 100000", 8), (None, 8)],
)
def test_no_more_threads_than_a_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, cores: int
) -> None:
    if limit:
        (tmp_path / "cpu.max").write_text(limit + "\n")
    monkeypatch.setattr(threads, "_CORES_OF_CONTAINER", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert threads._available_cores() == cores


def test_an_error_in_a_helper_reaches_the_caller_once() -> None:
    set_num_threads(2)
    caller, failed = threading.get_ident(), threading.Event()

    def kernel(counter: np.ndarray) -> None:
        counter[0] += 1
        if threading.get_ident() == caller:
            assert failed.wait(timeout=10)
            return
        failed.set()
        raise ArithmeticError("in a helper")

    with pytest.raises(ArithmeticError, match="in a helper"):
        threads.run_on_all_threads(kernel)
    threads.run_on_all_threads(lambda counter: None)
