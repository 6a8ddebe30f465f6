"""Cameras, held-out views and times of nope-splat and of COLMAP on the same photographs.

    python scripts/benchmark.py --scene SCENE [SCENE ...] --output-dir OUT

For each scene: COLMAP's incremental and global mapper and `nope-splat reconstruct` on all photographs, in
turn on the same machine; then `ns-train`, `ns-eval` and `ns-export` for the variants of
`configs/benchmark.json` and every seed. A scene with `ground_truth.json` is measured against it, another
one by its agreement with COLMAP's incremental model. Writes `benchmark.json` and `benchmark.md`.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from colmap_peer import ColmapResult, Mapper, run_colmap
from numpy.typing import NDArray
from plyfile import PlyData

from nope_splat.evaluation.pose_metrics import compare_poses, read_ground_truth
from nope_splat.images import PhotoFolder, find_photos

VARIANTS: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "configs" / "benchmark.json").read_text()
)
COLMAP_RUNS: dict[str, tuple[Mapper, bool]] = {
    "COLMAP incremental": ("incremental", False),
    "COLMAP incremental + pp": ("incremental", True),
    "COLMAP global": ("global", False),
    "COLMAP global + pp": ("global", True),
}
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])

Poses = dict[str, NDArray[np.float64]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    scene: tyro.conf.UseAppendAction[tuple[Path, ...]]
    """Folder of photographs, or with `images/` in it; repeat the flag for several scenes."""
    output_dir: Path
    """Where everything is written."""
    variants: tuple[str, ...] = ("default",)
    """Which of the variants in configs/benchmark.json to train; none for the cameras alone."""
    seeds: tuple[int, ...] = (42,)
    """Seeds of the trainings."""
    train_flags: tuple[str, ...] = field(default=())
    """Further words for every `ns-train`."""


@dataclass(frozen=True)
class Truth:
    """What cameras are compared with."""

    poses: Poses
    """Camera-to-world transforms, OpenCV axes."""
    focal: float
    """In pixels of the full-resolution photographs."""
    source: str
    """Where it comes from."""


def main(settings: Settings) -> None:
    """Measure every scene and write the tables.

    Args:
        settings: What to measure.
    """
    results = []
    for scene in settings.scene:
        folder = find_photos(scene)
        name = scene.resolve().name
        out = settings.output_dir / name
        shutil.rmtree(out, ignore_errors=True)
        colmap = {title: _colmap(title, folder, out / "colmap") for title in COLMAP_RUNS}
        truth = _truth(scene, colmap["COLMAP incremental"])
        cameras = [_colmap_row(title, result, truth) for title, result in colmap.items() if result]
        for row in cameras[1:]:  # the mappers share features and matches
            row["seconds"] = {**cameras[0]["seconds"], **row["seconds"]}
        cameras.append(_reconstruct(folder, out / "reconstruct", truth))
        trainings = [
            _train(variant, seed, folder, out / "train" / f"{variant}-{seed}", truth, settings.train_flags)
            for variant in settings.variants
            for seed in settings.seeds
        ]
        results.append({"scene": name, "truth": truth.source, "cameras": cameras, "trainings": trainings})
        (settings.output_dir / "benchmark.json").write_text(json.dumps(results, indent=1))
        (settings.output_dir / "benchmark.md").write_text(_markdown(results))
    print((settings.output_dir / "benchmark.md").read_text())


def _colmap(title: str, folder: PhotoFolder, work_dir: Path) -> ColmapResult | None:
    mapper, principal_point = COLMAP_RUNS[title]
    return run_colmap(folder.root, work_dir, [photo.name for photo in folder.photos], mapper, principal_point)


def _truth(scene: Path, colmap: ColmapResult | None) -> Truth:
    path = scene / "ground_truth.json"
    if path.exists():
        truth = read_ground_truth(path)
        return Truth(truth.T_world_camera, truth.focal, "ground truth")
    if colmap is None:
        raise SystemExit(f"{scene} has no ground_truth.json and COLMAP finds no cameras to compare with")
    return Truth(
        dict(zip(colmap.names, colmap.T_world_camera, strict=True)), colmap.focal, "COLMAP incremental"
    )


def _camera_metrics(poses: Poses, focal: float, truth: Truth) -> Row:
    """Metrics over the photographs that have a pose: held-out ones must not count as failures here."""
    shared = {name: truth.poses[name] for name in truth.poses if name in poses}
    metrics = compare_poses(poses, shared or truth.poses, focal, truth.focal)
    return {"registered": len(poses), "focal": focal, **asdict(metrics)}


def _colmap_row(title: str, result: ColmapResult, truth: Truth) -> Row:
    poses = dict(zip(result.names, result.T_world_camera, strict=True))
    everything = compare_poses(poses, truth.poses, result.focal, truth.focal)
    return {
        "method": title,
        "registered": len(poses),
        "focal": result.focal,
        "points": result.num_points,
        "seconds": result.seconds,
        **asdict(everything),
    }


def _opencv(T_world_camera: list[list[float]]) -> NDArray[np.float64]:
    """Camera-to-world transform in OpenCV axes from nerfstudio's OpenGL axes. (4, 4)."""
    return np.array(T_world_camera, np.float64) @ OPENCV_FROM_OPENGL


