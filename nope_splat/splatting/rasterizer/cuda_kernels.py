"""Compilation of gsplat's CUDA kernels on first use, cached for later processes.

The gsplat package on PyPI contains its kernels as source. If nvcc is on PATH, gsplat lets torch compile the
kernels on first use, for the GPUs of the machine (or the architectures in TORCH_CUDA_ARCH_LIST), into torch's
extension cache: `~/.cache/torch_extensions/py311_cu130/gsplat_cuda` for Python 3.11 and CUDA 13.0, or a
folder in TORCH_EXTENSIONS_DIR. Other programs that use gsplat in the same environment load the kernels from
this cache, if the same nvcc and ninja are on PATH. ninja compares file times and commands at every start, so
a different torch, gsplat or GPU triggers a new compilation.

This module finds a compatible compiler (`cuda_toolkit`) and configures gsplat to use it. The module adds a
progress bar to gsplat's compilation, limits the number of parallel compilers by the free memory, allows only
one process at a time to compile, and resumes an interrupted compilation.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nope_splat.splatting.rasterizer.cuda_toolkit import (
    MissingKernelsError,
    activate,
    find_toolkit,
    link_runtime,
    require_cuda_torch,
    require_host_compiler,
)
from nope_splat.splatting.rasterizer.threads import get_num_threads
from nope_splat.utils import progress

logger = logging.getLogger(__name__)

__all__ = ["MissingKernelsError", "prepare_kernels"]

EXTENSION = "gsplat_cuda"
"""Name of gsplat's compiled kernels in torch's extension cache."""

_BACKEND = "gsplat.cuda._backend"
"""Name of gsplat's module that loads or compiles its kernels on import."""

_COMPILER_MEMORY = 3.5e9
"""Memory in bytes that nvcc needs for the largest of gsplat's source files (measured: 3.4 GB with CUDA
13.0)."""

_PROGRESS_DELAY = 3.0
"""Seconds after which progress is shown. Loading kernels that are already compiled takes less time."""

_REPORT_INTERVAL = 60.0
"""Seconds between progress messages if the output is not a terminal."""

_ERROR = re.compile(r"\berror\b|cannot find|unsupported", re.IGNORECASE)
"""Regular expression that matches lines in which a compiler or linker reports an error."""


def prepare_kernels() -> None:
    """Load gsplat's CUDA kernels, compiling them if necessary.

    Compilation takes minutes. It needs no GPU if TORCH_CUDA_ARCH_LIST names the architectures. To compile,
    the function sets PATH, CUDA_HOME and LIBRARY_PATH for this process and its children.

    Raises:
        MissingKernelsError: If gsplat has no compiled kernels and they cannot be compiled. The message says
            what is missing and how to install it.
    """
    if getattr(sys.modules.get(_BACKEND), "_C", None) is not None:
        return
    sys.modules.pop(_BACKEND, None)  # the module may have been imported before a compiler was installed
    if _shipped_with_gsplat():
        importlib.import_module(_BACKEND)
        return
    require_cuda_torch()
    _require_gpu()
    toolkit = find_toolkit()
    require_host_compiler()
    activate(toolkit)
    try:
        folder = _build_folder()
        with _build_lock(folder):
            link_runtime(toolkit, folder.parent / f"{EXTENSION}_links")
            _load(folder)
    except OSError as error:
        raise MissingKernelsError(
            f"gsplat's CUDA kernels cannot be stored on this disk ({error}); set TORCH_EXTENSIONS_DIR to a"
            " writable folder"
        ) from error


def _shipped_with_gsplat() -> bool:
    """Check whether gsplat was installed with compiled kernels that this version of torch can load."""
    try:
        importlib.import_module("gsplat.csrc")
    except ImportError:
        return False
    return True


def _require_gpu() -> None:
    """Check that there is a GPU to compile for, or that TORCH_CUDA_ARCH_LIST lists architectures.

    Raises:
        MissingKernelsError: If there is no GPU and TORCH_CUDA_ARCH_LIST is not set.
    """
    if torch.cuda.is_available() or os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return
    reason = ""
    try:
        torch.cuda.init()
    except Exception as error:  # torch raises various errors about the driver
        reason = f" ({str(error).strip().partition('. ')[0]})"
    raise MissingKernelsError(
        f"PyTorch found no GPU{reason}; install NVIDIA's driver and check that `nvidia-smi` lists the GPU"
    )


def _build_folder() -> Path:
    """Return the folder of gsplat's kernels in torch's extension cache; create it if it is missing."""
    from torch.utils import cpp_extension

    return Path(cpp_extension._get_build_directory(EXTENSION, verbose=False))


