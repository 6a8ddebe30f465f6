"""The compiler for gsplat's CUDA kernels: where it is, whether it fits torch, and how builds find it.

Besides torch and gsplat, a build needs:

- a CUDA toolkit of torch's major version (13 for torch with CUDA 13.0): `bin/nvcc`, and the runtime's headers
  in `include`. It comes from the system or from PyPI: torch itself depends on the package `cuda-toolkit` of
  its own version, and the extra `nope-splat[cuda]` adds the compiler of the same version;
- a C++ compiler, Python's headers and ninja. gsplat depends on ninja.

PyPI's toolkit for CUDA 13 is in `site-packages/nvidia/cu13`. Its layout is that of a system toolkit, with one
difference: the runtime library is there as `libcudart.so.13` only, and the linker looks for `libcudart.so`. A
symbolic link in a folder of our own, on LIBRARY_PATH, makes it linkable. No installed package is changed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

SYSTEM_TOOLKIT = Path("/usr/local/cuda")
"""Where NVIDIA's installers put the toolkit, or a link to it."""

_HEADERS = ("include", "targets/x86_64-linux/include", "targets/sbsa-linux/include")
_LIBRARIES = ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib")


class MissingKernelsError(Exception):
    """gsplat's CUDA kernels cannot be had on this machine.

    Args:
        sentence: What is missing and how to get it; starts with a small letter, has no full stop.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit that can compile for the torch at hand.

    Attributes:
        home: Folder that holds `bin/nvcc`.
        version: Its version, for example `"13.0"`.
    """

    home: Path
    version: str


def require_cuda_torch() -> str:
    """Version of CUDA that torch is built for, for example `"13.0"`.

    Raises:
        MissingKernelsError: If torch is built without CUDA.
    """
    if torch.version.cuda is None:
        raise MissingKernelsError(
            f"torch {torch.__version__} is built without CUDA; install PyPI's for Linux"
            " (`pip install --force-reinstall torch`)"
        )
    return torch.version.cuda


def find_toolkit() -> Toolkit:
    """Find a CUDA toolkit of torch's major version.

    The first of these that is complete and fits: the one whose nvcc is on PATH, CUDA_HOME, CUDA_PATH,
    /usr/local/cuda, PyPI's packages.

    Raises:
        MissingKernelsError: If there is none, or torch itself is built without CUDA.
    """
    wanted = require_cuda_torch()
    major = wanted.partition(".")[0]
    others: list[str] = []
    for home in _candidates(major):
        version = _nvcc_version(home)
        if version is None or not any((home / folder / "cuda_runtime.h").is_file() for folder in _HEADERS):
            continue
        if version.partition(".")[0] == major:
            return Toolkit(home, version)
        others.append(f"CUDA {version} in {home}")
    misfits = f" (there is {' and '.join(others)})" if others else ""
    raise MissingKernelsError(
        f"there is no CUDA compiler (nvcc) for torch's CUDA {wanted}{misfits}; {_toolkit_advice(major)}"
    )


def _toolkit_advice(major: str) -> str:
    """How to get a toolkit of CUDA's version `major`: PyPI has the compiler from CUDA 13 on."""
    if int(major) >= 13:
        return 'run `pip install "nope-splat[cuda]"`'
    return (
        f"install NVIDIA's CUDA toolkit {major}, or a torch for CUDA 13 with its compiler"
        ' (`pip install --upgrade torch "nope-splat[cuda]"`)'
    )


def _candidates(major: str) -> Iterator[Path]:
    """Folders that may hold a toolkit, the most explicit choice first; they need not exist."""
    on_path = shutil.which("nvcc")
    if on_path is not None:
        yield Path(on_path).resolve().parents[1]
        yield Path(on_path).absolute().parents[1]
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable])
    yield SYSTEM_TOOLKIT
    packages = importlib.util.find_spec("nvidia")
    for folder in (packages and packages.submodule_search_locations) or []:
        yield Path(folder) / f"cu{major}"


