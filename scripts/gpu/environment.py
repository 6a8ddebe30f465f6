"""Install nerfstudio and gsplat from local wheels on a machine that has PyTorch but no internet access.

Uses only the standard library, since the script runs before any package is installed.
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
    "nope_splat.plugin.config",
)
"""Modules that the steps import. If all of them can be imported, nothing is installed."""
STAND_INS = ("open3d", "pymeshlab", "xatlas", "IPython")
"""Modules that nerfstudio imports only for commands that no step runs. Missing ones are replaced by empty
modules."""
STAND_IN = '"""Empty, of scripts/check_gpu.py: nerfstudio imports {name}, and no step uses it."""\n'
MANYLINUX = ("_2_28", "_2_27", "_2_24", "_2_17", "2014", "_2_12", "2010", "_2_5", "1")
"""Suffixes of manylinux tags that run on current machines. pip does not infer older tags from newer tags."""


class EnvironmentProblem(Exception):
    """A package is missing. The message is one sentence that says how to install it."""


@dataclass(frozen=True)
class Requirement:
    """One required wheel, from a line of the list of wheels."""

    name: str
    """Normalized name of the distribution, such as `opencv-python`."""
    version: str
    """Version of the distribution."""
    only_if_missing: bool = False
    """If True, any installed version is sufficient, and the wheel is not installed."""


def read_list(path: Path = LIST) -> list[Requirement]:
    """Read the list of required wheels.

    Args:
        path: File with comments and lines `name==version`, optionally followed by `# if missing`.

    Returns:
        The required wheels, in the order of the file.
    """
    requirements = []
    for line in path.read_text().splitlines():
        requirement, _, comment = line.partition("#")
        if requirement.strip():
            name, version = requirement.strip().split("==")
            requirements.append(Requirement(normalized(name), version, comment.strip() == "if missing"))
    return requirements


def normalized(name: str) -> str:
    """Normalize the name of a distribution as package indexes do: lower case, with hyphens as separators.

    Args:
        name: Name in any spelling.
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def download_command(requirement: Requirement, output_dir: Path, python_version: str) -> list[str]:
    """Return the command line that downloads a wheel for Linux on x86-64.

    Args:
        requirement: Wheel to download.
        output_dir: Folder for the wheel.
        python_version: Version of CPython on the GPU machine, for example "3.12".
    """
    platforms = [part for name in MANYLINUX for part in ("--platform", f"manylinux{name}_x86_64")]
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--python-version", python_version, "--implementation", "cp", *platforms),
        *("--dest", str(output_dir), f"{requirement.name}=={requirement.version}"),
    ]


def collect(output_dir: Path, python_version: str) -> None:
    """Download all wheels in the list of required wheels.

    Args:
        output_dir: Folder for the wheels; created if missing.
        python_version: Version of CPython on the GPU machine, for example "3.12".

    Raises:
        EnvironmentProblem: If a distribution has no wheel for this version of CPython.
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
    """Select the local wheels to install.

    Args:
        wheels: Folder of the wheels.
        installed: Normalized names of the installed distributions.

    Returns:
        Paths of all wheels, except wheels that are marked `if missing` and whose distribution is installed.

    Raises:
        EnvironmentProblem: If there is no wheel, or several wheels of one distribution.
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
    """Write empty modules in place of modules that cannot be found.

    Args:
        site: Output folder, which is on the module search path.
        modules: Names of the modules.

    Returns:
        Names of the modules that were written.
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
    """Import modules in a separate process, and return the first error.

    Args:
        modules: Names of the modules.

    Returns:
        The last line of the error message; None if all modules can be imported.
    """
    lines = "\n".join(f"import {name}" for name in modules)
    process = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    if process.returncode == 0:
        return None
    return (process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]


def complete(site: Path, wheels: Path | None) -> dict[str, object]:
    """Install local wheels into a separate folder, if modules are missing in the environment.

    Args:
        site: Folder for the wheels' contents, which must be on the module search path.
        wheels: Folder of the wheels; None if there are no wheels.

    Returns:
        File names of the `installed` wheels, and names of the empty modules (`stand_ins`) that were written.

    Raises:
        EnvironmentProblem: If a module is missing and no wheel provides it.
    """
    problem = first_problem()
    if problem is None:
        return {"installed": [], "stand_ins": []}
    if wheels is None:
        raise EnvironmentProblem(
            f"the environment is not complete ({problem}); run pip install -e '.[dev]', or pass carried"
            " wheels with --wheels"
        )
    installed = {
        normalized(distribution.metadata["Name"]) for distribution in importlib.metadata.distributions()
    }
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
    """Install missing packages from local wheels, and write the names of the changes to a JSON file."""
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
