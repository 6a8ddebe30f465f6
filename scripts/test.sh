#!/usr/bin/env bash
# Runs the tests. Arguments are passed to pytest, such as `-m slow` for the slow tests. Creates the environment
# first if it is missing.
source "$(dirname "$0")/environment.sh"
python -m pytest -q -rs "$@" < /dev/null
