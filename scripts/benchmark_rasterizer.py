"""Time the CPU rasterizer: forward, backward and a whole training iteration, beside its peers.

    python scripts/benchmark_rasterizer.py
    python scripts/benchmark_rasterizer.py --ply exports/splat.ply --cameras exports/transforms_train.json
    python scripts/benchmark_rasterizer.py --peer "my_rasterizer --scene {scene} --threads {threads}"

Peers run in turn with ours, on one thread and on all, so that a busy machine treats all alike: the plain
numba rasterizer of `rasterizer_baseline.py`; the research prototype, where its folder is; and with `--peer`
any command that reads the scene from an npz (means, quats, scales, opacities, colors, viewmats, Ks, width,
height) and prints the milliseconds of its forward pass and of its backward pass as its last two numbers.

Times are medians of passes that follow another of the same kind, with threads awake and caches filled.
Scaling is the time on the fewest threads over that on the most: of forward and backward pass together, and
of a whole iteration, in which torch works on one thread. In the same turn the "machine" hashes on threads
that share nothing, not even memory: what it scales by is all that there is.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
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

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads must not spin beside ours

import numba
import numpy as np
import rasterizer_baseline
import torch
from scipy.spatial import KDTree
from torch import Tensor

from nope_splat.splatting import rasterization, set_num_threads, ssim
from nope_splat.splatting.cpu import Projection

SHARED = Path(__file__).resolve().parents[2] / "shared"
Scene = dict[str, Any]


def fresh_scene(path: Path, count: int, width: int, height: int) -> Scene:
    """A scene as at the start of training: points with scales from their neighbours."""
    data, rng = np.load(path), np.random.default_rng(0)
    chosen = rng.permutation(len(data["means3d"]))[:count]
    means, colors = data["means3d"][chosen], data["colors"][chosen].astype(np.float32) / 255
    distances, _ = KDTree(means).query(means, k=4)
    scale = np.sqrt((distances[:, 1:] ** 2).mean(1)).clip(1e-4)
    scale = np.minimum(scale, np.quantile(scale, 0.995))
    K = data["Ks"][0].copy()
    K[0] *= width / int(data["width"])
    K[1] *= height / int(data["height"])
    return as_scene(
        means,
        rng.normal(size=(count, 4)),
        scale[:, None] * np.exp(rng.normal(0, 0.25, (count, 3))),
        rng.uniform(0.1, 0.9, count),
        colors,
        data["viewmats"][0],
        K,
        width,
        height,
    )


def trained_scene(ply: Path, cameras: Path, width: int, height: int) -> Scene:
    """A splat of `ns-export`, seen from the first camera of `ns-export cameras`, 60 degrees wide."""
    with ply.open("rb") as file:
        names = []
        while (line := file.readline().decode("ascii").strip()) != "end_header":
            if line.startswith("property float"):
                names.append(line.split()[-1])
        values = np.frombuffer(file.read(), "<f4").reshape(-1, len(names))

    def columns(*wanted: str) -> np.ndarray:
        return values[:, [names.index(name) for name in wanted]]

    pose = np.eye(4)
    pose[:3] = np.array(json.loads(cameras.read_text())[0]["transform"])[:3]
    pose[:, 1:3] *= -1  # OpenGL's axes to OpenCV's
    focal = 0.5 * width / np.tan(np.radians(30))
    return as_scene(
        columns("x", "y", "z"),
        columns("rot_0", "rot_1", "rot_2", "rot_3"),
        np.exp(columns("scale_0", "scale_1", "scale_2")),
        1 / (1 + np.exp(-columns("opacity")[:, 0])),
        (0.5 + 0.28209479 * columns("f_dc_0", "f_dc_1", "f_dc_2")).clip(0, 1),
        np.linalg.inv(pose),
        np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]),
        width,
        height,
    )


def as_scene(means, quats, scales, opacities, colors, viewmat, K, width: int, height: int) -> Scene:
    """Arguments of `rasterization`, in float32, for one camera."""
    arrays = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors}
    arrays |= {"viewmats": viewmat[None], "Ks": K[None]}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a, np.float32)) for name, a in arrays.items()}
    return tensors | {"width": width, "height": height}


def leaves(scene: Scene) -> Scene:
    """A copy that collects gradients."""
    return {k: v.clone().requires_grad_() if isinstance(v, Tensor) else v for k, v in scene.items()}


Run = Callable[[], tuple[float, float]]
"""One forward and one backward pass; the milliseconds of each."""


def timed(scene: Scene, forward: Callable[[], Any], backward: Callable[[Any], Any]) -> Run:
    """A run of a forward pass, and of a backward pass from its result to the scene's leaves."""
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
    """This package."""
    scene = leaves(scene)
    d_image = torch.randn(1, scene["height"], scene["width"], 3)
    return timed(
        scene,
        lambda: rasterization(**scene, backgrounds=torch.zeros(1, 3), absgrad=True)[0],
        lambda image: image.backward(d_image),
    )


