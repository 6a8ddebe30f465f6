"""Compilation of gsplat's kernels: errors, progress, and resumption."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from fixtures.cuda_stubs import LOG, PAUSE, make_cxx, make_toolkit
from rich.console import Console

from nope_splat.splatting.rasterizer import cuda_kernels
from nope_splat.splatting.rasterizer.cuda_kernels import MissingKernelsError, count_compiled, prepare_kernels
from nope_splat.utils import progress

BACKEND = "gsplat.cuda._backend"


@pytest.fixture
def build_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fake a machine that can compile for one GPU architecture. Returns the folder of the kernels."""
    monkeypatch.delitem(sys.modules, BACKEND, raising=False)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6")
    monkeypatch.delenv("MAX_JOBS", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "99.1")
    monkeypatch.setattr(cuda_kernels, "find_toolkit", lambda: None)
    monkeypatch.setattr(cuda_kernels, "link_runtime", lambda *_: None)
    monkeypatch.setattr(cuda_kernels, "require_host_compiler", lambda: None)
    monkeypatch.setattr(cuda_kernels, "activate", lambda *_: None)
    return tmp_path / "gsplat_cuda"


def fake_backend(monkeypatch: pytest.MonkeyPatch, backend: Any) -> list[str]:
    """Make the import of gsplat's backend return a value, or raise it. Returns the imported names."""
    real, imported = importlib.import_module, []

    def fake(name: str, package: str | None = None) -> Any:
        if name not in ("gsplat.csrc", BACKEND):
            return real(name, package)
        imported.append(name)
        if name == "gsplat.csrc":
            raise ModuleNotFoundError(name)
        if isinstance(backend, BaseException):
            raise backend
        return backend() if callable(backend) else backend

    monkeypatch.setattr(importlib, "import_module", fake)
    return imported


def test_loaded_kernels_are_not_imported_again(build_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, BACKEND, types.SimpleNamespace(_C=object()))  # pyright: ignore[reportArgumentType]
    imported = fake_backend(monkeypatch, None)
    prepare_kernels()
    assert imported == []


