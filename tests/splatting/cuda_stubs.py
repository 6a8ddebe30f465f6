"""Toolkits of CUDA and compilers that compile nothing, for tests of what leads gsplat's build."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

LOG = "STUB_LOG"
"""Environment variable of the file to which a stub adds a line for each file that it compiles."""

PAUSE = "STUB_PAUSE"
"""Environment variable of the seconds that a stub takes for a file."""

_NVCC = """#!/bin/sh
[ $# = 0 ] && exit  # gsplat's way to see whether there is one
[ "$1" = --version ] && echo "Cuda compilation tools, release {release}, V{release}.88" && exit
sleep "${{STUB_PAUSE:-0}}"
while [ $# -gt 0 ]; do
    case "$1" in
        -MF) depfile="$2"; shift ;;
        -o) object="$2"; shift ;;
    esac
    shift
done
echo "$object:" > "$depfile"
echo "$object" | tee "$object" >> "$STUB_LOG"
"""

_CXX = """#!/bin/sh
case "$*" in
    *-shared*) while [ "$1" != -o ]; do shift; done; exec cp {module} "$2" ;;
    *ext.cpp*) exec {nvcc} "$@" ;;
    *) exec c++ "$@" ;;
esac
"""

_MODULE = """#include <Python.h>
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "gsplat_cuda"};
PyMODINIT_FUNC PyInit_gsplat_cuda(void) { return PyModule_Create(&definition); }
"""


def make_toolkit(home: Path, release: str) -> Path:
    """Make a toolkit as PyPI's packages lay it out, with an nvcc that knows its release; its folder."""
    _write_script(home / "bin" / "nvcc", _NVCC.format(release=release))
    for name in ("include/cuda_runtime.h", "lib/libcudart.so.13"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    return home


def make_cxx(folder: Path, toolkit: Path) -> Path:
    """Make a C++ compiler that links an empty Python module in place of gsplat's kernels.

    Needs a real C compiler and Python's headers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, module = folder / "module.c", folder / "module.so"
    source.write_text(_MODULE)
    include = sysconfig.get_path("include")
    subprocess.run(["cc", "-shared", "-fPIC", f"-I{include}", "-o", str(module), str(source)], check=True)
    compiler = folder / "c++"
    _write_script(compiler, _CXX.format(module=module, nvcc=toolkit / "bin" / "nvcc"))
    return compiler


def _write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.chmod(path, 0o755)
