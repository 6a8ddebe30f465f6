"""Compile and load gsplat's CUDA kernels with this environment's toolkit, and check that none is missing.

`compile_kernels.sh` creates the environment and runs this script. CUDA toolkits of the system are ignored.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gsplat.cuda._wrapper as wrapper
import torch

from nope_splat.splatting.rasterizer import cuda_toolkit
from nope_splat.splatting.rasterizer.cuda_kernels import prepare_kernels
from nope_splat.utils.terminal import set_up_terminal


def hide_system_toolkits() -> None:
    """Hide all CUDA toolkits except the packages from PyPI.

    Changes environment variables of this process.
    """
    for variable in ("CUDA_HOME", "CUDA_PATH", "LIBRARY_PATH", "LD_LIBRARY_PATH"):
        os.environ.pop(variable, None)
    folders = os.environ["PATH"].split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join(folder for folder in folders if not (Path(folder) / "nvcc").exists())
    cuda_toolkit.SYSTEM_TOOLKIT = Path("nowhere")


def missing_functions(kernels: Any) -> list[str]:
    """List the functions that gsplat's Python code calls but the compiled kernels do not contain."""
    source = Path(wrapper.__file__).read_text()
    names = set(re.findall(r'_make_lazy_cuda_func\(\s*"(\w+)"', source))
    names |= set(re.findall(r'_make_lazy_cuda_obj\(\s*f?"(\w+)', source))
    if not names:
        raise SystemExit("gsplat's Python calls its kernels in a way that this script does not support")
    print(f"{len(names)} names that gsplat calls")
    return sorted(name for name in names if not hasattr(kernels, name))


def main() -> None:
    """Compile, load and check the kernels; print the toolkit and the time.

    Raises:
        SystemExit: If the toolkit is not that of this environment, or kernels are missing.
    """
    hide_system_toolkits()
    toolkit = cuda_toolkit.find_toolkit()
    if not toolkit.home.is_relative_to(Path(sys.prefix).resolve()):
        raise SystemExit(f"the toolkit does not belong to this environment: {toolkit.home}")
    print(f"torch {torch.__version__}, gsplat {version('gsplat')}, CUDA {toolkit.version} from PyPI")
    start = time.perf_counter()
    prepare_kernels()
    print(f"ready after {(time.perf_counter() - start) / 60:.1f} minutes, TORCH_CUDA_ARCH_LIST"
          f" {os.environ['TORCH_CUDA_ARCH_LIST']}")  # fmt: skip
    kernels = importlib.import_module("gsplat.cuda._backend")._C
    print(f"{kernels.__file__}: {Path(kernels.__file__).stat().st_size / 2**20:.1f} MiB")
    missing = missing_functions(kernels)
    if missing:
        raise SystemExit(f"the compiled kernels do not contain {', '.join(missing)}")


if __name__ == "__main__":
    set_up_terminal()
    main()