def test_backend_without_kernels_is_imported_again(
    build_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler may have been installed since the first import."""
    monkeypatch.setitem(sys.modules, BACKEND, types.SimpleNamespace(_C=None))  # pyright: ignore[reportArgumentType]
    imported = fake_backend(monkeypatch, types.SimpleNamespace(_C=object()))
    prepare_kernels()
    assert imported == ["gsplat.csrc", BACKEND]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            "Error building extension 'gsplat_cuda': [1/26] nvcc\na.h:1: error: unsupported GNU version\n",
            "compiling gsplat's CUDA kernels failed (a.h:1: error: unsupported GNU version); see the"
            " compiler's output in {log}",
        ),
        (
            "Error building extension 'gsplat_cuda': [1/26] nvcc\nnvcc fatal: 'cicc' died: Killed\n",
            "the compilation of gsplat's CUDA kernels ran out of memory; set the environment variable"
            " MAX_JOBS=1 and run the command again to continue (the compiler's output is in {log})",
        ),
        ("", "compiling gsplat's CUDA kernels failed (); see the compiler's output in {log}"),
    ],
)
def test_failed_compilation_is_reported(
    error: str, sentence: str, build_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_backend(monkeypatch, RuntimeError(error))
    with pytest.raises(MissingKernelsError) as caught:
        prepare_kernels()
    log = build_folder.parent / "gsplat_cuda.log"
    assert caught.value.sentence == sentence.format(log=log)
    assert log.read_text() == f"{error}\n"
    assert "MAX_JOBS" not in os.environ


def test_missing_gpu_is_reported(build_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system. Please check that you have one")

    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fail)
    fake_backend(monkeypatch, None)
    with pytest.raises(MissingKernelsError) as caught:
        prepare_kernels()
    assert caught.value.sentence == (
        "PyTorch found no GPU (Found no NVIDIA driver on your system); install NVIDIA's driver and check that"
        " `nvidia-smi` lists the GPU"
    )


def test_unwritable_cache_is_reported(build_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (build_folder.parent / "file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(build_folder.parent / "file"))
    fake_backend(monkeypatch, None)
    with pytest.raises(MissingKernelsError, match=r"on this disk .*; set TORCH_EXTENSIONS_DIR"):
        prepare_kernels()


@pytest.mark.parametrize(("memory", "cores", "jobs"), [(8e9, 16, "2"), (64e9, 4, "4"), (1e9, 4, "1")])
def test_number_of_compilers_is_limited_by_memory_and_cores(
    memory: float, cores: int, jobs: str, build_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    max_jobs: list[str | None] = []

    def backend() -> types.SimpleNamespace:
        max_jobs.append(os.environ.get("MAX_JOBS"))
        return types.SimpleNamespace(_C=object())

    monkeypatch.setattr(cuda_kernels, "_free_memory", lambda: memory)
    monkeypatch.setattr(cuda_kernels, "get_num_threads", lambda: cores)
    fake_backend(monkeypatch, backend)
    prepare_kernels()
    monkeypatch.setenv("MAX_JOBS", "7")
    prepare_kernels()
    assert max_jobs == [jobs, "7"]


def test_compiled_files_are_counted(tmp_path: Path) -> None:
    assert count_compiled(tmp_path, 0.0) == (0, 0)
    rules = "rule compile\n  command = c++\nbuild a.cuda.o: compile a.cu\nbuild b.o: compile b.cpp\n"
    (tmp_path / "build.ninja").write_text(f"{rules}build gsplat_cuda.so: link a.cuda.o b.o\n")
    assert count_compiled(tmp_path, 0.0) == (0, 2)
    (tmp_path / "a.cuda.o").touch()
    assert count_compiled(tmp_path, 0.0) == (1, 2)
    assert count_compiled(tmp_path, time.time() + 60) == (0, 2)


def test_progress_is_reported(
    build_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compile_slowly() -> types.SimpleNamespace:
        print("gsplat's spinner")
        (build_folder / "build.ninja").write_text("build a.o: compile a.cu\nbuild b.o: compile b.cu\n")
        (build_folder / "a.o").touch()
        time.sleep(0.3)
        return types.SimpleNamespace(_C=object())

    monkeypatch.setattr(cuda_kernels, "_PROGRESS_DELAY", 0.05)
    monkeypatch.setattr(cuda_kernels, "_REPORT_INTERVAL", 0.15)
    monkeypatch.setattr(progress, "CONSOLE", Console(stderr=True, force_terminal=False, width=200))
    fake_backend(monkeypatch, compile_slowly)
    prepare_kernels()
    _, second, last = caplog.messages
    assert "1 of 2" in second
    assert str(build_folder) in last


# The tests below run the real gsplat, torch and ninja with stub compilers.

PREPARE = """
import sys
from nope_splat.splatting.rasterizer.cuda_kernels import prepare_kernels
from nope_splat.utils.terminal import show_messages
show_messages()
prepare_kernels()
print(sys.modules["gsplat.cuda._backend"]._C.__name__)
"""


class Machine:
    """A machine with stub compilers for the kernels."""

    def __init__(self, folder: Path) -> None:
        toolkit = make_toolkit(folder / "toolkit", str(torch.version.cuda))
        self.log, self.build = folder / "log", folder / "extensions" / "gsplat_cuda"
        self.environment = {
            **os.environ,
            LOG: str(self.log),
            "CUDA_HOME": str(toolkit),
            "CXX": str(make_cxx(folder / "cxx", toolkit)),
            "PATH": f"{toolkit}/bin:/usr/bin:/bin",
            "TORCH_EXTENSIONS_DIR": str(self.build.parent),
            "TORCH_CUDA_ARCH_LIST": "8.6",
            "MAX_JOBS": "2",
        }

    def start(self, pause: float = 0.0) -> subprocess.Popen[str]:
        """Start a process that prepares kernels, with a pause in seconds for every file."""
        environment = {**self.environment, PAUSE: str(pause)}
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", PREPARE]
        return subprocess.Popen(
            command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def compiled(self) -> list[str]:
        """List the files that were compiled so far, with repetitions."""
        return self.log.read_text().splitlines() if self.log.exists() else []


def wait_for_line(process: subprocess.Popen[str], line: str) -> None:
    """Read the stderr of a process up to a line."""
    assert process.stderr is not None
    assert line in process.stderr  # reads up to the line


def check_loaded(process: subprocess.Popen[str]) -> None:
    """Wait for a process, and check that it loaded the kernels."""
    out, err = process.communicate(timeout=120)
    assert out == "gsplat_cuda\n", err


@pytest.mark.skipif(
    torch.version.cuda is None
    or any(shutil.which(compiler) is None for compiler in ("cc", "gcc", "c++"))
    or not (Path(sysconfig.get_path("include")) / "Python.h").exists(),
    reason="needs a torch for CUDA, and compilers for an empty module",
)
def test_interrupted_compilation_is_resumed_once_and_cached(tmp_path: Path) -> None:
    """Interrupt a compilation, resume it in two processes at once, and load the result in another one."""
    machine = Machine(tmp_path)
    interrupted = machine.start(pause=0.5)
    deadline = time.monotonic() + 60
    while len(machine.compiled()) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
    assert "KeyboardInterrupt" in interrupted.communicate(timeout=60)[1]
    before = machine.compiled()
    assert 4 <= len(before) < 20
    assert not (machine.build / "gsplat_cuda.so").exists()

    (machine.build / "lock").touch()  # left behind by older versions of torch when they are killed
    with FileLock(machine.build.parent / "gsplat_cuda.nope-splat.lock"):
        both = [machine.start(), machine.start()]
        for process in both:
            wait_for_line(process, "Another process is compiling gsplat's CUDA kernels; waiting for it.\n")
    for process in both:
        check_loaded(process)
    _, total = count_compiled(machine.build, 0.0)
    all_compiled = machine.compiled()
    assert len(set(all_compiled)) == total
    assert len(all_compiled) <= total + 2  # two files were interrupted

    check_loaded(machine.start())
    assert machine.compiled() == all_compiled