def _run(command: list[str], log: Path) -> tuple[float, float]:
    """Run one command; its output goes to a file.

    Returns:
        Wall seconds, and peak memory in GiB.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=_environment())
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise SystemExit(f"{' '.join(command)} failed; the end of {log}:\n{tail}")
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _reconstruct(folder: PhotoFolder, out: Path, truth: Truth) -> Row:
    command = [_tool("nope-splat"), "reconstruct", "--data", str(folder.root), "--output-dir", str(out)]
    wall, memory = _run(command, out.with_suffix(".log"))
    report = json.loads((out / "report.json").read_text())
    transforms = json.loads((out / "transforms.json").read_text())
    poses = {
        Path(frame["file_path"]).name: _opencv(frame["transform_matrix"]) for frame in transforms["frames"]
    }
    focal = transforms.get("fl_x") or transforms["frames"][0]["fl_x"]
    return {
        "method": "nope-splat",
        "points": report["tracks"],
        "seconds": report["seconds"],
        "wall": wall,
        "peak_gib": memory,
        "registered": len(poses),
        "focal": focal,
        **asdict(compare_poses(poses, truth.poses, focal, truth.focal)),
    }


def _train(
    variant: str, seed: int, folder: PhotoFolder, out: Path, truth: Truth, train_flags: tuple[str, ...]
) -> Row:
    """Train, evaluate and export one variant."""
    command = [_tool("ns-train"), "nope-splat", "--data", str(folder.root), "--output-dir", str(out)]
    command += ["--timestamp", "run", "--experiment-name", "scene", "--vis", "tensorboard"]
    command += ["--machine.seed", str(seed), *VARIANTS[variant]["flags"], *train_flags]
    wall, memory = _run(command, out / "train.log")
    config = next(out.glob("**/config.yml"))
    eval_wall, _ = _run(
        [_tool("ns-eval"), "--load-config", str(config), "--output-path", str(out / "eval.json")],
        out / "eval.log",
    )
    load = ["--load-config", str(config), "--output-dir", str(out / "export")]
    _run([_tool("ns-export"), "gaussian-splat", *load], out / "export.log")
    _run([_tool("ns-export"), "cameras", *load], out / "cameras.log")
    metrics = json.loads((out / "eval.json").read_text())["results"]
    frames = json.loads((out / "export" / "transforms_train.json").read_text())
    poses = {Path(frame["file_path"]).name: _opencv([*frame["transform"], [0, 0, 0, 1]]) for frame in frames}
    checkpoint = torch.load(max(config.parent.glob("nerfstudio_models/*.ckpt")), map_location="cpu")
    state = checkpoint["pipeline"]
    start_focal = float(state["_model.camera_optimizer.base_focal"])
    focal = start_focal * float(state["_model.camera_optimizer.log_focal"].exp())
    base = {
        name: _opencv([*pose.tolist(), [0, 0, 0, 1]])
        for name, pose in zip(poses, state["_model.camera_optimizer.base_poses"], strict=True)
    }
    splat = PlyData.read(next((out / "export").glob("*.ply")))
    return {
        "variant": variant,
        "seed": seed,
        "seconds": wall,
        "eval_seconds": eval_wall,
        "peak_gib": memory,
        "gaussians": splat["vertex"].count,
        "iterations": checkpoint["step"] + 1,
        "held_out": metrics,
        "cameras_before": _camera_metrics(base, start_focal, truth),
        "cameras": _camera_metrics(poses, focal, truth),
    }


def _markdown(results: list[Row]) -> str:
    cameras, splats = [], []
    for result in results:
        for row in result["cameras"]:
            cameras.append(
                {
                    "scene": result["scene"],
                    "method": row["method"],
                    "registered": row["registered"],
                    "focal error %": f"{row['focal_error']:+.2f}",
                    "AUC@5": f"{row['auc_5']:.1f}",
                    "AUC@30": f"{row['auc_30']:.1f}",
                    "RRA@5": f"{row['rra_5']:.1f}",
                    "RTA@5": f"{row['rta_5']:.1f}",
                    "ATE %": f"{row['ate']:.3f}",
                    "points": row["points"],
                    "seconds": f"{sum(row['seconds'].values()):.1f}",
                }
            )
        for variant in dict.fromkeys(row["variant"] for row in result["trainings"]):
            rows = [row for row in result["trainings"] if row["variant"] == variant]
            held_out, before, after = (
                [row[key] for row in rows] for key in ("held_out", "cameras_before", "cameras")
            )
            splats.append(
                {
                    "scene": result["scene"],
                    "variant": variant,
                    "trained on": rows[0]["cameras"]["registered"],
                    "PSNR": _mean(held_out, "psnr", 2),
                    "SSIM": _mean(held_out, "ssim", 3),
                    "AUC@5 before": _mean(before, "auc_5", 1),
                    "after": _mean(after, "auc_5", 1),
                    "ATE % before": _mean(before, "ate", 3),
                    "after ": _mean(after, "ate", 3),
                    "focal error % before": _mean(before, "focal_error", 2),
                    "after  ": _mean(after, "focal_error", 2),
                    "Gaussians": _mean(rows, "gaussians", 0),
                    "iterations": rows[0]["iterations"],
                    "seconds": _mean(rows, "seconds", 0),
                    "GiB": f"{max(row['peak_gib'] for row in rows):.1f}",
                }
            )
    return "\n".join(
        [
            "### Cameras, all photographs\n",
            *_table(cameras),
            "\n### Splats, every 8th photograph held out\n",
            *_table(splats),
            "",
        ]
    )


def _table(rows: list[Row]) -> list[str]:
    if not rows:
        return ["nothing measured"]
    cells = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return ["| " + " | ".join(str(cell).strip() for cell in line) + " |" for line in cells]


def _mean(rows: list[Row], key: str, digits: int) -> str:
    """Mean and, over several seeds, standard deviation."""
    values = [row[key] for row in rows]
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main(tyro.cli(Settings))
