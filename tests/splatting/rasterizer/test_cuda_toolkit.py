"""CUDA toolkit: search order, errors if none is found, and configuration of builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.cuda_stubs import make_toolkit
from torch.utils import cpp_extension

from nope_splat.splatting.rasterizer import cuda_toolkit
from nope_splat.splatting.rasterizer.cuda_toolkit import (
    MissingKernelsError,
    Toolkit,
    activate,
    find_toolkit,
    link_runtime,
    require_host_compiler,
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fake a machine without a toolkit, with torch for CUDA 99.1. Returns its root folder."""
    (tmp_path / "bin").mkdir()
    for name in ("PATH", "CUDA_HOME", "CUDA_PATH", "LIBRARY_PATH", "CXX", "CC"):
        monkeypatch.setenv(name, "")  # restores the original value after the test
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    monkeypatch.setattr(torch.version, "cuda", "99.1")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    monkeypatch.setattr(cuda_toolkit, "SYSTEM_TOOLKIT", tmp_path / "system")
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    (tmp_path / "site-packages" / "nvidia").mkdir(parents=True)
    with_shell(monkeypatch)
    return tmp_path


def with_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run stubs with the shell's commands on PATH, which the fake PATH does not contain."""
    run = subprocess.run

    def run_with_commands(command: list[str], **options: Any) -> Any:
        return run(command, **options, env={**os.environ, "PATH": "/usr/bin:/bin"})

    monkeypatch.setattr(cuda_toolkit.subprocess, "run", run_with_commands)


def test_toolkits_are_searched_in_order(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is PATH, CUDA_HOME, CUDA_PATH, the system toolkit, the packages from PyPI."""
    packages = make_toolkit(machine / "site-packages" / "nvidia" / "cu99", "99.1")
    assert find_toolkit() == Toolkit(packages, "99.1")
    system = make_toolkit(machine / "system", "99.0")
    assert find_toolkit() == Toolkit(system, "99.0")
    for name in ("CUDA_PATH", "CUDA_HOME"):
        home = make_toolkit(machine / name, "99.1")
        monkeypatch.setenv(name, str(home))
        assert find_toolkit().home == home
    on_path = make_toolkit(machine / "path", "99.1")
    monkeypatch.setenv("PATH", f"{on_path}/bin")
    assert find_toolkit().home == on_path


def test_symbolic_link_to_nvcc_is_resolved(machine: Path) -> None:
    toolkit = make_toolkit(machine / "elsewhere", "99.1")
    (machine / "bin" / "nvcc").symlink_to(toolkit / "bin" / "nvcc")
    assert find_toolkit().home == toolkit


def test_incompatible_toolkits_are_skipped(machine: Path) -> None:
    """Toolkits of another major version, or without headers, such as an nvcc script in /usr/local/bin."""
    make_toolkit(machine / "system", "98.5")
    shutil.copy(make_toolkit(machine / "elsewhere", "99.1") / "bin" / "nvcc", machine / "bin")
    packages = make_toolkit(machine / "site-packages" / "nvidia" / "cu99", "99.1")
    assert find_toolkit().home == packages


@pytest.mark.parametrize("missing", ["bin/nvcc", "include/cuda_runtime.h"])
def test_incomplete_toolkit_is_reported(missing: str, machine: Path) -> None:
    """Torch itself installs the folder with libraries only."""
    (make_toolkit(machine / "site-packages" / "nvidia" / "cu99", "99.1") / missing).unlink()
    with pytest.raises(MissingKernelsError) as caught:
        find_toolkit()
    assert caught.value.sentence == (
        'no CUDA compiler (nvcc) was found for torch\'s CUDA 99.1; run `pip install "nope-splat[cuda]"`'
    )


def test_incompatible_version_is_reported(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    system = make_toolkit(machine / "system", "11.8")
    with pytest.raises(MissingKernelsError) as caught:
        find_toolkit()
    assert caught.value.sentence == (
        f"no CUDA compiler (nvcc) was found for torch's CUDA 12.8 (found CUDA 11.8 in {system}); install"
        " NVIDIA's CUDA toolkit 12, or PyTorch for CUDA 13 with its compiler (`pip install --upgrade torch"
        ' "nope-splat[cuda]"`)'
    )


def test_torch_without_cuda_is_reported(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        MissingKernelsError, match="was built without CUDA; install the Linux build from PyPI"
    ):
        find_toolkit()


def test_missing_host_tools_are_reported(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order: C++ compiler, C compiler, Python headers, ninja."""

    def reported() -> str:
        with pytest.raises(MissingKernelsError) as caught:
            require_host_compiler()
        return caught.value.sentence

    def install(name: str) -> None:
        (machine / "bin" / name).touch(mode=0o755)

    assert reported().startswith(
        "no C++ compiler was found (c++ and gcc); install g++ (Debian and Ubuntu: `sudo apt"
    )
    install("c++")
    assert reported().startswith("no C++ compiler was found (gcc)")
    install("gcc")
    monkeypatch.setattr(cuda_toolkit.sysconfig, "get_path", lambda _: str(machine))
    assert reported().startswith(f"the headers of Python {sys.version_info[0]}.{sys.version_info[1]} ")
    (machine / "Python.h").touch()
    monkeypatch.setattr(cuda_toolkit, "_packaged_ninja", lambda: None)
    assert reported() == "ninja, which runs the compilers, is not installed; run `pip install ninja`"
    install("ninja")
    require_host_compiler()


def test_ninja_of_the_environment_is_preferred(machine: Path) -> None:
    """The system may have another version, which would compile all kernels again."""
    ninja = pytest.importorskip("ninja")
    (machine / "bin" / "ninja").touch(mode=0o755)
    activate(Toolkit(make_toolkit(machine / "toolkit", "99.1"), "99.1"))
    assert shutil.which("ninja") == f"{ninja.BIN_DIR}/ninja"


def test_builds_use_the_toolkit(machine: Path) -> None:
    home = make_toolkit(machine / "toolkit", "99.1")
    for _ in range(2):  # the second time changes nothing
        activate(Toolkit(home, "99.1"))
        assert shutil.which("nvcc") == str(home / "bin" / "nvcc")
        assert os.environ["PATH"].split(":").count(str(home / "bin")) == 1
        assert os.environ["CUDA_HOME"] == cpp_extension.CUDA_HOME == str(home)


def test_versioned_library_is_linked(machine: Path) -> None:
    home = make_toolkit(machine / "toolkit", "99.1")
    for _ in range(2):
        link_runtime(Toolkit(home, "99.1"), machine / "links")
        assert os.environ["LIBRARY_PATH"] == str(machine / "links")
        assert (machine / "links" / "libcudart.so").resolve() == home / "lib" / "libcudart.so.13"


def test_outdated_link_is_replaced(machine: Path) -> None:
    for name in ("old", "new"):
        link_runtime(Toolkit(make_toolkit(machine / name, "99.1"), "99.1"), machine / "links")
    assert (machine / "links" / "libcudart.so").resolve() == machine / "new" / "lib" / "libcudart.so.13"


def test_complete_toolkit_is_not_linked(machine: Path) -> None:
    home = make_toolkit(machine / "toolkit", "99.1")
    (home / "lib" / "libcudart.so").symlink_to("libcudart.so.13")
    link_runtime(Toolkit(home, "99.1"), machine / "links")
    assert "LIBRARY_PATH" not in os.environ
    assert not (machine / "links").exists()