@contextmanager
def _build_lock(folder: Path) -> Iterator[None]:
    """Lock a build folder, so that only one process compiles at a time.

    torch's own lock is not sufficient. gsplat deletes that lock at every start, because older versions of
    torch leave it behind when a process is killed. gsplat then empties a folder that has no finished library,
    so that a second process would delete the object files of the first. The operating system releases the
    lock of this function when the process ends.
    """
    lock = FileLock(folder.parent / f"{EXTENSION}.nope-splat.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Another process is compiling gsplat's CUDA kernels; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _load(folder: Path) -> None:
    """Import gsplat's backend, which compiles the kernels if necessary and loads them.

    Raises:
        MissingKernelsError: If the compilation fails. The compiler's output is written to a log next to
            `folder`.
    """
    log = folder.parent / f"{EXTENSION}.log"
    try:
        with _limited_jobs(), _kept_objects(folder), _progress_display(folder), _hidden_stdout():
            kernels = importlib.import_module(_BACKEND)._C
    except Exception as error:  # compilers and linkers raise various errors
        log.write_text(f"{error}\n")
        raise MissingKernelsError(_failure_message(str(error), log)) from error
    if kernels is None:
        raise MissingKernelsError("gsplat did not find nvcc although it is on PATH; reinstall gsplat")


def _failure_message(output: str, log: Path) -> str:
    """Describe a failed compilation in one sentence: lack of memory, or the compiler's first error.

    Args:
        output: Output of the compilation.
        log: File that contains the output, named in the sentence.
    """
    if re.search(r"\bKilled\b|[Oo]ut of memory|cannot allocate memory", output):
        return (
            "the compilation of gsplat's CUDA kernels ran out of memory; set the environment variable"
            f" MAX_JOBS=1 and run the command again to continue (the compiler's output is in {log})"
        )
    lines = output.strip().splitlines() or [""]
    errors = (line.strip() for line in lines if _ERROR.search(line) and not line.startswith("Error building"))
    reason = next(errors, lines[0])
    return f"compiling gsplat's CUDA kernels failed ({reason}); see the compiler's output in {log}"


@contextmanager
def _limited_jobs() -> Iterator[None]:
    """Set MAX_JOBS, the number of parallel compilers, within a `with` block.

    MAX_JOBS is computed from the number of rasterizer threads and the free memory. A value that the user has
    set is kept. Without MAX_JOBS, gsplat would start ten compilers.
    """
    if os.environ.get("MAX_JOBS"):
        yield
        return
    os.environ["MAX_JOBS"] = str(max(1, min(get_num_threads(), int(_free_memory() / _COMPILER_MEMORY))))
    try:
        yield
    finally:
        os.environ.pop("MAX_JOBS", None)


def _free_memory() -> float:
    """Return the memory in bytes that can be allocated without swapping; infinity if unknown."""
    with contextlib.suppress(OSError):
        available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        if available:
            return int(available[1]) * 1024.0
    return float("inf")


@contextmanager
def _kept_objects(folder: Path) -> Iterator[None]:
    """Prevent gsplat from deleting the object files of an interrupted compilation.

    gsplat empties the build folder unless the folder contains the library. An empty file in place of the
    library prevents this. ninja's log does not list the empty file, so ninja replaces the empty file with the
    library. The log lists the complete object files, so ninja does not compile them again.
    """
    library = folder / f"{EXTENSION}.so"
    if not library.exists() and any(folder.glob("*.o")):
        library.touch()
    try:
        yield
    finally:
        if library.exists() and library.stat().st_size == 0:
            library.unlink()


@contextmanager
def _hidden_stdout() -> Iterator[None]:
    """Hide what gsplat writes to stdout while it compiles."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextmanager
def _progress_display(folder: Path) -> Iterator[None]:
    """Show the number of compiled files within a `with` block, if a compilation takes place there.

    A background thread shows the number. At the end, the duration of the compilation is logged.
    """
    start = time.time()
    # Old object files count if a compilation is resumed, but not if a finished library is rebuilt.
    since = start if (folder / f"{EXTENSION}.so").is_file() and not _is_placeholder(folder) else 0.0
    finished = threading.Event()
    watcher = threading.Thread(target=_show_progress, args=(folder, since, finished), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
    if time.time() - start > _PROGRESS_DELAY and count_compiled(folder, start)[0]:
        logger.info(
            f"Compiled gsplat's CUDA kernels in {time.time() - start:.0f} s and stored them in {folder}."
        )


def _is_placeholder(folder: Path) -> bool:
    """Check whether the library in a build folder is the empty placeholder file of `_kept_objects`."""
    return (folder / f"{EXTENSION}.so").stat().st_size == 0


def _show_progress(folder: Path, since: float, finished: threading.Event) -> None:
    """Show the progress of a compilation until it finishes.

    Nothing is shown during the first `_PROGRESS_DELAY` seconds.

    Args:
        folder: Build folder of ninja.
        since: Time in seconds since the epoch. Object files written before this time do not count as
            compiled.
        finished: Event that is set when the compilation finishes.
    """
    if finished.wait(_PROGRESS_DELAY):
        return
    title = "Compiling gsplat's CUDA kernels (only once)"
    if not progress.CONSOLE.is_terminal:
        logger.info(f"{title}; this takes several minutes.")
        while not finished.wait(_REPORT_INTERVAL):
            logger.info("{}: {} of {} files.".format(title, *count_compiled(folder, since)))
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=progress.CONSOLE, transient=True) as bar:
        task = bar.add_task(title, total=None)
        while not finished.wait(0.5):
            compiled, total = count_compiled(folder, since)
            bar.update(task, completed=compiled, total=total or None)


def count_compiled(folder: Path, since: float) -> tuple[int, int]:
    """Count the compiled files of a build.

    Args:
        folder: Build folder of ninja.
        since: Time in seconds since the epoch. Object files written before this time do not count as
            compiled.

    Returns:
        Number of compiled files, and number of all files to compile; (0, 0) before ninja's build file exists.
    """
    try:
        objects = re.findall(r"^build (\S+\.o):", (folder / "build.ninja").read_text(), re.MULTILINE)
    except OSError:
        return 0, 0
    compiled = 0
    for name in objects:
        with contextlib.suppress(OSError):
            compiled += (folder / name).stat().st_mtime >= since
    return compiled, len(objects)
