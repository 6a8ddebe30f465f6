#!/usr/bin/env bash
# Compiles gsplat's CUDA kernels in a new environment that contains only packages from PyPI, and loads them.
#
#   bash scripts/gpu/compile_kernels.sh        for GPUs of compute capability 8.6
#   bash scripts/gpu/compile_kernels.sh 9.0    for GPUs of another compute capability
#
# Needs g++ and Python's headers, but no GPU and no CUDA toolkit. Takes 8 GB of disk space while it runs.
#
# PYTHON                Python interpreter that creates the environment; default: python3
# ENVIRONMENT           environment to use, created if missing, and kept; default: a temporary environment
# TORCH_EXTENSIONS_DIR  folder in which the kernels are compiled and kept; default: a temporary folder
# MAX_JOBS              maximum number of parallel compilers; default: determined by cores and memory

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
environment="$(realpath -m "${ENVIRONMENT:-$folder/environment}")"
python="$environment/bin/python"
[ -x "$python" ] || "${PYTHON:-python3}" -m venv "$environment"
export PIP_DISABLE_PIP_VERSION_CHECK=1 TORCH_CUDA_ARCH_LIST="${1:-8.6}"
export TORCH_EXTENSIONS_DIR="$(realpath -m "${TORCH_EXTENSIONS_DIR:-$folder/extensions}")"

# Install only the packages of nope-splat[cuda] that the kernels need. pip warns about the missing packages.
"$python" -m pip install --quiet --no-deps .
extra="$("$python" - <<'END'
from importlib.metadata import requires

for requirement in requires("nope-splat") or []:
    if 'extra == "cuda"' in requirement:
        specifier, _, marker = requirement.partition(";")
        print(specifier.strip())
END
)"
mapfile -t extra <<< "$extra"
"$python" -m pip install --quiet "gsplat==1.4.0" numba filelock rich "${extra[@]}"
du -sh "$environment"

# The environment is not activated, so that the script has to find the compiler and ninja itself.
cd "$folder"
"$python" "$OLDPWD/scripts/gpu/compile_kernels.py"
