"""gsplat's CUDA kernels: compiled when they are first needed, kept for all later starts.

gsplat's package on PyPI holds the sources of its kernels. Where nvcc is on PATH, it has torch compile them on
first use, for the GPUs at hand alone (TORCH_CUDA_ARCH_LIST chooses others), into torch's cache of extensions:
`~/.cache/torch_extensions/py311_cu130/gsplat_cuda` for Python 3.11 and CUDA 13.0, or below
TORCH_EXTENSIONS_DIR. Whatever uses gsplat in the same environment finds them there. ninja compares times and
commands at every start, so another torch, gsplat or GPU leads to a new compilation by itself.

This module finds a compiler that fits (`cuda_toolkit`), leads gsplat to it, and adds what gsplat lacks:
progress; a number of compilers that the memory can bear; one compilation at a time among processes; after an
interruption, going on with what was compiled.
"""

from __future__ import annotations

import contextlib
import importlib
import io
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

from nope_splat import progress
from nope_splat.progress import say
from nope_splat.splatting.cuda_toolkit import (
    MissingKernelsError,
    activate,
    find_toolkit,
    require_cuda_torch,
    require_host_compiler,
)
from nope_splat.splatting.threads import get_num_threads

__all__ = ["MissingKernelsError", "prepare_kernels"]

EXTENSION = "gsplat_cuda"
"""gsplat's name for its kernels in torch's cache."""

_BACKEND = "gsplat.cuda._backend"
"""The module of gsplat that loads its kernels when it is imported, or compiles them."""

_MEMORY_OF_A_COMPILER = 3.5e9
"""Bytes that nvcc needs for the largest of gsplat's files (measured: 3.4 GB with CUDA 13.0)."""

_PATIENCE = 3.0
"""Seconds after which it is shown that something is being compiled: kernels that are ready load faster."""

_REPORT_EVERY = 60.0
"""Seconds between lines of progress where there is no terminal to draw a bar on."""

_ERROR = re.compile(r"\berror\b|cannot find|unsupported", re.IGNORECASE)
"""How compilers and linkers mark the line that says what is wrong."""


def prepare_kernels() -> None:
    """Load gsplat's CUDA kernels, compiling them once where there is a compiler.

    Compiling takes minutes and needs no GPU if TORCH_CUDA_ARCH_LIST says for which ones. It sets PATH,
    CUDA_HOME and LIBRARY_PATH for this process and those it starts.

    Raises:
        MissingKernelsError: If there are none and they cannot be compiled; says what is missing.
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
    try:
        folder = _build_folder()
        activate(toolkit, folder.parent / f"{EXTENSION}_links")
        with _only_compilation(folder):
            _load(folder)
    except OSError as error:
        raise MissingKernelsError(
            f"gsplat's CUDA kernels cannot be kept on this disk ({error}); set TORCH_EXTENSIONS_DIR to a"
            " folder that can be written"
        ) from error


def _shipped_with_gsplat() -> bool:
    """Whether gsplat was installed with compiled kernels that this torch can load."""
    try:
        importlib.import_module("gsplat.csrc")
    except ImportError:
        return False
    return True


def _require_gpu() -> None:
    """Check that torch finds a GPU to compile for, or that somebody says for which one to compile."""
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
    """Folder of gsplat's kernels in torch's cache, as gsplat itself asks for it; made where needed."""
    from torch.utils import cpp_extension

    return Path(cpp_extension._get_build_directory(EXTENSION, verbose=False))


@contextmanager
def _only_compilation(folder: Path) -> Iterator[None]:
    """Wait until no other process of this kind compiles into a folder, and keep others from it.

    torch has a lock of its own. But gsplat removes it at every start, since that of older versions of torch
    outlived a killed process; and it empties the folder where the kernels are not finished. So two processes
    would destroy each other's work. This lock is the operating system's, and goes with its process.
    """
    lock = FileLock(folder.parent / f"{EXTENSION}.nope-splat.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("Another process is compiling gsplat's CUDA kernels; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _load(folder: Path) -> None:
    """Import gsplat's backend, which compiles and loads the kernels."""
    log = folder.parent / f"{EXTENSION}.log"
    try:
        with _jobs_for_memory(), _compiled_files_kept(folder), _progress_shown(folder), _silence():
            kernels = importlib.import_module(_BACKEND)._C
    except Exception as error:  # compilers and linkers fail in many ways
        log.write_text(f"{error}\n")
        raise MissingKernelsError(_failure(str(error), log)) from error
    if kernels is None:
        raise MissingKernelsError("gsplat does not find nvcc, although it is on PATH; reinstall gsplat")


def _failure(output: str, log: Path) -> str:
    """What a failed compilation comes to, in one sentence."""
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
    """Run as many compilers at once as there are cores and memory for, unless MAX_JOBS is set.

    gsplat would start ten.
    """
    if os.environ.get("MAX_JOBS"):
        yield
        return
    os.environ["MAX_JOBS"] = str(max(1, min(get_num_threads(), int(_free_memory() / _MEMORY_OF_A_COMPILER))))
    try:
        yield
    finally:
        os.environ.pop("MAX_JOBS", None)


def _free_memory() -> float:
    """Bytes that may still be taken without swapping; without end where the system does not say."""
    with contextlib.suppress(OSError):
        available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        if available:
            return int(available[1]) * 1024.0
    return float("inf")


@contextmanager
def _compiled_files_kept(folder: Path) -> Iterator[None]:
    """Keep gsplat from throwing away what an interrupted compilation has left.

    It empties the folder unless there is a library. An empty one does: ninja did not make it, as its own log
    tells, so it replaces it. The same log tells it which compiled files are whole.
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
def _silence() -> Iterator[None]:
    """Keep gsplat's own spinner off the screen."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextmanager
def _progress_shown(folder: Path) -> Iterator[None]:
    """Show how many files are compiled, from a thread of its own, once it takes longer than loading would."""
    start = time.time()
    # Files from before count where a compilation goes on, and not where it starts anew.
    since = start if (folder / f"{EXTENSION}.so").is_file() and not _unfinished(folder) else 0.0
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(folder, since, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    if time.time() - start > _PATIENCE and count_compiled(folder, start)[0]:
        say(f"gsplat's CUDA kernels: compiled in {time.time() - start:.0f} s and kept in {folder}.")


def _unfinished(folder: Path) -> bool:
    """Whether the library is only the mark of `_compiled_files_kept`."""
    return (folder / f"{EXTENSION}.so").stat().st_size == 0


def _watch(folder: Path, since: float, over: threading.Event) -> None:
    """Show the progress of a compilation until it is over; nothing if that is soon."""
    if over.wait(_PATIENCE):
        return
    what = "Compiling gsplat's CUDA kernels, once"
    if not progress.CONSOLE.is_terminal:
        say(f"{what}; this takes minutes.")
        while not over.wait(_REPORT_EVERY):
            say("{}: {} of {} files.".format(what, *count_compiled(folder, since)))
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=progress.CONSOLE, transient=True) as bar:
        task = bar.add_task(what, total=None)
        while not over.wait(0.5):
            compiled, total = count_compiled(folder, since)
            bar.update(task, completed=compiled, total=total or None)


def count_compiled(folder: Path, since: float) -> tuple[int, int]:
    """Count the files that are compiled.

    Args:
        folder: Where ninja builds.
        since: When the compilation started, in seconds since the epoch: older files do not count.

    Returns:
        How many are compiled, and how many there will be: zero while ninja has no plan yet.
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
