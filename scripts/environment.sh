# Sourced by the other scripts: changes to the root of the repository, creates a virtual environment with
# nope-splat in it (once, and again when pyproject.toml changes), and adds the environment's commands to PATH.
#
# NOPE_SPLAT_VENV  folder of the environment; default: .venv
# PYTHON           Python interpreter that creates the environment; default: the first supported one that is found

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_WAIT_POLICY=PASSIVE  # idle threads sleep instead of spinning
export PIP_DISABLE_PIP_VERSION_CHECK=1 DEBIAN_FRONTEND=noninteractive

log() { echo "nope-splat: $*" >&2; }

# Install Debian packages if the user is root; otherwise print the names of the packages.
system_packages() {
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        log "installing $* from the system's package manager"
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } < /dev/null > /dev/null 2>&1 && return
    fi
    log "please install $* with the system's package manager (Debian's names)"
    return 1
}

fitting() { "$1" -c 'import ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2> /dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.10 python3 python3.13}; do
        if fitting "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    log "Python 3.10 to 3.13 with venv is needed; name it in the variable PYTHON (Debian: python3-venv)"
    return 1
}

# Building pyliblzfse, a dependency of nerfstudio without a wheel, needs a C compiler and Python's headers.
ensure_compiler() {
    local header
    header="$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"
    command -v cc > /dev/null || system_packages gcc libc6-dev
    [ -e "$header" ] || system_packages "$("$1" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')"
}

# ns-export and the exporters import open3d, which needs window system libraries even without a window.
ensure_open3d() {
    "$1" -c 'import open3d' 2> /dev/null && return
    system_packages libgl1 libegl1 libx11-6 libgomp1 libusb-1.0-0 libudev1 || true
    "$1" -c 'import open3d' > /dev/null || log "open3d does not load: ns-export will fail, all else works"
}

venv="${NOPE_SPLAT_VENV:-$PWD/.venv}"
state="$(cat pyproject.toml; pwd)"
if [ "$(cat "$venv/installed-for" 2> /dev/null)" != "$state" ]; then
    python="$(find_python)"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    ensure_compiler "$venv/bin/python"
    log "installing into $venv; the first time takes some minutes and 9 GB"
    "$venv/bin/python" -m pip install --quiet --editable ".[dev]" < /dev/null
    ensure_open3d "$venv/bin/python"
    echo "$state" > "$venv/installed-for"
fi
PATH="$venv/bin:$PATH"
