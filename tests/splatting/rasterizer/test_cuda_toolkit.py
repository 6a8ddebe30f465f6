"""The compiler for CUDA kernels: which is found, what is said where there is none, how builds get to it."""

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
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a toolkit whose torch is built for CUDA 99.1; a folder to put things in."""
    (tmp_path / "bin").mkdir()
    for name in ("PATH", "CUDA_HOME", "CUDA_PATH", "LIBRARY_PATH", "CXX", "CC"):
        monkeypatch.setenv(name, "")  # put back after the test, whatever it does
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
    """Let stubs find the shell's own commands, which are not on PATH then."""
    run = subprocess.run

    def run_with_commands(command: list[str], **options: Any) -> Any:
        return run(command, **options, env={**os.environ, "PATH": "/usr/bin:/bin"})

    monkeypatch.setattr(cuda_toolkit.subprocess, "run", run_with_commands)


def test_toolkits_are_found_in_order(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most explicit one wins: PATH, CUDA_HOME, CUDA_PATH, the system's, PyPI's."""
    packages = make_toolkit(bare / "site-packages" / "nvidia" / "cu99", "99.1")
    assert find_toolkit() == Toolkit(packages, "99.1")
    system = make_toolkit(bare / "system", "99.0")
    assert find_toolkit() == Toolkit(system, "99.0")
    for name in ("CUDA_PATH", "CUDA_HOME"):
        home = make_toolkit(bare / name, "99.1")
        monkeypatch.setenv(name, str(home))
        assert find_toolkit().home == home
    on_path = make_toolkit(bare / "path", "99.1")
    monkeypatch.setenv("PATH", f"{on_path}/bin")
    assert find_toolkit().home == on_path


def test_a_link_on_the_path_leads_to_its_toolkit(bare: Path) -> None:
    toolkit = make_toolkit(bare / "elsewhere", "99.1")
    (bare / "bin" / "nvcc").symlink_to(toolkit / "bin" / "nvcc")
    assert find_toolkit().home == toolkit


def test_toolkits_that_do_not_fit_are_passed_over(bare: Path) -> None:
    """Of another major version, or without the headers: like a script of that name in /usr/local/bin."""
    make_toolkit(bare / "system", "98.5")
    shutil.copy(make_toolkit(bare / "elsewhere", "99.1") / "bin" / "nvcc", bare / "bin")
    packages = make_toolkit(bare / "site-packages" / "nvidia" / "cu99", "99.1")
    assert find_toolkit().home == packages


@pytest.mark.parametrize("missing", ["bin/nvcc", "include/cuda_runtime.h"])
def test_a_toolkit_of_parts(missing: str, bare: Path) -> None:
    """What torch itself brings: the folder, with its libraries only."""
    (make_toolkit(bare / "site-packages" / "nvidia" / "cu99", "99.1") / missing).unlink()
    with pytest.raises(MissingKernelsError) as caught:
        find_toolkit()
    assert caught.value.sentence == (
        'there is no CUDA compiler (nvcc) for torch\'s CUDA 99.1; run `pip install "nope-splat[cuda]"`'
    )


def test_only_another_version(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    system = make_toolkit(bare / "system", "11.8")
    with pytest.raises(MissingKernelsError) as caught:
        find_toolkit()
    assert caught.value.sentence == (
        f"there is no CUDA compiler (nvcc) for torch's CUDA 12.8 (there is CUDA 11.8 in {system}); install"
        " NVIDIA's CUDA toolkit 12, or a torch for CUDA 13 with its compiler (`pip install --upgrade torch"
        ' "nope-splat[cuda]"`)'
    )


def test_torch_without_cuda(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(MissingKernelsError, match="is built without CUDA; install PyPI's for Linux"):
        find_toolkit()


def test_no_host_compiler(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing comes one by one: C++, C, Python's headers, ninja."""

    def said() -> str:
        with pytest.raises(MissingKernelsError) as caught:
            require_host_compiler()
        return caught.value.sentence

    def install(name: str) -> None:
        (bare / "bin" / name).touch(mode=0o755)

    assert said().startswith(
        "there is no C++ compiler (c++ and gcc); install g++ (Debian and Ubuntu: `sudo apt"
    )
    install("c++")
    assert said().startswith("there is no C++ compiler (gcc)")
    install("gcc")
    monkeypatch.setattr(cuda_toolkit.sysconfig, "get_path", lambda _: str(bare))
    assert said().startswith(f"there are no headers of Python {sys.version_info[0]}.{sys.version_info[1]} ")
    (bare / "Python.h").touch()
    monkeypatch.setattr(cuda_toolkit, "_packaged_ninja", lambda: None)
    assert said() == "there is no ninja, which runs the compilers; run `pip install ninja`"
    install("ninja")
    require_host_compiler()


def test_ninja_of_an_environment_that_is_not_activated(bare: Path) -> None:
    """The system's may be another version, which would compile everything again."""
    ninja = pytest.importorskip("ninja")
    (bare / "bin" / "ninja").touch(mode=0o755)
    activate(Toolkit(make_toolkit(bare / "toolkit", "99.1"), "99.1"))
    assert shutil.which("ninja") == f"{ninja.BIN_DIR}/ninja"


def test_builds_are_led_to_the_toolkit(bare: Path) -> None:
    home = make_toolkit(bare / "toolkit", "99.1")
    for _ in range(2):  # the second time changes nothing
        activate(Toolkit(home, "99.1"))
        assert shutil.which("nvcc") == str(home / "bin" / "nvcc")
        assert os.environ["PATH"].split(":").count(str(home / "bin")) == 1
        assert os.environ["CUDA_HOME"] == cpp_extension.CUDA_HOME == str(home)


def test_a_versioned_library_becomes_linkable(bare: Path) -> None:
    home = make_toolkit(bare / "toolkit", "99.1")
    for _ in range(2):
        link_runtime(Toolkit(home, "99.1"), bare / "links")
        assert os.environ["LIBRARY_PATH"] == str(bare / "links")
        assert (bare / "links" / "libcudart.so").resolve() == home / "lib" / "libcudart.so.13"


def test_a_link_to_an_earlier_environment_is_replaced(bare: Path) -> None:
    for name in ("old", "new"):
        link_runtime(Toolkit(make_toolkit(bare / name, "99.1"), "99.1"), bare / "links")
    assert (bare / "links" / "libcudart.so").resolve() == bare / "new" / "lib" / "libcudart.so.13"


def test_a_complete_toolkit_needs_no_link(bare: Path) -> None:
    home = make_toolkit(bare / "toolkit", "99.1")
    (home / "lib" / "libcudart.so").symlink_to("libcudart.so.13")
    link_runtime(Toolkit(home, "99.1"), bare / "links")
    assert "LIBRARY_PATH" not in os.environ
    assert not (bare / "links").exists()
