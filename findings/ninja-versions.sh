#!/usr/bin/env bash
# ninja 1.11 builds everything again that ninja 1.13 has built, and the other way round.
#
# Expected:  a second ninja finds nothing to do in a folder that is up to date, whatever its version.
# Happens:   .ninja_log holds a hash of every command, and 1.13 computes it in another way. 1.11 reads the log
#            (its first line says "v7") without a word, and takes all commands for changed. 1.13 reads that of
#            1.11 ("v5"), says that it is too old, and starts over.
# Means:     PyPI's ninja is on PATH if its environment is activated, Debian's (1.11) if it is not. torch runs
#            whichever comes first, at every start of a program that uses gsplat's kernels, and in 25 files of
#            gsplat that is 40 minutes of compiling on one core. So we always run PyPI's.
#
# Versions:  ninja 1.11.1.4 and 1.13.0 from PyPI.
# Takes:     seconds.

set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for version in 1.11.1.4 1.13.0; do
    "${PYTHON:-python3}" -m venv "$version"
    "$version/bin/pip" install --quiet "ninja==$version"
done

printf 'rule copy\n  command = cp $in $out\nbuild copied: copy original\n' > build.ninja
echo text > original

build() {
    echo "ninja $1: $("$1/bin/ninja" 2>&1 | tr '\n' ' ')"
}

failed=0
for versions in "1.13.0 1.11.1.4" "1.11.1.4 1.13.0"; do
    read -r first second <<< "$versions"
    rm -f copied .ninja_log
    build "$first" > /dev/null
    again="$(build "$first")"
    other="$(build "$second")"
    printf '%s\n%s\n' "$again" "$other"
    [[ "$again" == *"no work to do"* && "$other" != *"no work to do"* ]] || failed=1
done
[ "$failed" = 0 ] || echo "this is no longer what was found"
exit "$failed"
