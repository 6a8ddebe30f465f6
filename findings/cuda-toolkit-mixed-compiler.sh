#!/usr/bin/env bash
# `cuda-toolkit[nvcc]` 13.0.2 installs a compiler of parts that do not fit together, and compiles nothing.
#
# Expected:  the extra nvcc of the package cuda-toolkit brings a working compiler of that version.
# Happens:   it pins nvidia-cuda-nvcc (ptxas and so on) to 13.0.88 alone. The parts that this needs,
#            nvidia-nvvm (cicc) and nvidia-cuda-crt (headers), come in the newest version. cicc 13.5 then writes
#            PTX 9.5, and ptxas 13.0 stops: "Unsupported .version 9.5; current version is '9.0'".
#            With [nvcc,nvvm,crt] all three are pinned, and it compiles. From 13.0.3 on [nvcc] pins all.
# Means:     torch 2.11 and 2.12 require cuda-toolkit 13.0.2. So our extra `cuda` names the parts.
#
# Versions:  cuda-toolkit 13.0.2, nvidia-cuda-nvcc 13.0.88, nvidia-nvvm 13.5.37; g++ 12; no GPU. It will print
#            another version of PTX when a newer nvidia-nvvm is out.
# Takes:     a minute, 700 MB of disk until it ends.

set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
echo '__global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }' > kernel.cu

compiles() {  # NAME EXTRAS: whether nvcc compiles with these parts of cuda-toolkit 13.0.2
    "${PYTHON:-python3}" -m venv "$1"
    "$1/bin/pip" install --quiet "cuda-toolkit[$2]==13.0.2"
    "$1/bin/pip" list 2> /dev/null | grep -E "nvidia-(cuda-nvcc|nvvm|cuda-crt) "
    "$1"/lib/python3*/site-packages/nvidia/cu13/bin/nvcc -c kernel.cu -o kernel.o \
        -gencode=arch=compute_86,code=sm_86 > output 2>&1 && echo "[$2] compiles" && return
    echo "[$2] does not compile:"
    cat output
    return 1
}

if compiles short nvcc,cccl; then
    echo "this is no longer what was found"
    exit 1
fi
grep -q "Unsupported .version" output
compiles long nvcc,nvvm,crt,cccl
