"""Time the CPU rasterizer against others: forward pass, backward pass and training iteration.

    python -m scripts.rasterizer.benchmark
    python -m scripts.rasterizer.benchmark --ply exports/splat.ply --cameras exports/transforms_train.json
    python -m scripts.rasterizer.benchmark --peer "my_rasterizer --scene {scene} --threads {threads}"

All rasterizers run alternately, on a single thread and on all threads, so that load on the machine affects
all of them equally. The other rasterizers are the plain numba rasterizer of `baseline.py`; the research
prototype, if its folder exists; and with `--peer` any command that reads the scene from an npz file (means,
quats, scales, opacities, colors, viewmats, Ks, width, height) and prints the milliseconds of its forward pass
and of its backward pass as its last two numbers.

Times are medians of passes that follow other passes of the same kind, with running threads and warm caches. A
round runs every rasterizer once. Ratios are medians of the ratios within a round, since the clock of a
virtual machine varies within seconds. Scaling is the time on the smallest number of threads divided by the
time on the largest: of forward and backward pass together, and of a training iteration, in which torch uses a
single thread.

In every round the row "machine" times hashing on threads that share no memory; its scaling is an upper bound.
A virtual machine shares its cores with others, whose load changes within tenths of a second. With `--quiet`,
a round counts only if all cores hash within a tenth of the fastest measured speed, both before and after the
round.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle torch threads must not spin

import numba
import numpy as np
import torch
from torch import Tensor

from nope_splat.splatting.rasterizer import rasterization, set_num_threads, ssim
from nope_splat.splatting.rasterizer.autograd import Projection
from nope_splat.utils.terminal import set_up_terminal
from scripts.rasterizer.baseline import rasterize
from scripts.rasterizer.scenes import Scene, fresh_scene, leaves, trained_scene

SHARED = Path(__file__).resolve().parents[3] / "shared"

Run = Callable[[], tuple[float, float]]
"""Function that runs a forward and a backward pass, and returns the milliseconds of both."""


def timed(scene: Scene, forward: Callable[[], Any], backward: Callable[[Any], Any]) -> Run:
    """Create a function that times a forward pass and a backward pass.

    Args:
        scene: Scene whose tensors collect gradients; their gradients are removed before each forward pass.
        forward: Function that runs the forward pass.
        backward: Function that runs the backward pass, given the result of `forward`.
    """
    tensors = [value for value in scene.values() if isinstance(value, Tensor)]

    def run() -> tuple[float, float]:
        for tensor in tensors:
            tensor.grad = None
        start = time.perf_counter()
        result = forward()
        middle = time.perf_counter()
        backward(result)
        return 1e3 * (middle - start), 1e3 * (time.perf_counter() - middle)

    return run


def ours(scene: Scene) -> Run:
    """Create a run of nope-splat's rasterizer."""
    scene = leaves(scene)
    d_image = torch.randn(1, scene["height"], scene["width"], 3)
    return timed(
        scene,
        lambda: rasterization(**scene, backgrounds=torch.zeros(1, 3), absgrad=True)[0],
        lambda image: image.backward(d_image),
    )


def baseline(scene: Scene) -> Run:
    """Create a run of the plain rasterizer, with nope-splat's projection and its gradient."""
    scene = leaves(scene)
    d_image = np.random.default_rng(0).normal(size=(scene["height"], scene["width"], 3)).astype(np.float32)
    cameras = (scene["viewmats"], scene["Ks"], scene["width"], scene["height"], 0.3, 0.01, 1e10, 0.0, {})

    def forward():
        splats = Projection.apply(scene["means"], scene["quats"], scene["scales"], *cameras)
        radii, means2d, depths, conics, _ = (values[0].detach().numpy() for values in splats)
        opacities, colors = (scene[name].detach().numpy() for name in ("opacities", "colors"))
        return splats, rasterize(
            radii, means2d, conics, opacities, depths, colors, scene["width"], scene["height"]
        )[1]

    def backward(result):
        (_, means2d, _, conics, _), gradient = result
        d_splats = torch.from_numpy(gradient(d_image))[None]
        torch.autograd.backward([means2d, conics], [d_splats[..., :2], d_splats[..., 2:5]])

    return timed(scene, forward, backward)


def prototype(scene: Scene, threads: int) -> Run:
    """Create a run of the research prototype on a number of threads."""
    full = importlib.import_module("full")
    scene = leaves(scene)
    for name in ("viewmats", "Ks"):
        scene[name] = scene[name].detach()[0].clone().requires_grad_()
    d_image = torch.randn(scene["height"], scene["width"], 3)
    arguments = [value for value in scene.values() if isinstance(value, Tensor)]
    return timed(
        scene,
        lambda: full.Ras.apply(*arguments, scene["width"], scene["height"], torch.zeros(3), threads)[0],
        lambda image: image.backward(d_image),
    )


def external(command: str, scene: Scene, threads: int) -> Run:
    """Create a run of another rasterizer by its command, which prints its milliseconds."""
    file = Path(tempfile.mkdtemp()) / "scene.npz"
    arrays: dict[str, Any] = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in scene.items()}
    np.savez(file, **arrays)
    arguments = [part.format(scene=file, threads=threads) for part in shlex.split(command)]

    def run() -> tuple[float, float]:
        output = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
        forward, backward = re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", output)[-2:]
        return float(forward), float(backward)

    return run


