"""Compare nope-splat with COLMAP + splatfacto: cameras, held-out views, time and memory on the same images.

    python -m scripts.benchmark.run --scene SCENE --scene ... --output-dir OUT

For each scene, the script runs COLMAP's incremental and global mapper, with and without refinement of the
principal point, each followed by splatfacto on the resulting cameras; nope-splat's reconstruction; and the
variants of nope-splat's training. `configs/benchmark.json` lists the methods, and `configs/splatfacto.json`
the scaling of splatfacto's schedule.

All methods hold out the same images from reconstruction and training, and train for the same number of
iterations, at the same resolution and with the same maximum number of Gaussians. `held_out.py` aligns and
evaluates the held-out images of all methods. Cameras are compared with the scene's `ground_truth.json` or, if
there is none, with COLMAP's cameras (incremental, principal point refined) of all images. A splatfacto
training on all images with these COLMAP cameras determines the covered pixels for all methods: the pixels of
held-out images whose surfaces are visible in training images.

Seconds are the time for computing the cameras from the images, and the time of the training process, without
evaluation. The seconds of nope-splat include features and matches of the held-out images, those of COLMAP do
not. Memory is that of the CPU.

Results are kept in `OUT`: run the same command again to continue an interrupted run, or with other methods
and seeds to add results. Remove the folder of a method to measure it again. Writes `benchmark.json`,
`benchmark.md` and plots.
"""

from __future__ import annotations

import json
import math
import queue
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from PIL import Image

from nope_splat.errors import NopeSplatError
from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.io.cameras import read_ground_truth
from nope_splat.io.images import ImageFolder, find_images, read_image
from nope_splat.sfm.camera_assignment import assign_cameras
from nope_splat.splatting.densification import max_num_gaussians
from nope_splat.utils.terminal import set_up_terminal
from scripts.benchmark.camera_file import CameraFile, Poses, require_one_camera
from scripts.benchmark.report import write_report
from scripts.benchmark.stages import Stage, StageFailed, run_stage, script

CONFIG: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "configs" / "benchmark.json").read_text()
)
METHODS: dict[str, dict[str, Any]] = CONFIG["methods"]
DEFAULTS: dict[str, int] = CONFIG["settings"]
RECONSTRUCTION = "reconstruction"
"""Name of the method that runs nope-splat's reconstruction without a training."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark. The defaults are in configs/benchmark.json."""

    scene: tyro.conf.UseAppendAction[tuple[Path, ...]]
    """Folder of images, or folder that contains `images/`; repeat the flag for several scenes."""
    output_dir: Path
    """Output folder. Results that it already contains are reused."""
    methods: tuple[str, ...] = (RECONSTRUCTION, *METHODS)
    """Methods to measure: methods in configs/benchmark.json, or `reconstruction` (cameras only)."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of COLMAP's mappers, of nope-splat's reconstruction and of all trainings."""
    iterations: int = DEFAULTS["iterations"]
    """Number of iterations of every training, multiplied by the `length` of the method in
    configs/benchmark.json."""
    max_image_size: int = DEFAULTS["max_image_size"]
    """Longer side of the training images in pixels. Cameras are computed from the full-resolution images."""
    max_gaussians: int = DEFAULTS["max_gaussians"]
    """Maximum number of Gaussians in every training."""
    eval_interval: int = DEFAULTS["eval_interval"]
    """Interval of the held-out images: with interval n, the first image and every n-th image after it are
    held out."""
    min_views: int = DEFAULTS["min_views"]
    """Minimum number of training images in which the surface of a covered pixel is visible."""
    jobs: int = 1
    """Number of trainings that run at the same time, each on one core. More jobs increase the seconds of each
    training, but do not affect the quality."""
    train_flag: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Additional flag for every `ns-train nope-splat`, e.g. `--train-flag=--pipeline.model.sh-degree=2`; can
    be repeated."""


@dataclass(frozen=True)
class Scene:
    """A scene that is prepared for the measurement of all methods."""

    folder: ImageFolder
    """Input images at full resolution."""
    out: Path
    """Folder of all results of the scene."""
    images: Path
    """Folder of the images at training resolution, as `.png`."""
    num_pixels: int
    """Total number of pixels of the training images at training resolution."""
    masks: Path
    """File with the masks of covered pixels of the held-out images."""
    train: list[str]
    """Names of the training images."""
    held_out: list[str]
    """Names of the held-out images."""
    truth: Poses
    """Reference poses of the training images: camera-to-world transforms by name."""
    true_focal: float
    """Reference focal length, in pixels of the full-resolution images."""
    mapping: list[str]
    """Command line that maps the training images with COLMAP, without the flags for the mapper and the output
    folder."""
    features: Stage
    """Stage of COLMAP's feature extraction and matching."""
    coverage: Stage
    """Stage that computed the masks of covered pixels."""


