#!/usr/bin/env bash
# Runs the tests; arguments go to pytest (`-m slow` for the slow ones). Sets everything up on a fresh machine.
source "$(dirname "$0")/environment.sh"
python -m pytest -q -rs "$@" < /dev/null
