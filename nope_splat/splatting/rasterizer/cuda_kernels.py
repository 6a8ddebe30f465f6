"""gsplat's CUDA kernels: compiled on first use, kept for later starts.

PyPI's package of gsplat holds its kernels as source. If nvcc is on PATH, gsplat has torch compile them on
first use, only for the GPUs at hand (or those in TORCH_CUDA_ARCH_LIST), into torch's extension cache:
`~/.cache/torch_extensions/py311_cu130/gsplat_cuda` for Python 3.11 and CUDA 13.0, or a folder in
TORCH_EXTENSIONS_DIR. Other programs that use gsplat in the same environment load them from there, given the
same nvcc and ninja on PATH. ninja compares file times and commands at every start, so a different torch,
gsplat or GPU triggers a new compilation.

This module finds a compiler that fits (`cuda_toolkit`), points gsplat at it, and adds four things: progress;
as many compilers at once as fit into memory; one compilation at a time across processes; and resuming an
interrupted compilation.
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
"""gsplat's name for its kernels in torch's cache."""

_BACKEND = "gsplat.cuda._backend"
"""The module of gsplat that loads its kernels when it is imported, or compiles them."""

_MEMORY_OF_A_COMPILER = 3.5e9
"""Bytes that nvcc needs for the largest of gsplat's files (measured: 3.4 GB with CUDA 13.0)."""

_PATIENCE = 3.0
"""Seconds before progress is shown; compiled kernels load faster."""

_REPORT_EVERY = 60.0
"""Seconds between lines of progress without a terminal."""

_ERROR = re.compile(r"\berror\b|cannot find|unsupported", re.IGNORECASE)
"""How compilers and linkers mark the line that says what is wrong."""


def prepare_kernels() -> None:
    """Load gsplat's CUDA kernels, compiling them once where there is a compiler.

    Compiling takes minutes. It needs no GPU if TORCH_CUDA_ARCH_LIST names the architectures. Sets PATH,
    CUDA_HOME and LIBRARY_PATH for this process and its children.

    Raises:
        MissingKernelsError: If there are no kernels and they cannot be compiled; names what is missing.
    """
    if getattr(sys.modules.get(_BACKEND), "_C", None) is not None:
        return
    sys.modules.pop(_BACKEND, None)  # imported before, when there was no compiler
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
        with _only_compilation(folder):
            link_runtime(toolkit, folder.parent / f"{EXTENSION}_links")
            _load(folder)
    except OSError as error:
        raise MissingKernelsError(
            f"gsplat's CUDA kernels cannot be kept on this disk ({error}); set TORCH_EXTENSIONS_DIR to a"
            " folder that can be written"
        ) from error


def _shipped_with_gsplat() -> bool:
    """Whether gsplat was installed with compiled kernels that load with this torch."""
    try:
        importlib.import_module("gsplat.csrc")
    except ImportError:
        return False
    return True


def _require_gpu() -> None:
    """Check that there is a GPU to compile for, or that TORCH_CUDA_ARCH_LIST names architectures."""
    if torch.cuda.is_available() or os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return
    reason = ""
    try:
        torch.cuda.init()
    except Exception as error:  # whatever torch has to say about the driver
        reason = f" ({str(error).strip().partition('. ')[0]})"
    raise MissingKernelsError(
        f"torch finds no GPU here{reason}; `nvidia-smi` should list it, and comes with NVIDIA's driver"
    )


def _build_folder() -> Path:
    """Folder of gsplat's kernels in torch's extension cache; created where needed."""
    from torch.utils import cpp_extension

    return Path(cpp_extension._get_build_directory(EXTENSION, verbose=False))


@contextmanager
def _only_compilation(folder: Path) -> Iterator[None]:
    """Hold a lock on a build folder, so that one process at a time compiles.

    torch's own lock does not help: gsplat deletes it at every start, because with older versions of torch it
    outlives a killed process, and then empties a folder without a finished library. A second process would
    delete the objects of the first. The operating system releases this lock when its process ends.
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
    """Import gsplat's backend, which compiles and loads the kernels."""
    log = folder.parent / f"{EXTENSION}.log"
    try:
        with _jobs_for_memory(), _compiled_files_kept(folder), _progress_shown(folder), _stdout_hidden():
            kernels = importlib.import_module(_BACKEND)._C
    except Exception as error:  # compilers and linkers fail in many ways
        log.write_text(f"{error}\n")
        raise MissingKernelsError(_failure(str(error), log)) from error
    if kernels is None:
        raise MissingKernelsError("gsplat does not find nvcc, although it is on PATH; reinstall gsplat")


