"""JSON content and text table of a check of the GPU."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from scripts.gpu.steps import Outcome

MOST_SLOWER = 1.05
"""Maximum accepted ratio of nope-splat's time per iteration to splatfacto's, with the same Gaussians."""


def content(settings: Mapping[str, Any], outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Collect the content of the JSON file.

    Args:
        settings: Settings of the check.
        outcomes: Outcomes of the steps that have run up to now, by name.

    Returns:
        `time`, `settings`, `machine`, `summary` (the main values), and `steps` (the outcome of each step).
    """
    return {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "settings": {
            name: value if isinstance(value, (int, float)) else str(value) for name, value in settings.items()
        },
        "machine": _result(outcomes, "machine"),
        "summary": summary(outcomes),
        "steps": {name: asdict(outcome) for name, outcome in outcomes.items()},
    }


def failures(outcomes: Mapping[str, Outcome]) -> list[str]:
    """List the names of the steps that failed or could not run. Skipped steps are not failures.

    Args:
        outcomes: Outcomes of the steps, by name.
    """
    return [name for name, outcome in outcomes.items() if outcome.status in ("failed", "not run")]


def summary(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Collect the main values of all steps. Values that were not measured are None.

    Args:
        outcomes: Outcomes of the steps, by name.
    """
    same_gaussians = _result(outcomes, "same_gaussians")
    waits = _result(outcomes, "synchronizations")
    ratio = same_gaussians.get("ratio")
    return {
        "nope-splat": _method(outcomes, "nope_splat", waits.get("nope-splat", {})),
        "splatfacto": _method(outcomes, "splatfacto", waits.get("splatfacto", {})),
        "same_gaussians_ratio": ratio,
        "fast_enough": None if ratio is None else ratio <= MOST_SLOWER,
    }


def _method(outcomes: Mapping[str, Outcome], name: str, waits: Mapping[str, Any]) -> dict[str, Any]:
    training, held_out = _result(outcomes, f"train_{name}"), _result(outcomes, f"evaluate_{name}")
    peaks = training.get("peak_gib", {})
    return {
        "iterations_per_second": training.get("iterations_per_second"),
        "full_resolution": training.get("full_resolution"),
        "share_joint_refinement": training.get("share_joint_refinement"),
        "peak_gib": max(peaks.values(), default=None),
        "gaussians": held_out.get("gaussians"),
        "psnr": held_out.get("psnr"),
        "ssim": held_out.get("ssim"),
        "waits_per_iteration": waits.get("per_iteration"),
    }


def _result(outcomes: Mapping[str, Outcome], name: str) -> dict[str, Any]:
    return outcomes[name].result if name in outcomes else {}


ROWS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("iterations per second", "iterations_per_second", lambda value: f"{value:.2f}"),
    ("... at full resolution", "full_resolution", lambda value: f"{value:.2f}"),
    ("joint refinement, share of time", "share_joint_refinement", lambda value: f"{100 * value:.1f} %"),
    ("peak GPU memory", "peak_gib", lambda value: f"{value:.2f} GiB"),
    ("Gaussians", "gaussians", lambda value: f"{value}"),
    ("held-out PSNR", "psnr", lambda value: f"{value:.2f} dB"),
    ("held-out SSIM", "ssim", lambda value: f"{value:.3f}"),
    ("waits for the GPU per iteration", "waits_per_iteration", lambda value: f"{value:.1f}"),
)
"""Rows of the table: title, key in the summary of a method, and function that formats the value."""


def table(outcomes: Mapping[str, Outcome]) -> str:
    """Format the outcomes of the steps and the main values as text.

    Args:
        outcomes: Outcomes of the steps, by name.
    """
    lines = [_machine_line(_result(outcomes, "machine")), ""]
    for name, outcome in outcomes.items():
        reason = f"  {outcome.reason}" if outcome.reason else ""
        lines.append(f"{name:22}{outcome.status:9}{outcome.seconds:8.1f} s{reason}")
    figures = summary(outcomes)
    columns = ("nope-splat", "splatfacto")
    if any(value is not None for column in columns for value in figures[column].values()):
        lines += ["", f"{'':36}{columns[0]:>14}{columns[1]:>14}"]
        for title, key, shown in ROWS:
            cells = [figures[column][key] for column in columns]
            lines.append(f"{title:36}" + "".join(f"{'-' if c is None else shown(c):>14}" for c in cells))
    lines += ["", *_scene_lines(outcomes), *_other_lines(outcomes)]
    return "\n".join(lines).rstrip() + "\n"


def _machine_line(machine: Mapping[str, Any]) -> str:
    if not machine:
        return "unknown machine"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    gpu = machine.get("gpu", "no GPU")
    return f"{gpu}, driver {machine.get('driver')}, CUDA {machine['cuda']}, {versions}"


def _scene_lines(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Format a line about the images and their sizes; no line if the scene was not prepared."""
    scene = _result(outcomes, "scene")
    if not scene:
        return []
    image, training = (" x ".join(map(str, scene[name])) for name in ("image_size", "training_size"))
    return [
        f"{scene['train']} training and {scene['held_out']} held-out images of {image} pixels, trained at"
        f" {training}; at most {scene['max_gaussians']} Gaussians"
    ]


def _other_lines(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Format lines about the results of the tests, of `same_gaussians` and of the SSIM precision."""
    lines = []
    tests, same_gaussians = _result(outcomes, "tests"), _result(outcomes, "same_gaussians")
    if tests:
        failed = f": {', '.join(tests['failed'])}" if tests["failed"] else ""
        lines.append(f"gpu tests: {tests['passed']} passed, {len(tests['failed'])} failed{failed}")
    if same_gaussians:
        ours, theirs = (same_gaussians["ms_per_iteration"][name] for name in ("nope-splat", "splatfacto"))
        low, high = same_gaussians["ratio_quartiles"]
        lines.append(
            f"{same_gaussians['gaussians']['nope-splat']} Gaussians in both: {ours:.2f} ms per iteration,"
            f" splatfacto {theirs:.2f} ms, ratio {same_gaussians['ratio']:.3f}"
            f" (quartiles {low:.3f} to {high:.3f})"
        )
    precision = _result(outcomes, "ssim")
    for name, pair in precision.items():
        if isinstance(pair, Mapping):
            errors = [
                f"{title} {pair[key]['value']:.1e} and {pair[key]['gradient_max']:.1e}"
                for key, title in (("tf32", "TF32"), ("no_tf32", "float32"))
            ]
            lines.append(
                f"SSIM on {precision['device']}, {name}: errors of value and gradient {', '.join(errors)}"
            )
    return lines