def _nvcc_version(home: Path) -> str | None:
    """Version of the toolkit in `home`, for example `"13.0"`; None where there is no nvcc that runs."""
    with suppress(OSError, subprocess.SubprocessError):
        nvcc = [str(home / "bin" / "nvcc"), "--version"]
        output = subprocess.run(nvcc, capture_output=True, text=True, check=True, timeout=60).stdout
        release = re.search(r"release (\d+\.\d+)", output)
        return release and release[1]
    return None


def require_host_compiler() -> None:
    """Check that C++ extensions of Python can be compiled and linked.

    Raises:
        MissingKernelsError: If the C++ compiler, Python's headers or ninja are missing.
    """
    compilers = os.environ.get("CXX") or "c++", os.environ.get("CC") or "gcc"  # torch's and nvcc's choices
    missing = [compiler for compiler in compilers if shutil.which(compiler.split()[0]) is None]
    if missing:
        raise MissingKernelsError(
            f"there is no C++ compiler ({' and '.join(missing)}); install g++ (Debian and Ubuntu: `sudo apt"
            " install g++`; Fedora: `sudo dnf install gcc-c++`)"
        )
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        major, minor = sys.version_info[:2]
        raise MissingKernelsError(
            f"there are no headers of Python {major}.{minor} (Python.h); install them (Debian and Ubuntu:"
            f" `sudo apt install python{major}.{minor}-dev`; Fedora: `sudo dnf install"
            f" python{major}.{minor}-devel`)"
        )
    if shutil.which("ninja") is None and _packaged_ninja() is None:
        raise MissingKernelsError("there is no ninja, which runs the compilers; run `pip install ninja`")


def _packaged_ninja() -> Path | None:
    """Folder of PyPI's ninja, which is not on PATH where a virtual environment is not activated."""
    if importlib.util.find_spec("ninja") is None:
        return None
    folder = Path(importlib.import_module("ninja").BIN_DIR)
    return folder if shutil.which("ninja", path=str(folder)) else None


def activate(toolkit: Toolkit, links: Path) -> None:
    """Point gsplat's and torch's builds at a toolkit and at ninja.

    Sets PATH, CUDA_HOME and, where the runtime library has a versioned name only, LIBRARY_PATH: for this
    process and its children, nothing else.

    Args:
        toolkit: The toolkit to compile with.
        links: Folder for a link to the runtime library; created where needed.

    Raises:
        OSError: If the link cannot be made.
    """
    if shutil.which("nvcc") != str(toolkit.home / "bin" / "nvcc"):
        _put_first("PATH", toolkit.home / "bin")
    ninja = _packaged_ninja()
    if shutil.which("ninja") is None and ninja is not None:
        _put_first("PATH", ninja)
    os.environ["CUDA_HOME"] = str(toolkit.home)
    library = _unlinkable_runtime(toolkit.home)
    if library is not None:
        links.mkdir(parents=True, exist_ok=True)
        link = links / "libcudart.so"
        if not link.exists() or link.resolve() != library.resolve():
            link.unlink(missing_ok=True)
            link.symlink_to(library)
        _put_first("LIBRARY_PATH", links)

    from torch.utils import cpp_extension

    cpp_extension.CUDA_HOME = str(toolkit.home)  # set at import, which may be long ago


def _put_first(variable: str, folder: Path) -> None:
    """Put a folder first in an environment variable that lists folders."""
    others = [entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry]
    if str(folder) not in others[:1]:
        os.environ[variable] = os.pathsep.join([str(folder), *others])


def _unlinkable_runtime(home: Path) -> Path | None:
    """The runtime library of a toolkit that has it as `libcudart.so.13` but not as `libcudart.so`."""
    folders = [home / folder for folder in _LIBRARIES]
    if any((folder / "libcudart.so").exists() for folder in folders):
        return None
    return next((path for folder in folders for path in sorted(folder.glob("libcudart.so.*"))), None)