def baseline(scene: Scene) -> Run:
    """The plain rasterizer, with our projection and its gradient."""
    scene = leaves(scene)
    d_image = np.random.default_rng(0).normal(size=(scene["height"], scene["width"], 3)).astype(np.float32)
    cameras = (scene["viewmats"], scene["Ks"], scene["width"], scene["height"], 0.3, 0.01, 1e10, 0.0, {})

    def forward():
        splats = Projection.apply(scene["means"], scene["quats"], scene["scales"], *cameras)
        radii, means2d, depths, conics, _ = (values[0].detach().numpy() for values in splats)
        opacities, colors = (scene[name].detach().numpy() for name in ("opacities", "colors"))
        return splats, rasterizer_baseline.rasterize(
            radii, means2d, conics, opacities, depths, colors, scene["width"], scene["height"]
        )[1]

    def backward(result):
        (_, means2d, _, conics, _), gradient = result
        d_splats = torch.from_numpy(gradient(d_image))[None]
        torch.autograd.backward([means2d, conics], [d_splats[..., :2], d_splats[..., 2:5]])

    return timed(scene, forward, backward)


def prototype(scene: Scene, threads: int) -> Run:
    """The research prototype."""
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
    """Any other rasterizer, by its command."""
    file = Path(tempfile.mkdtemp()) / "scene.npz"
    np.savez(file, **{k: v.numpy() if isinstance(v, Tensor) else v for k, v in scene.items()})
    words = [word.format(scene=file, threads=threads) for word in shlex.split(command)]

    def run() -> tuple[float, float]:
        output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        forward, backward = re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", output)[-2:]
        return float(forward), float(backward)

    return run


