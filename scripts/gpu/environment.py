"""Bring nerfstudio and gsplat to a machine with PyTorch and no network, from wheels carried there.

Uses the standard library alone, since it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LIST = Path(__file__).with_name("wheels.txt")
MODULES = (
    "pytest",
    "gsplat",
    "nerfstudio.scripts.train",
    "nerfstudio.utils.eval_utils",
    "nope_splat.methods",
)
"""What the steps import; where all of these load, nothing is installed."""
STAND_INS = ("open3d", "pymeshlab", "xatlas", "IPython")
"""What nerfstudio imports for commands that no step runs."""
STAND_IN = '"""Empty, of scripts/check_gpu.py: nerfstudio imports {name}, and no step uses it."""\n'
MANYLINUX = ("_2_28", "_2_27", "_2_24", "_2_17", "2014", "_2_12", "2010", "_2_5", "1")
"""Which manylinux wheels run on current machines; pip takes no older one for a newer name."""


class EnvironmentProblem(Exception):
    """What is missing, in one sentence that says what to do."""


@dataclass(frozen=True)
class Requirement:
    """A line of the list of wheels."""

    name: str
    """Normalized name of the distribution."""
    version: str
    """Version."""
    only_if_missing: bool = False
    """Whether any version that is installed already will do."""


def read_list(path: Path = LIST) -> list[Requirement]:
    """Read which wheels are needed.

    Args:
        path: Lines of `name==version`, perhaps with `# if missing`; comments.
    """
    requirements = []
    for line in path.read_text().splitlines():
        words, _, comment = line.partition("#")
        if words.strip():
            name, version = words.strip().split("==")
            requirements.append(Requirement(normalized(name), version, comment.strip() == "if missing"))
    return requirements


def normalized(name: str) -> str:
    """A distribution's name as package indexes compare it.

    Args:
        name: Any spelling.
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def download_command(requirement: Requirement, output_dir: Path, python_version: str) -> list[str]:
    """The command that downloads a wheel for 64-bit Linux on x86.

    Args:
        requirement: What to download.
        output_dir: Folder for the wheel.
        python_version: Version of CPython on the other machine, as 3.12.
    """
    platforms = [word for name in MANYLINUX for word in ("--platform", f"manylinux{name}_x86_64")]
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--python-version", python_version, "--implementation", "cp", *platforms),
        *("--dest", str(output_dir), f"{requirement.name}=={requirement.version}"),
    ]


def collect(output_dir: Path, python_version: str) -> None:
    """Download the wheels of the list.

    Args:
        output_dir: Folder for them; made where missing.
        python_version: Version of CPython on the other machine, as 3.12.

    Raises:
        EnvironmentProblem: Some have no wheel for that version.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    missing = [
        f"{requirement.name}=={requirement.version}"
        for requirement in read_list()
        if subprocess.run(download_command(requirement, output_dir, python_version)).returncode
    ]
    if missing:
        raise EnvironmentProblem(
            f"there is no wheel of {', '.join(missing)} for Python {python_version} on x86-64 Linux; change"
            f" the version in {LIST.name}"
        )
    files = list(output_dir.glob("*.whl"))
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"{len(files)} wheels, {size:.0f} MiB: {output_dir}")


def wheels_to_install(wheels: Path, installed: set[str]) -> list[Path]:
    """Which of the carried wheels to install.

    Args:
        wheels: Folder of the wheels.
        installed: Normalized names of the distributions that the environment has.

    Returns:
        All of them, but for those that are needed only where they are missing.

    Raises:
        EnvironmentProblem: There are none, or several versions of one.
    """
    optional = {requirement.name for requirement in read_list() if requirement.only_if_missing}
    chosen: dict[str, Path] = {}
    for file in sorted(wheels.glob("*.whl")):
        name = normalized(file.name.split("-")[0])
        if name in chosen:
            raise EnvironmentProblem(
                f"{wheels} has two wheels of {name}; remove {chosen[name].name} or {file.name}"
            )
        if not (name in optional and name in installed):
            chosen[name] = file
    if not chosen:
        raise EnvironmentProblem(
            f"there are no wheels in {wheels}; fill it with check_gpu.py collect {wheels}"
        )
    return list(chosen.values())


def write_stand_ins(site: Path, modules: tuple[str, ...] = STAND_INS) -> list[str]:
    """Write empty modules for those that cannot be imported.

    Args:
        site: Folder to write into, one on the module search path.
        modules: Which to consider.

    Returns:
        Names of those that were written.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    for name in missing:
        folder = site / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text(STAND_IN.format(name=name))
    if "IPython" in missing:  # mediapy imports a module within it
        (site / "IPython" / "display.py").write_text(STAND_IN.format(name="IPython.display"))
        with (site / "IPython" / "__init__.py").open("a") as file:
            file.write("from . import display\n")
    return missing


def first_problem(modules: tuple[str, ...] = MODULES) -> str | None:
    """Import modules in a process of their own.

    Args:
        modules: What to import.

    Returns:
        The last line of the error, if there is one.
    """
    lines = "\n".join(f"import {name}" for name in modules)
    process = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    if process.returncode == 0:
        return None
    return (process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]


def complete(site: Path, wheels: Path | None) -> dict[str, object]:
    """Install the carried wheels into a side folder, unless the environment is complete without them.

    Args:
        site: The side folder, which is on the module search path already.
        wheels: Folder of the wheels, if there is one.

    Returns:
        What was done.

    Raises:
        EnvironmentProblem: If something is missing that no wheel brings.
    """
    problem = first_problem()
    if problem is None:
        return {"installed": [], "stand_ins": []}
    if wheels is None:
        raise EnvironmentProblem(
            f"the environment is not complete ({problem}); run pip install -e '.[dev]', or pass carried"
            " wheels with --wheels"
        )
    installed = {normalized(each.metadata["Name"]) for each in importlib.metadata.distributions()}
    files = wheels_to_install(wheels, installed)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--upgrade", "--target", str(site), *map(str, files)], check=True)
    stand_ins = write_stand_ins(site)
    problem = first_problem()
    if problem is not None:
        raise EnvironmentProblem(
            f"with the wheels of {wheels} the environment is still not complete ({problem}); add what is"
            f" missing to {LIST.name} and collect again"
        )
    return {"installed": [file.name for file in files], "stand_ins": stand_ins}


def main() -> None:
    """Complete the environment; writes what was done."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        done = complete(arguments.site, arguments.wheels)
    except EnvironmentProblem as problem:
        sys.exit(f"nope-splat: {problem}")
    arguments.output.write_text(json.dumps(done))


if __name__ == "__main__":
    main()
