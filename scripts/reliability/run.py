"""Reconstruct image sets that mislead structure from motion, and honest sets, and judge the results.

    python -m scripts.reliability.run --output-dir OUT --data DATA

Image sets are made once, in `OUT/sets`, so that all versions of the package use the same files. Each set is
reconstructed with `nope_splat.reconstruct` in a separate process and judged against its true cameras. One row
per set is appended to the file of results (JSON lines; the last row of a set is valid). Run the same command
again to continue an interrupted run. To compare two versions of the package, write two files:

    python -m scripts.reliability.run --output-dir OUT --package OLD_CHECKOUT --results OUT/before.jsonl
    python -m scripts.reliability.run --output-dir OUT --results OUT/after.jsonl
    python -m scripts.reliability.table OUT/before.jsonl OUT/after.jsonl
    python -m scripts.reliability.diagram OUT/after.jsonl --output diagram.png
"""

from __future__ import annotations

import json
import queue
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import tyro

from nope_splat.errors import NopeSplatError
from nope_splat.io.cameras import NamedCamera, read_named_cameras
from nope_splat.utils.terminal import set_up_terminal
from scripts.benchmark.stages import ROOT, StageFailed, run_stage
from scripts.reliability import honest
from scripts.reliability.catalog import all_sets
from scripts.reliability.image_set import KNOWN_CAMERAS, TRUTH, Family, ImageSet, Inputs, Variation, make_once
from scripts.reliability.judge import MIN_AUC, measure, notice_codes, notice_texts, verdict
from scripts.reliability.results import Row, append_row, read_rows

WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    output_dir: Path
    """Output folder of image sets, runs and, by default, results."""
    data: Path | None = None
    """Folder with the scenes fountain-P11, Herz-Jesus-P8 and family. Without it, image sets made from their
    photos are skipped."""
    photos: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=FOLDER of photos without true cameras, which are expected to be reconstructed without a notice;
    can be repeated."""
    sets: tuple[str, ...] = ()
    """Words; only image sets whose name contains one of them are run. By default, all sets are run."""
    family: tuple[Family, ...] = ()
    """Families of the image sets to run. By default, all families are run."""
    variations: tuple[int, ...] = (0,)
    """Variations of every set to run. They differ in textures and slightly in cameras; 0 is the documented
    set."""
    package: Path = ROOT
    """Checkout of the repository whose `nope_splat` is tested."""
    results: Path | None = None
    """File of results; by default `OUT/results.jsonl`."""
    jobs: int = 1
    """Number of sets that are reconstructed at the same time, each on one core. With 1, each set uses all
    cores."""
    timeout: int = 600
    """Time limit of a reconstruction in seconds. Longer reconstructions are ended and count as crashed."""
    again: bool = False
    """Reconstruct sets again that already have a result."""
    rejudge: bool = False
    """Only judge the stored outcomes of earlier runs again, without reconstruction."""
    keep_matches: bool = False
    """Keep matches in `OUT/runs` for later runs, for as long as matching does not change. The seconds of
    later runs then do not include matching."""
    make_only: bool = False
    """Only make the images, without reconstruction."""
    list_sets: bool = False
    """Only print the names of the sets."""

    @property
    def results_path(self) -> Path:
        """Path of the file of results."""
        return self.results or self.output_dir / "results.jsonl"


@dataclass(frozen=True)
class Job:
    """Image set to reconstruct in one variation."""

    image_set: ImageSet
    """The image set."""
    inputs: Inputs
    """Inputs from which the image set is made, including the variation."""
    folder: Path
    """Folder of the files of the set."""

    @property
    def name(self) -> str:
        """Name of the set, followed by the index of the variation unless it is 0."""
        return self.folder.name

    def make(self) -> None:
        """Write the files of the set, unless they exist."""
        make_once(self.folder, lambda folder: self.image_set.write(folder, self.inputs))

    def truth(self) -> dict[str, NamedCamera]:
        """Read the true cameras by image name; empty if they are unknown."""
        path = self.folder / TRUTH
        return read_named_cameras(path) if path.exists() else {}


def main(settings: Settings) -> None:
    """Reconstruct and judge every selected image set.

    Args:
        settings: Settings of the benchmark.
    """
    jobs = select_jobs(settings)
    if settings.list_sets:
        for job in jobs:
            kind = "honest" if job.image_set.honest else "trap"
            print(f"{job.name:40} {job.image_set.family:14} {kind}")
        return
    finished = (
        set()
        if settings.again or settings.rejudge
        else {row["name"] for row in read_rows(settings.results_path)}
    )
    jobs = [job for job in jobs if settings.make_only or job.name not in finished]
    cores: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    for core in range(settings.jobs):
        cores.put(core if settings.jobs > 1 else None)
    lock = threading.Lock()

    def measure_job(job: Job) -> None:
        with lock:  # image sets share sources, so make one at a time
            job.make()
        if settings.make_only:
            return
        core = cores.get()
        try:
            outcome = stored_outcome(job, settings) if settings.rejudge else reconstruct(job, settings, core)
        finally:
            cores.put(core)
        if outcome is None:
            return
        row = judge(job, outcome)
        with lock:
            append_row(settings.results_path, row)
            print(line(row), flush=True)

    with ThreadPoolExecutor(settings.jobs) as pool:
        list(pool.map(measure_job, jobs))


def select_jobs(settings: Settings) -> list[Job]:
    """Select image sets and variations by the settings.

    Args:
        settings: Settings of the benchmark.

    Returns:
        One job per image set and variation.

    Raises:
        NopeSplatError: If no set is selected, or a folder of photos does not exist.
    """
    sets = all_sets()
    for text in settings.photos:
        name, _, path = text.partition("=")
        if not Path(path).is_dir() or not path:
            raise NopeSplatError(
                "missing-file",
                f"--photos {text} is not an existing folder; pass NAME=FOLDER, for example fox=photos/fox",
            )
        sets.append(honest.photos(name, Path(path)))
    sets = [
        image_set
        for image_set in sets
        if (not settings.sets or any(word in image_set.name for word in settings.sets))
        and (not settings.family or image_set.family in settings.family)
        and (settings.data is not None or not image_set.needs_data)
    ]
    if not sets:
        raise NopeSplatError(
            "invalid-option",
            f"no set name contains {' or '.join(settings.sets)}; --list-sets prints all names, and families"
            f" are {', '.join(get_args(Family))}",
        )
    inputs = Inputs(settings.data, settings.output_dir / "sources")
    return [
        Job(
            image_set,
            replace(inputs, variation=Variation(index)),
            settings.output_dir / "sets" / (f"{image_set.name}~{index}" if index else image_set.name),
        )
        for index in settings.variations
        for image_set in sets
    ]


def _run_folder(job: Job, settings: Settings) -> Path:
    return settings.output_dir / "runs" / settings.results_path.stem / job.name


def reconstruct(job: Job, settings: Settings, core: int | None) -> dict[str, Any]:
    """Reconstruct an image set in a separate process.

    Args:
        job: Image set and variation.
        settings: Settings of the benchmark.
        core: Index of the core to run on; None for all cores.

    Returns:
        The outcome that `worker.py` wrote, with the peak memory in GiB.
    """
    folder = _run_folder(job, settings)
    output = folder / "outcome.json"
    command = ["python", str(WORKER), "--images", str((job.folder / "images").absolute())]
    command += ["--output", str(output.absolute()), "--timeout", str(settings.timeout)]
    if job.image_set.known_cameras:
        command += ["--known-cameras", str((job.folder / KNOWN_CAMERAS).absolute())]
    if job.image_set.max_keypoints is not None:
        command += ["--max-keypoints", str(job.image_set.max_keypoints)]
    if settings.keep_matches:
        cache = settings.output_dir / "runs" / f"{settings.results_path.stem}-matches" / job.name
        command += ["--cache-dir", str(cache.absolute())]
    shutil.rmtree(folder, ignore_errors=True)  # the stored stage may come from other code
    package = settings.package.resolve()
    try:
        stage = run_stage(command, folder, core=core, root=package)
    except StageFailed as error:
        outcome: dict[str, Any] = {"crashed": str(error), "seconds": float("nan"), "package": str(package)}
        output.write_text(json.dumps(outcome))
        return outcome
    outcome = json.loads(output.read_text())
    if Path(outcome["package"]) != package:
        raise NopeSplatError("invalid-option", f"{package} has no folder nope_splat; pass another --package")
    return outcome | {"peak_gib": stage.peak_gib}


def stored_outcome(job: Job, settings: Settings) -> dict[str, Any] | None:
    """Read the outcome of an earlier run.

    Args:
        job: Image set and variation.
        settings: Settings of the benchmark; the file of results identifies the run.

    Returns:
        The outcome; None if there was no such run.
    """
    path = _run_folder(job, settings) / "outcome.json"
    return json.loads(path.read_text()) if path.exists() else None


def judge(job: Job, outcome: dict[str, Any]) -> Row:
    """Judge an outcome against the true cameras.

    Args:
        job: Image set and variation.
        outcome: Outcome from `reconstruct`.

    Returns:
        Row for the file of results.
    """
    truth = job.truth()
    estimated = {
        Path(name).name: NamedCamera(np.array(camera["T_world_camera"]), camera["focal"])
        for name, camera in outcome.get("cameras", {}).items()
    }
    accuracy = measure(estimated, truth)
    trust = outcome.get("trust")
    return {
        "name": job.name,
        "family": job.image_set.family,
        "honest": job.image_set.honest,
        "causes": sorted(job.image_set.cause_codes),
        "judged": bool(truth),
        "verdict": verdict(job.image_set, outcome, accuracy, bool(truth)),
        "right": None if not truth or accuracy is None else accuracy.auc_5 > MIN_AUC,
        "registered": len(estimated),
        "images": len(outcome.get("images", ())),
        "accuracy": None if accuracy is None else asdict(accuracy),
        "notice_codes": notice_codes(outcome),
        "notice_texts": notice_texts(outcome),
        "refused": outcome.get("refused"),
        "crashed": outcome.get("crashed"),
        "failures": outcome.get("failures", {}),
        "trust": None if trust is None else trust["score"],
        "trust_details": trust,
        **{
            key: outcome.get(key) for key in ("reprojection_error", "points", "seconds", "stages", "peak_gib")
        },
    }


def line(row: Row) -> str:
    """Format a row of results as one line for the terminal."""
    parts = [f"{row['name']:40} {row['verdict']:20} {row['registered']}/{row['images']}"]
    if row["accuracy"]:
        accuracy = row["accuracy"]
        parts.append(
            f"AUC@5 {accuracy['auc_5']:.1f}, {len(accuracy['wrong_rotations'])} rotated,"
            f" {len(accuracy['wrong_images'])} wrong, focal {accuracy['focal_error']:+.1f} %"
        )
    if row["trust"] is not None:
        parts.append(f"trust {row['trust']:.2f}")
    if row["notice_codes"]:
        parts.append(", ".join(row["notice_codes"]))
    if row["refused"]:
        parts.append(row["refused"]["message"][:80])
    parts.append(f"{row['seconds']:.0f} s")
    return "; ".join(parts)


if __name__ == "__main__":
    set_up_terminal()
    main(tyro.cli(Settings))
