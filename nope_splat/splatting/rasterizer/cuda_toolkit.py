"""Search for a CUDA toolkit that is compatible with torch, and configuration of builds to use it.

In addition to torch and gsplat, a build needs:

- a CUDA toolkit of the major CUDA version that torch was built for (13 for CUDA 13.0): `bin/nvcc`, and the
  runtime headers in `include`. The toolkit comes from the system or from PyPI: torch requires the PyPI
  package `cuda-toolkit` in the version that torch was built for, and the extra `nope-splat[cuda]` adds the
  compiler in the same version;
- a C++ compiler, Python's headers and ninja. gsplat depends on ninja.

The toolkit from PyPI for CUDA 13 is in `site-packages/nvidia/cu13`. It has the layout of a system toolkit,
but the runtime library only exists as `libcudart.so.13`, while the linker looks for `libcudart.so`. A
symbolic link in a separate folder on LIBRARY_PATH makes the library linkable without modifying installed
packages.
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

from nope_splat.errors import ErrorCode

SYSTEM_TOOLKIT = Path("/usr/local/cuda")
"""Folder (or link to a folder) in which NVIDIA's installers place the CUDA toolkit by default."""

_HEADERS = ("include", "targets/x86_64-linux/include", "targets/sbsa-linux/include")
_LIBRARIES = ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib")


class MissingKernelsError(Exception):
    """gsplat's CUDA kernels are not available on this machine.

    Args:
        sentence: Sentence that says what is missing and how to install it. Starts in lower case and has no
            final period.
        code: Code of the `NopeSplatError` to which a caller converts this exception.
    """

    def __init__(self, sentence: str, code: ErrorCode = "missing-device") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code: ErrorCode = code


@dataclass(frozen=True)
class Toolkit:
    """CUDA toolkit that can compile extensions for the installed version of torch.

    Attributes:
        home: Folder that contains `bin/nvcc`.
        version: CUDA version, for example `"13.0"`.
    """

    home: Path
    version: str


def require_cuda_torch() -> str:
    """Return the CUDA version that torch was built for, for example `"13.0"`.

    Raises:
        MissingKernelsError: If torch was built without CUDA.
    """
    if torch.version.cuda is None:
        raise MissingKernelsError(
            f"torch {torch.__version__} was built without CUDA; install the Linux build from PyPI (`pip"
            " install --force-reinstall torch`)"
        )
    return torch.version.cuda


def find_toolkit() -> Toolkit:
    """Find a CUDA toolkit with the major CUDA version that torch was built with.

    The candidates are, in this order: the toolkit of the nvcc on PATH, the folders in the environment
    variables CUDA_HOME and CUDA_PATH, /usr/local/cuda, and NVIDIA's packages from PyPI.

    Returns:
        The first candidate that is complete and has torch's major CUDA version.

    Raises:
        MissingKernelsError: If there is no such toolkit, or torch was built without CUDA.
    """
    torch_version = require_cuda_torch()
    major = torch_version.partition(".")[0]
    incompatible: list[str] = []
    for home in _candidates(major):
        version = _nvcc_version(home)
        if version is None or not any((home / folder / "cuda_runtime.h").is_file() for folder in _HEADERS):
            continue
        if version.partition(".")[0] == major:
            return Toolkit(home, version)
        incompatible.append(f"CUDA {version} in {home}")
    misfits = f" (found {' and '.join(incompatible)})" if incompatible else ""
    raise MissingKernelsError(
        f"no CUDA compiler (nvcc) was found for torch's CUDA {torch_version}{misfits};"
        f" {_toolkit_advice(major)}"
    )


def _toolkit_advice(major: str) -> str:
    """Describe how to install a CUDA toolkit of major version `major`.

    PyPI provides the CUDA compiler only for CUDA 13 and later.
    """
    if int(major) >= 13:
        return 'run `pip install "nope-splat[cuda]"`'
    return (
        f"install NVIDIA's CUDA toolkit {major}, or PyTorch for CUDA 13 with its compiler"
        ' (`pip install --upgrade torch "nope-splat[cuda]"`)'
    )


