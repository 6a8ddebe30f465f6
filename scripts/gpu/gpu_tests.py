"""Run the tests that need a GPU, and count the results.

python -m scripts.gpu.gpu_tests --tests tests --output FILE
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import tyro


def run(tests: Path, output: Path) -> None:
    """Run `pytest -m gpu`, and write the number of passed tests and the names of all other tests.

    Args:
        tests: Folder of the tests.
        output: JSON file for the result of `summary`.

    Raises:
        SystemExit: If a test failed, or no test passed.
    """
    report = output.with_name("junit.xml")
    # A test file may import a package that is not installed on this machine; the other files still run.
    flags = [
        "-m",
        "gpu",
        "-q",
        "-rfEs",
        "--disable-warnings",
        "--continue-on-collection-errors",
        "-p",
        "no:cacheprovider",
    ]
    status = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, f"--junitxml={report}", str(tests)], cwd=tests.parent
    ).returncode
    if not report.exists():
        raise SystemExit(f"nope-splat: pytest ended with status {status} and without a report")
    counts = summary(report)
    output.write_text(json.dumps(counts))
    if counts["failed"] or not counts["passed"]:
        raise SystemExit(f"nope-splat: {len(counts['failed'])} tests failed, {counts['passed']} passed")


def summary(report: Path) -> dict[str, Any]:
    """Count the results of the tests in a JUnit report.

    Args:
        report: XML file that pytest wrote.

    Returns:
        `passed`, the number of passed tests; `failed`, the names of failed tests; `skipped`, the reasons by
        name of the skipped test; `not_collected`, the errors by name of the file that could not be imported.
    """
    counts: dict[str, Any] = {"passed": 0, "failed": [], "skipped": {}, "not_collected": {}}
    for case in ElementTree.parse(report).iter("testcase"):
        name = "::".join(part for part in (case.get("classname"), case.get("name")) if part)
        error, skipped = case.find("error"), case.find("skipped")
        if error is not None and "collection" in (error.get("message") or ""):
            last = ((error.text or "").strip().splitlines() or [""])[-1]
            counts["not_collected"][name] = last.removeprefix("E").strip()
        elif error is not None or case.find("failure") is not None:
            counts["failed"].append(name)
        elif skipped is not None:
            counts["skipped"][name] = skipped.get("message") or ""
        else:
            counts["passed"] += 1
    return counts


if __name__ == "__main__":
    tyro.cli(run)
