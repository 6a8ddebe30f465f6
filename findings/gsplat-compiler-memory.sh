#!/usr/bin/env bash
# Compiling one file of gsplat 1.4.0 takes more than 3 GB, and gsplat compiles ten at once.
#
# Expected:  about 1 GB a compiler, as for other extensions of torch, so that ten fit into 16 GB.
# Happens:   nvcc 13.0 (its part cicc) takes 3.4 GB for rasterize_to_pixels_bwd.cu, for one architecture: the
#            file instantiates its kernel for 19 numbers of channels, from 1 to 513. Its sisters
#            (rasterize_to_pixels_fwd.cu and both for 2DGS) do the same. gsplat sets MAX_JOBS=10 when it is
#            not set, whatever the machine has.
# Means:     on a machine with 16 GB and eight cores or more the compilation can run out of memory. We set
#            MAX_JOBS by the memory that is free.
#
# Versions:  gsplat 1.4.0, torch 2.14.1, cuda-toolkit 13.0.3 (nvcc 13.0.88), all from PyPI; g++ 12; no GPU.
# Takes:     five minutes, 6 GB of disk until it ends, 4 GB of memory.

set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet gsplat==1.4.0 torch==2.14.1 "cuda-toolkit[nvcc,cccl]==13.0.3"

environment/bin/python - <<'END'
import os
import re
import resource
import subprocess
import sys
import sysconfig
from pathlib import Path

packages = Path(sysconfig.get_path("purelib"))
gsplat, toolkit = packages / "gsplat" / "cuda", packages / "nvidia" / "cu13"
torch = packages / "torch" / "include"
source = gsplat / "csrc" / "rasterize_to_pixels_bwd.cu"
channels = re.findall(r"__GS__CALL_\((\d+)\)", source.read_text())
jobs = re.search(r'os\.environ\["MAX_JOBS"\] = "(\d+)"', (gsplat / "_backend.py").read_text())

includes = [gsplat / "csrc", gsplat / "csrc" / "third_party" / "glm"]
system = [torch, torch / "torch" / "csrc" / "api" / "include", toolkit / "include", sysconfig.get_path("include")]
command = [str(toolkit / "bin" / "nvcc"), "-c", str(source), "-o", "object.o"]
command += [f"-I{folder}" for folder in includes] + [f"-isystem={folder}" for folder in system]
command += "-DTORCH_EXTENSION_NAME=gsplat_cuda -D__CUDA_NO_HALF_OPERATORS__ -D__CUDA_NO_HALF_CONVERSIONS__".split()
command += "-gencode=arch=compute_86,code=sm_86 -O3 --use_fast_math -std=c++20 --expt-relaxed-constexpr".split()
command += ["--compiler-options", "-fPIC"]
subprocess.run(command, check=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6

print(f"rasterize_to_pixels_bwd.cu: {len(channels)} numbers of channels, the largest compiler took {peak:.2f} GB")
print(f"gsplat starts {jobs and jobs[1]} compilers at once")
if not (peak > 3 and jobs and jobs[1] == "10"):
    sys.exit("this is no longer what was found")
END