def _candidates(major: str) -> Iterator[Path]:
    """Yield folders that may contain a CUDA toolkit of major version `major`.

    Folders that the user has chosen explicitly come first. Some of the folders may be missing.
    """
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
    """Return the version of the CUDA toolkit in `home`, for example `"13.0"`; None if nvcc does not run."""
    with suppress(OSError, subprocess.SubprocessError):
        nvcc = [str(home / "bin" / "nvcc"), "--version"]
        output = subprocess.run(nvcc, capture_output=True, text=True, check=True, timeout=60).stdout
        release = re.search(r"release (\d+\.\d+)", output)
        return release and release[1]
    return None


def require_host_compiler() -> None:
    """Check that the build tools for extensions are installed: C++ compiler, Python's headers and ninja.

    Raises:
        MissingKernelsError: If the C++ compiler, Python's headers or ninja are missing.
    """
    compilers = os.environ.get("CXX") or "c++", os.environ.get("CC") or "gcc"  # torch's and nvcc's choices
    missing = [compiler for compiler in compilers if shutil.which(compiler.split()[0]) is None]
    if missing:
        raise MissingKernelsError(
            f"no C++ compiler was found ({' and '.join(missing)}); install g++ (Debian and Ubuntu: `sudo apt"
            " install g++`; Fedora: `sudo dnf install gcc-c++`)"
        )
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        major, minor = sys.version_info[:2]
        raise MissingKernelsError(
            f"the headers of Python {major}.{minor} (Python.h) are missing; install them (Debian and Ubuntu:"
            f" `sudo apt install python{major}.{minor}-dev`; Fedora: `sudo dnf install"
            f" python{major}.{minor}-devel`)"
        )
    if shutil.which("ninja") is None and _packaged_ninja() is None:
        raise MissingKernelsError(
            "ninja, which runs the compilers, is not installed; run `pip install ninja`", "missing-package"
        )


def _packaged_ninja() -> Path | None:
    """Return the folder that contains the executable of the Python package ninja; None if there is none.

    This folder is not on PATH unless the virtual environment is activated.
    """
    if importlib.util.find_spec("ninja") is None:
        return None
    folder = Path(importlib.import_module("ninja").BIN_DIR)
    return folder if shutil.which("ninja", path=str(folder)) else None


def activate(toolkit: Toolkit) -> None:
    """Configure builds of gsplat and torch to use a CUDA toolkit and ninja.

    Sets PATH and CUDA_HOME for this process and its children.
    """
    if shutil.which("nvcc") != str(toolkit.home / "bin" / "nvcc"):
        _prepend("PATH", toolkit.home / "bin")
    ninja = _packaged_ninja()
    if ninja is not None and shutil.which("ninja") != str(ninja / "ninja"):
        # Use the same ninja whether or not the virtual environment is activated. A different version of ninja
        # would compile all kernels again (findings/ninja-versions.sh).
        _prepend("PATH", ninja)
    os.environ["CUDA_HOME"] = str(toolkit.home)

    from torch.utils import cpp_extension

    cpp_extension.CUDA_HOME = str(toolkit.home)  # torch sets CUDA_HOME only when it is imported


def link_runtime(toolkit: Toolkit, links: Path) -> None:
    """Make the CUDA runtime library of a toolkit linkable, if the library only has a versioned file name.

    In that case, a symbolic link is created, and LIBRARY_PATH is set for this process and its children.

    Args:
        toolkit: The toolkit to compile with.
        links: Folder for a symbolic link to the library, created if missing.

    Raises:
        OSError: If the link cannot be created.
    """
    library = _unlinkable_runtime(toolkit.home)
    if library is None:
        return
    links.mkdir(parents=True, exist_ok=True)
    link = links / "libcudart.so"
    if not link.exists() or link.resolve() != library.resolve():
        link.unlink(missing_ok=True)
        link.symlink_to(library)
    _prepend("LIBRARY_PATH", links)


def _prepend(variable: str, folder: Path) -> None:
    """Prepend a folder to an environment variable that lists folders, such as PATH."""
    entries = [entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry]
    if str(folder) not in entries[:1]:
        os.environ[variable] = os.pathsep.join([str(folder), *entries])


def _unlinkable_runtime(home: Path) -> Path | None:
    """Find the CUDA runtime library of a toolkit, if the library only has a versioned file name.

    Returns:
        Path of the library, such as `libcudart.so.13`; None if the toolkit has `libcudart.so`, or has no
        runtime library.
    """
    folders = [home / folder for folder in _LIBRARIES]
    if any((folder / "libcudart.so").exists() for folder in folders):
        return None
    return next((path for folder in folders for path in sorted(folder.glob("libcudart.so.*"))), None)
