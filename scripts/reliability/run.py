"""Reconstruct image sets that mislead structure from motion, and honest ones, and judge the results.

    python -m scripts.reliability.run --output-dir OUT --data DATA

Sets are made once, below `OUT/sets`, so that all packages see the same files. Each is reconstructed with
`nope_splat.reconstruct` in a process of its own and judged against its true cameras. A row per set is
appended to the file of results (JSON lines, the last row of a set counts); run the same command again to
continue. To compare two versions of the package, write two files:

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
    """Settings of the measurement."""

    output_dir: Path
    """Output folder: sets, runs and, by default, results."""
    data: Path | None = None
    """Folder with fountain-P11, Herz-Jesus-P8 and family; sets of their photos are skipped without it."""
    photos: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=FOLDER of photos without true cameras, which count as honest; can be repeated."""
    sets: tuple[str, ...] = ()
    """Only sets whose name contains one of these words."""
    family: tuple[Family, ...] = ()
    """Only sets of these families."""
    variations: tuple[int, ...] = (0,)
    """Variations of every set: other textures, slightly other cameras."""
    package: Path = ROOT
    """Checkout whose `nope_splat` reconstructs."""
    results: Path | None = None
    """File of results; `OUT/results.jsonl` by default."""
    jobs: int = 1
    """Sets at the same time, each on one core; one set on all cores by default."""
    timeout: int = 600
    """Seconds after which a reconstruction is ended and counts as crashed."""
    again: bool = False
    """Whether to reconstruct sets again that have a result."""
    rejudge: bool = False
    """Whether to only judge the stored outcomes of earlier runs again."""
    keep_matches: bool = False
    """Whether to keep matches from run to run, below `OUT/runs`, while matching does not change. Seconds then
    lack those of matching."""
    make_only: bool = False
    """Whether to only make the images."""
    list_sets: bool = False
    """Whether to only print the names of the sets."""

    @property
    def results_path(self) -> Path:
        """File of results."""
        return self.results or self.output_dir / "results.jsonl"


@dataclass(frozen=True)
class Job:
    """A set to reconstruct in one variation."""

    image_set: ImageSet
    """The set."""
    inputs: Inputs
    """What it is made from."""
    folder: Path
    """Folder of its images."""

    @property
    def name(self) -> str:
        """Name of the set and, unless it is 0, number of the variation."""
        return self.folder.name

    def make(self) -> None:
        """Write the images, unless they exist."""
        make_once(self.folder, lambda folder: self.image_set.write(folder, self.inputs))

    def truth(self) -> dict[str, NamedCamera]:
        """Read the true cameras; empty if there are none."""
        path = self.folder / TRUTH
        return read_named_cameras(path) if path.exists() else {}


def main(settings: Settings) -> None:
    """Measure every chosen set.

    Args:
        settings: Settings of the measurement.
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
        with lock:  # sets share sources
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
    """Choose sets and variations.

    Args:
        settings: Settings of the measurement.
    """
    sets = all_sets()
    for text in settings.photos:
        name, _, path = text.partition("=")
        if not Path(path).is_dir() or not path:
            raise NopeSplatError(
                "missing-file",
                f"--photos {text} names no folder; pass NAME=FOLDER, for example fox=photos/fox",
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
            f"no set is called {' or '.join(settings.sets)}; --list-sets prints all names, and families are"
            f" {', '.join(get_args(Family))}",
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
    """Reconstruct a set in a process of its own.

    Args:
        job: The set.
        settings: Package and limits.
        core: Index of the core to run on; None for all.

    Returns:
        What `worker.py` wrote, with the peak memory.
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
    shutil.rmtree(folder, ignore_errors=True)  # the same command may have run with other code
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
    """Read the outcome of an earlier run; None if there is none.

    Args:
        job: The set.
        settings: Names the file of results that the run wrote to.
    """
    path = _run_folder(job, settings) / "outcome.json"
    return json.loads(path.read_text()) if path.exists() else None


def judge(job: Job, outcome: dict[str, Any]) -> Row:
    """Judge an outcome.

    Args:
        job: The set.
        outcome: What `reconstruct` returned.
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
    """Summarize a row for the terminal."""
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