def machine(threads: int) -> Run:
    """Create a run of hashing on a number of threads, which share no memory and need no memory bandwidth."""
    shares = [40_000 // threads] * threads
    pool = ThreadPoolExecutor(threads)
    return timed(
        {},
        lambda: list(pool.map(lambda rounds: hashlib.pbkdf2_hmac("sha256", b"", b"", rounds), shares)),
        lambda _: None,
    )


def parameters_of(scene: Scene) -> dict[str, torch.nn.Parameter]:
    """Create the trainable parameters of a scene, with spherical harmonics of degree 3."""
    sh = torch.zeros(len(scene["means"]), 16, 3)
    sh[:, 0] = (scene["colors"] - 0.5) / 0.28209479
    values = {name: scene[name] for name in ("means", "quats")}
    values |= {"scales": scene["scales"].log(), "opacities": scene["opacities"].logit(), "sh": sh}
    return {name: torch.nn.Parameter(value.clone()) for name, value in values.items()}


def training(
    scene: Scene, render: Callable[..., tuple[Tensor, Any]], similarity: Callable[..., Tensor]
) -> Run:
    """Create a run of a training iteration: rendering, loss, gradients, Adam, and densification statistics.

    Args:
        scene: Scene to train.
        render: Function that renders the parameters; returns the image and the rasterizer's `info`, or None
            for no statistics.
        similarity: Function that computes SSIM.
    """
    from gsplat import DefaultStrategy

    parameters = parameters_of(scene)
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([p], lr=1e-5, eps=1e-15, fused=True) for name, p in parameters.items()
    }
    strategy = DefaultStrategy(absgrad=True, refine_start_iter=10**9, reset_every=10**9)
    state = strategy.initialize_state()
    target = torch.rand(scene["height"], scene["width"], 3)

    def step() -> tuple[float, float]:
        start = time.perf_counter()
        image, info = render(parameters)
        if info is not None:
            strategy.step_pre_backward(parameters, optimizers, state, 1, info)
        loss = 0.8 * (image - target).abs().mean() + 0.2 * (1 - similarity(image, target))
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if info is not None:
            strategy.step_post_backward(parameters, optimizers, state, 1, info)
        return 1e3 * (time.perf_counter() - start), 0.0

    return step


def our_training(scene: Scene) -> Run:
    """Create a run of a training iteration with nope-splat's rasterizer."""

    def render(p: dict[str, Tensor]) -> tuple[Tensor, Any]:
        images, _, info = rasterization(
            p["means"], p["quats"], p["scales"].exp(), p["opacities"].sigmoid(), p["sh"],
            scene["viewmats"], scene["Ks"], scene["width"], scene["height"], sh_degree=3, absgrad=True,
            backgrounds=torch.zeros(1, 3),
        )  # fmt: skip
        return images[0], info

    return training(scene, render, ssim)


def prototype_training(scene: Scene, threads: int) -> Run:
    """Create a run of a training iteration with the prototype's rasterizer and SSIM.

    Spherical harmonics are evaluated in torch, and there are no densification statistics.
    """
    from gsplat.cuda._torch_impl import _spherical_harmonics

    full, fused = importlib.import_module("full"), importlib.import_module("nssim2")
    viewmat, K = scene["viewmats"][0], scene["Ks"][0]
    center = -viewmat[:3, :3].T @ viewmat[:3, 3]

    class Similarity(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, image: Tensor, target: Tensor) -> Tensor:
            planes = [x.detach().permute(2, 0, 1).contiguous().numpy() for x in (image, target)]
            value, ctx.gradient = fused.ssim_and_grad(*planes, full.pool, threads)
            return torch.tensor(value)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
            return gradients[0] * torch.from_numpy(ctx.gradient).permute(1, 2, 0), None

    def render(p: dict[str, Tensor]) -> tuple[Tensor, Any]:
        colors = torch.clamp_min(_spherical_harmonics(3, p["means"] - center, p["sh"]) + 0.5, 0.0)
        image, _ = full.Ras.apply(
            p["means"], p["quats"], p["scales"].exp(), p["opacities"].sigmoid(), colors, viewmat, K,
            scene["width"], scene["height"], torch.zeros(3), threads,
        )  # fmt: skip
        return image, None

    return training(scene, render, Similarity.apply)


def on_threads(count: int, run: Run) -> Run:
    """Create a run on a number of threads, which returns the time of the last of four passes.

    The first three passes wake the threads and warm the caches. A pause before them lets the threads of the
    previous measurement go to sleep.
    """

    def run_alone() -> tuple[float, float]:
        set_num_threads(count)
        numba.set_num_threads(count)
        time.sleep(2e-3)
        for _ in range(3):
            run()
        return run()

    return run_alone


Key = tuple[str, int]
"""Name of a rasterizer and number of threads."""

Round = dict[Key, np.ndarray]
"""Milliseconds (forward, backward) of every run in one round."""