def machine(threads: int) -> Run:
    """Work of which every thread has its share to itself: hashing, which needs no memory either."""
    shares = [100_000 // threads] * threads
    pool = ThreadPoolExecutor(threads)
    return timed(
        {},
        lambda: list(pool.map(lambda rounds: hashlib.pbkdf2_hmac("sha256", b"", b"", rounds), shares)),
        lambda _: None,
    )


def parameters_of(scene: Scene) -> dict[str, torch.nn.Parameter]:
    """What training optimises, with harmonics of degree 3."""
    sh = torch.zeros(len(scene["means"]), 16, 3)
    sh[:, 0] = (scene["colors"] - 0.5) / 0.28209479
    values = {name: scene[name] for name in ("means", "quats")}
    values |= {"scales": scene["scales"].log(), "opacities": scene["opacities"].logit(), "sh": sh}
    return {name: torch.nn.Parameter(value.clone()) for name, value in values.items()}


def training(
    scene: Scene, render: Callable[..., tuple[Tensor, Any]], similarity: Callable[..., Tensor]
) -> Run:
    """Iterations of 3D Gaussian Splatting: image, loss, gradients, Adam, and the strategy's bookkeeping."""
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
    """Iterations with this package."""

    def render(p: dict[str, Tensor]) -> tuple[Tensor, Any]:
        images, _, info = rasterization(
            p["means"], p["quats"], p["scales"].exp(), p["opacities"].sigmoid(), p["sh"],
            scene["viewmats"], scene["Ks"], scene["width"], scene["height"], sh_degree=3, absgrad=True,
            backgrounds=torch.zeros(1, 3),
        )  # fmt: skip
        return images[0], info

    return training(scene, render, ssim)


def prototype_training(scene: Scene, threads: int) -> Run:
    """The prototype's pieces: its rasterizer and SSIM, harmonics in torch; without the bookkeeping."""
    from gsplat.cuda._torch_impl import _spherical_harmonics

    full, fused = importlib.import_module("full"), importlib.import_module("nssim2")
    viewmat, K = scene["viewmats"][0], scene["Ks"][0]
    centre = -viewmat[:3, :3].T @ viewmat[:3, 3]

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
        colors = torch.clamp_min(_spherical_harmonics(3, p["means"] - centre, p["sh"]) + 0.5, 0.0)
        image, _ = full.Ras.apply(
            p["means"], p["quats"], p["scales"].exp(), p["opacities"].sigmoid(), colors, viewmat, K,
            scene["width"], scene["height"], torch.zeros(3), threads,
        )  # fmt: skip
        return image, None

    return training(scene, render, Similarity.apply)


def on_threads(count: int, run: Run) -> Run:
    """The second of two runs on so many threads: the first wakes them and puts its data into the caches.

    Before it, the threads of another's turn get the time to go to sleep.
    """

    def run_alone() -> tuple[float, float]:
        set_num_threads(count)
        numba.set_num_threads(count)
        time.sleep(5e-4)
        run()
        return run()

    return run_alone


Times = dict[tuple[str, int], np.ndarray]
"""Median milliseconds (forward, backward) of every run, by its name and number of threads."""


def medians(runs: dict[tuple[str, int], Run], repeats: int) -> Times:
    """Measure every run in turn, after two rounds in which everything is compiled."""
    samples: dict[tuple[str, int], list[tuple[float, float]]] = {key: [] for key in runs}
    for repeat in range(repeats + 2):
        for key, run in runs.items():
            sample = run()
            if repeat >= 2:
                samples[key].append(sample)
    return {key: np.median(values, axis=0) for key, values in samples.items()}


def report(what: str, times: Times) -> None:
    """Print a line per run, with the ratio of our time to its, and how its time scales."""
    counts = [count for _, count in times]
    for (name, count), (forward, backward) in times.items():
        total = forward + backward
        split = f"{forward:8.1f} {backward:8.1f}" if backward else " " * 17
        ratio = " " * 7 if name == "machine" else f"{times['ours', count].sum() / total:7.2f}"
        scaling = ""
        if count == max(counts) > min(counts):
            scaling = f"{times[name, min(counts)].sum() / total:8.2f}"
        print(f"{what:33} {name:10} {count:7} {split} {total:8.1f} {ratio} {scaling}", flush=True)


def main() -> None:
    """Measure every scene, size and number of threads."""
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
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--no-baseline", action="store_true", help="leave out the plain rasterizer")
    options = parser.parse_args()

    torch.set_num_threads(1)
    with_prototype = options.prototype.is_dir()
    if with_prototype:
        os.environ["NRAS_TS"] = "64"
        sys.path.insert(0, str(options.prototype))
    print(f"{'milliseconds':44} threads  forward backward    total  ours /  scaling")
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
                passes["machine", count] = iterations["machine", count] = machine(count)
                if not options.no_baseline:
                    passes["baseline", count] = baseline(scene)
                if options.peer:
                    passes["peer", count] = external(options.peer, scene, count)
            for what, runs in ((f"{kind}, {size}", passes), (f"{kind}, {size}, iteration", iterations)):
                runs = {(name, count): on_threads(count, run) for (name, count), run in runs.items()}
                report(what, medians(runs, options.repeats))


if __name__ == "__main__":
    main()