def main(settings: Settings) -> None:
    """Measure every method on every scene, and write the tables.

    Args:
        settings: Settings of the benchmark.

    Raises:
        NopeSplatError: If a method is unknown, or a scene has masks or several cameras.
    """
    unknown = [name for name in settings.methods if name not in (RECONSTRUCTION, *METHODS)]
    if unknown:
        available = ", ".join((RECONSTRUCTION, *METHODS))
        raise NopeSplatError(
            "invalid-option",
            f"there is no method {unknown[0]} in configs/benchmark.json; choose from {available}",
        )
    rows: list[Row] = []
    for path in settings.scene:
        scene = _prepare(path, settings)
        todo = [(method, seed) for seed in settings.seeds for method in settings.methods]
        # Compute all cameras first, one method at a time on all cores, so that their times are comparable.
        for method, seed in todo:
            with suppress(StageFailed):
                _find_cameras(method, seed, scene)
        cores: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        for core in range(settings.jobs):
            cores.put(core if settings.jobs > 1 else None)

        def measure(
            job: tuple[str, int], scene: Scene = scene, cores: queue.SimpleQueue[int | None] = cores
        ) -> Row:
            core = cores.get()
            try:
                return _measure(*job, scene, settings, core)
            finally:
                cores.put(core)

        with ThreadPoolExecutor(settings.jobs) as pool:
            rows += pool.map(measure, todo)
        write_report(rows, METHODS, asdict(settings), settings.output_dir)
    print((settings.output_dir / "benchmark.md").read_text())


def _prepare(path: Path, settings: Settings) -> Scene:
    """Prepare a scene: downscale and split the images, run COLMAP's features, compute reference and coverage.

    Args:
        path: Folder of the scene.
        settings: Settings of the benchmark.
    """
    folder = find_images(path)
    if any(image.mask_path for image in folder.images):
        raise NopeSplatError(
            "unsupported-scene",
            f"{path} has masks, which the benchmark does not support; measure another scene",
        )
    require_one_camera(path, assign_cameras(folder.images))
    names = [image.name for image in folder.images]
    held_out = names[:: settings.eval_interval]
    train = [name for name in names if name not in held_out]
    out = settings.output_dir / path.resolve().name
    images = out / f"photos-{settings.max_image_size}"
    for image in folder.images:
        file = (images / image.name).with_suffix(".png")
        if not file.exists():
            shrink = min(1.0, settings.max_image_size / max(image.width, image.height))
            file.parent.mkdir(parents=True, exist_ok=True)
            size = max(1, round(image.width * shrink)), max(1, round(image.height * shrink))
            Image.fromarray(read_image(image, size)[..., :3]).save(file)
    features = [*script("colmap_peer"), "features", "--images", str(folder.root), "--names", *train]
    pixels = sum(math.prod(Image.open((images / name).with_suffix(".png")).size) for name in train)
    matched = run_stage(
        [*features, "--held-out", *held_out, "--work-dir", str(out / "colmap")], out / "colmap"
    )
    mapping = [*script("colmap_peer"), "map", "--images", str(folder.root)]
    mapping += ["--training-images", str(images), "--work-dir", str(out / "colmap")]
    reference_folder = out / "reference" / "map"
    everything = [
        "--output-dir",
        str(reference_folder),
        "--mapper",
        "incremental",
        "--principal-point",
        "--everything",
    ]
    mapped = run_stage([*mapping, *everything], reference_folder, [matched])
    reference = CameraFile.load(reference_folder / "cameras.json")
    run = _splatfacto_flags(out / "reference", "short", settings.iterations, settings.seeds[0], settings)
    trained = run_stage([*script("splatfacto_peer"), *run], out / "reference" / "train", [mapped])
    masks = out / "reference" / "coverage" / "masks.npz"
    coverage = [*script("held_out"), "coverage", *_prefixed(run, "run"), "--held-out", *held_out]
    coverage += ["--cameras", str(reference_folder / "cameras.json"), "--min-views", str(settings.min_views)]
    covered = run_stage([*coverage, "--output", str(masks)], masks.parent, [trained])
    truth, focal = reference.T_world_camera, reference.focal
    if (path / "ground_truth.json").exists():
        ground_truth = read_ground_truth(path / "ground_truth.json")
        truth, focal = ground_truth.T_world_camera, ground_truth.focal
    truth = {name: pose for name, pose in truth.items() if name in train}
    return Scene(folder, out, images, pixels, masks, train, held_out, truth, focal, mapping, matched, covered)