class Quiet:
    """Detector of other load on the machine, from the times of hashing."""

    def __init__(self) -> None:
        self.best = np.inf

    def __call__(self, times: Round) -> bool:
        """Return whether all cores hash within a tenth of the fastest speed measured up to now."""
        of_machine = [count * total for (name, count), (total, _) in times.items() if name == "machine"]
        self.best = min(self.best, *of_machine)
        return max(of_machine) <= 1.1 * self.best


def rounds_of(runs: dict[Key, Run], repeats: int, patience: float, quiet: Quiet) -> list[Round]:
    """Measure all runs in several rounds, after two warm-up rounds for compilation.

    Args:
        runs: Runs to measure, by name and number of threads; the runs of hashing come last.
        repeats: Number of rounds to measure.
        patience: Maximum number of seconds to measure until there are enough rounds without other load; 0 to
            count all rounds.
        quiet: Detector of other load.
    """
    for run in (*runs.values(), *runs.values()):
        run()
    machine = {key: run for key, run in runs.items() if key[0] == "machine"}
    for _ in range(50 if patience else 0):
        quiet({key: np.array(run()) for key, run in machine.items()})
    rounds, end = [], time.monotonic() + patience
    while len(rounds) < repeats and (not patience or time.monotonic() < end):
        if patience and not quiet({key: np.array(run()) for key, run in machine.items()}):
            continue
        times = {key: np.array(run()) for key, run in runs.items()}
        if not patience or quiet(times):
            rounds.append(times)
    return rounds


def report(title: str, rounds: list[Round]) -> None:
    """Print a line per run: time, ratio of nope-splat's time to this time, and scaling with threads."""
    print(f"{title}: {len(rounds)} rounds", flush=True)
    if not rounds:
        return
    totals = {key: np.array([times[key].sum() for times in rounds]) for key in rounds[0]}
    counts = [count for _, count in totals]
    for (name, count), total in totals.items():
        forward, backward = np.median([times[name, count] for times in rounds], axis=0)
        split = f"{forward:8.1f} {backward:8.1f}" if backward else " " * 17
        ratio = " " * 7 if name == "machine" else f"{np.median(totals['ours', count] / total):7.2f}"
        scaling = ""
        if count == max(counts) > min(counts):
            scaling = f"{np.median(totals[name, min(counts)] / total):8.2f}"
        print(f"    {name:10} {count:7} {split} {np.median(total):8.1f} {ratio} {scaling}", flush=True)


def main() -> None:
    """Measure every scene, image size and number of threads."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=Path, default=SHARED / "data" / "test_garden.npz")
    parser.add_argument("--ply", type=Path, help="a trained scene, from ns-export gaussian-splat")
    parser.add_argument("--cameras", type=Path, help="its cameras, from ns-export cameras")
    parser.add_argument("--prototype", type=Path, default=SHARED / "prototypes" / "rasterizer")
    parser.add_argument("--peer", help="command of another rasterizer, with {scene} and {threads}")
    parser.add_argument("--gaussians", type=int, nargs="*", default=[10_000, 30_000, 138_766])
    parser.add_argument("--sizes", nargs="+", default=["256x192", "384x256", "768x512"])
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--repeats", type=int, default=9, help="rounds of every scene and size")
    parser.add_argument(
        "--quiet",
        type=float,
        default=0,
        metavar="SECONDS",
        help="count quiet rounds only, and wait so long for those of a scene",
    )
    parser.add_argument("--no-baseline", action="store_true", help="leave out the plain rasterizer")
    options = parser.parse_args()

    torch.set_num_threads(1)
    quiet = Quiet()
    with_prototype = options.prototype.is_dir()
    if with_prototype:
        os.environ["NRAS_TS"] = "64"
        sys.path.insert(0, str(options.prototype))
    print(f"{'milliseconds':14} threads  forward backward    total  ours /  scaling")
    for size in options.sizes:
        width, height = map(int, size.split("x"))
        scenes = {f"{n} points": fresh_scene(options.points, n, width, height) for n in options.gaussians}
        if options.ply:
            scenes["trained"] = trained_scene(options.ply, options.cameras, width, height)
        for kind, scene in scenes.items():
            passes, iterations = {}, {}
            for count in options.threads:
                passes["ours", count], iterations["ours", count] = ours(scene), our_training(scene)
                if with_prototype:
                    passes["prototype", count] = prototype(scene, count)
                    iterations["prototype", count] = prototype_training(scene, count)
                if not options.no_baseline:
                    passes["baseline", count] = baseline(scene)
                if options.peer:
                    passes["peer", count] = external(options.peer, scene, count)
            for count in options.threads:
                passes["machine", count] = iterations["machine", count] = machine(count)
            for title, runs in ((f"{kind}, {size}", passes), (f"{kind}, {size}, iteration", iterations)):
                runs = {
                    (name, count): run if name == "machine" else on_threads(count, run)
                    for (name, count), run in runs.items()
                }
                report(title, rounds_of(runs, options.repeats, options.quiet, quiet))


if __name__ == "__main__":
    set_up_terminal()
    main()
