#!/usr/bin/env bash
# Compiles gsplat's CUDA kernels in a fresh environment that has only PyPI's packages, and loads them.
#
#   bash scripts/gpu/compile_kernels.sh        for GPUs of compute capability 8.6
#   bash scripts/gpu/compile_kernels.sh 9.0    for others
#
# Needs no GPU and no CUDA toolkit, but g++ and Python's headers. Takes 8 GB of disk, until it ends.
#
# PYTHON                the Python to make the environment with, python3 if not set
# ENVIRONMENT           an environment to use instead, made where there is none, and kept
# TORCH_EXTENSIONS_DIR  where to compile and keep the result, a temporary folder if not set
# MAX_JOBS              compilers at once, by cores and memory if not set

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
environment="$(realpath -m "${ENVIRONMENT:-$folder/environment}")"
python="$environment/bin/python"
[ -x "$python" ] || "${PYTHON:-python3}" -m venv "$environment"
export PIP_DISABLE_PIP_VERSION_CHECK=1 TORCH_CUDA_ARCH_LIST="${1:-8.6}"
export TORCH_EXTENSIONS_DIR="$(realpath -m "${TORCH_EXTENSIONS_DIR:-$folder/extensions}")"

# What the kernels need of nope-splat[cuda]. The rest of it is left out, which pip complains about and goes on.
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

# The environment is not activated: what is needed has to be found.
cd "$folder"
"$python" "$OLDPWD/scripts/gpu/compile_kernels.py"