def _measure(method: str, seed: int, scene: Scene, settings: Settings, core: int | None) -> Row:
    """Measure a method on a scene with one seed.

    Args:
        method: Name of the method.
        seed: Seed of cameras and training.
        scene: The prepared scene.
        settings: Settings of the benchmark.
        core: Index of the core for training and evaluation; None for all cores.

    Returns:
        Row of the report. If a stage fails, the row contains the `error`.
    """
    row: Row = {"scene": scene.out.name, "method": method, "seed": seed, "images": len(scene.train)}
    print(f"{scene.out.name}: {method}, seed {seed}", flush=True)
    try:
        before, reconstruction = _find_cameras(method, seed, scene)
        if method == RECONSTRUCTION:
            costs = {"seconds": before.seconds, "peak_gib": reconstruction.peak_gib}
            return row | _cameras_row(before, scene) | costs
        out, peer = scene.out / f"{method}-{seed}", "mapper" in METHODS[method]
        train, evaluate = (_peer_commands if peer else _our_commands)(method, seed, scene, settings)
        training = run_stage(train, out / "train", [reconstruction], core)
        evaluate += ["--images", str(scene.images), "--masks", str(scene.masks)]
        evaluate = [*script("held_out"), *evaluate, "--output-dir", str(out / "eval")]
        run_stage(evaluate, out / "eval", [training, scene.coverage], core)
    except StageFailed as error:
        print(error, flush=True)
        return row | {"error": str(error)}
    result = json.loads((out / "eval" / "held_out.json").read_text())
    return {
        **row,
        **_cameras_row(CameraFile.load(out / "eval" / "cameras.json"), scene),
        "cameras_before": _cameras_row(before, scene)["cameras"],
        "images_held_out": result["images"],
        "gaussians": result["gaussians"],
        "seconds": {**before.seconds, "training": training.seconds},
        "peak_gib": max(training.peak_gib, reconstruction.peak_gib),
    }


def _find_cameras(method: str, seed: int, scene: Scene) -> tuple[CameraFile, Stage]:
    """Compute the cameras from which a method starts, unless they are already computed.

    All variants of nope-splat with the same seed share their cameras.
    """
    how = METHODS.get(method, {})
    if "mapper" in how:
        folder = scene.out / f"{method}-{seed}" / "map"
        flags = {"--output-dir": folder, "--mapper": how["mapper"], "--seed": seed}
        command = [*scene.mapping, *_arguments(flags)]
        command += ["--principal-point"] if how.get("principal_point") else []
        stage = run_stage(command, folder, [scene.features])
    else:
        folder = scene.out / f"{RECONSTRUCTION}-{seed}"
        flags = {"--data": scene.folder.root, "--output-dir": folder, "--seed": seed}
        command = [*script("our_cameras"), *_arguments(flags), "--held-out", *scene.held_out]
        stage = run_stage(command, folder)
    return CameraFile.load(folder / "cameras.json"), stage