def _failure(output: str, log: Path) -> str:
    """One sentence about a failed compilation, with the first error of the compiler's output."""
    if re.search(r"\bKilled\b|[Oo]ut of memory|cannot allocate memory", output):
        return (
            "compiling gsplat's CUDA kernels took more memory than there is; set the environment variable"
            f" MAX_JOBS=1 and start again, which goes on where it stopped (the compiler's output is in {log})"
        )
    lines = output.strip().splitlines() or [""]
    errors = (line.strip() for line in lines if _ERROR.search(line) and not line.startswith("Error building"))
    reason = next(errors, lines[0])
    return f"compiling gsplat's CUDA kernels failed ({reason}); the compiler's output is in {log}"


@contextmanager
def _jobs_for_memory() -> Iterator[None]:
    """Set MAX_JOBS, unless it is set, to what cores and memory allow; gsplat would start ten compilers."""
    if os.environ.get("MAX_JOBS"):
        yield
        return
    os.environ["MAX_JOBS"] = str(max(1, min(get_num_threads(), int(_free_memory() / _MEMORY_OF_A_COMPILER))))
    try:
        yield
    finally:
        os.environ.pop("MAX_JOBS", None)


def _free_memory() -> float:
    """Memory that can be allocated without swapping, in bytes; infinite where the system does not tell."""
    with contextlib.suppress(OSError):
        available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        if available:
            return int(available[1]) * 1024.0
    return float("inf")


@contextmanager
def _compiled_files_kept(folder: Path) -> Iterator[None]:
    """Keep gsplat from deleting the objects of an interrupted compilation.

    gsplat empties the build folder unless it holds a library. An empty file in its place prevents that. ninja
    replaces it, since its log does not list it; the same log lists the objects that are complete.
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
def _stdout_hidden() -> Iterator[None]:
    """Hide gsplat's own spinner."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextmanager
def _progress_shown(folder: Path) -> Iterator[None]:
    """Show how many files are compiled, from a thread, if it takes longer than loading does."""
    start = time.time()
    # Objects from before count when a compilation is resumed, not when a finished library is rebuilt.
    since = start if (folder / f"{EXTENSION}.so").is_file() and not _unfinished(folder) else 0.0
    finished = threading.Event()
    watcher = threading.Thread(target=_watch, args=(folder, since, finished), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
    if time.time() - start > _PATIENCE and count_compiled(folder, start)[0]:
        logger.info(f"gsplat's CUDA kernels: compiled in {time.time() - start:.0f} s and kept in {folder}.")


def _unfinished(folder: Path) -> bool:
    """Whether the library is the empty file of `_compiled_files_kept`."""
    return (folder / f"{EXTENSION}.so").stat().st_size == 0


def _watch(folder: Path, since: float, finished: threading.Event) -> None:
    """Show the progress of a compilation until it is finished; nothing if that is soon."""
    if finished.wait(_PATIENCE):
        return
    title = "Compiling gsplat's CUDA kernels, once"
    if not progress.CONSOLE.is_terminal:
        logger.info(f"{title}; this takes minutes.")
        while not finished.wait(_REPORT_EVERY):
            logger.info("{}: {} of {} files.".format(title, *count_compiled(folder, since)))
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=progress.CONSOLE, transient=True) as bar:
        task = bar.add_task(title, total=None)
        while not finished.wait(0.5):
            compiled, total = count_compiled(folder, since)
            bar.update(task, completed=compiled, total=total or None)


def count_compiled(folder: Path, since: float) -> tuple[int, int]:
    """Count the files that are compiled.

    Args:
        folder: Where ninja builds.
        since: Objects older than this do not count, in seconds since the epoch.

    Returns:
        Number of files that are compiled, and of all; zero before ninja's file is written.
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