def _peer_commands(method: str, seed: int, scene: Scene, settings: Settings) -> tuple[list[str], list[str]]:
    """Return the command lines for training and for evaluating a splatfacto method."""
    out = scene.out / f"{method}-{seed}"
    how = METHODS[method]
    if how.get("limits_gaussians"):
        settings = replace(
            settings, max_gaussians=min(settings.max_gaussians, max_num_gaussians(scene.num_pixels))
        )
    run = _splatfacto_flags(out, how["schedule"], _length(method, settings), seed, settings)
    evaluate = ["splatfacto", *_prefixed(run, "run"), "--cameras", str(out / "map" / "cameras.json")]
    return [*script("splatfacto_peer"), *run], evaluate


def _our_commands(method: str, seed: int, scene: Scene, settings: Settings) -> tuple[list[str], list[str]]:
    """Return the command lines for training and for evaluating a variant of nope-splat."""
    out, length = scene.out / f"{method}-{seed}", _length(method, settings)
    parser = "--pipeline.datamanager.dataparser"
    flags = {
        "--data": scene.folder.root,
        "--output-dir": out / "train",
        "--experiment-name": "scene",
        "--timestamp": "run",
        "--vis": "tensorboard",
        "--machine.seed": seed,
        "--max-num-iterations": length,
        "--steps-per-save": length,
        "--steps-per-eval-image": 0,
        "--pipeline.alignment-steps": 0,  # `held_out.py` aligns, outside of the timed training
        "--pipeline.model.max-gaussians": settings.max_gaussians,
        f"{parser}.max-image-size": settings.max_image_size,
        f"{parser}.eval-interval": settings.eval_interval,
        f"{parser}.matching.seed": seed,
        f"{parser}.cache-dir": scene.out / f"{RECONSTRUCTION}-{seed}" / "cache",
    }
    how = METHODS[method]
    options = [*_arguments(flags), *how["flags"], *settings.train_flag]
    train = ["ns-train", "nope-splat", *options, *how.get("choices", [])]
    config = out / "train" / "scene" / "nope-splat" / "run" / "config.yml"
    return train, ["nope-splat", "--config", str(config)]


def _splatfacto_flags(out: Path, schedule: str, length: int, seed: int, settings: Settings) -> list[str]:
    """Return the command line flags of a splatfacto training on the cameras in `out`."""
    flags = {
        "--data": out / "map" / "splat",
        "--output-dir": out / "train",
        "--max-num-iterations": length,
        "--max-gaussians": settings.max_gaussians,
        "--schedule": schedule,
        "--seed": seed,
    }
    return _arguments(flags)


def _arguments(flags: dict[str, Any]) -> list[str]:
    return [str(part) for flag in flags.items() for part in flag]


def _prefixed(flags: list[str], prefix: str) -> list[str]:
    return [flag.replace("--", f"--{prefix}.") if flag.startswith("--") else flag for flag in flags]


def _length(method: str, settings: Settings) -> int:
    return round(METHODS[method].get("length", 1.0) * settings.iterations)


def _cameras_row(cameras: CameraFile, scene: Scene) -> Row:
    metrics = compare_poses(cameras.T_world_camera, scene.truth, cameras.focal, scene.true_focal)
    return {
        "registered": len(cameras.T_world_camera),
        "held_out_registered": len(cameras.held_out),
        "points": cameras.num_points,
        "cameras": {**asdict(metrics), "focal": cameras.focal},
    }


if __name__ == "__main__":
    set_up_terminal()
    main(tyro.cli(Settings))
