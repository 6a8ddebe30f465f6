#!/usr/bin/env bash
# Turns photos into a Gaussian splat: reconstructs, trains, evaluates on held-out photos and exports.
#
#   bash scripts/demo.sh           on photos of a procedural scene
#   bash scripts/demo.sh PHOTOS    on your own folder of photos
#
# Creates the environment first if it is missing. Results are written to demo/NAME, where NAME is that of the
# folder of photos, or valley for the procedural scene.
photos="${1:+$(realpath "$1")}"
source "$(dirname "$0")/environment.sh"

name=valley
if [ -n "$photos" ]; then
    name="$(basename "${photos%/images}")"
fi
results="$PWD/demo/$name"
SECONDS=0
if [ -z "$photos" ]; then
    photos="$results/photos"
    nope-splat demo-scene --output-dir "$photos"
fi

ns-train nope-splat --data "$photos" --output-dir "$results" --experiment-name training --timestamp latest \
    --vis tensorboard < /dev/null
run="$results/training/nope-splat/latest"
rm -f "$results/evaluation.json"
ns-eval --load-config "$run/config.yml" --output-path "$results/evaluation.json" \
    --render-output-path "$results/held-out" < /dev/null ||
    log "not evaluated"  # if no photo was held out; ns-eval has printed the reason
ns-export gaussian-splat --load-config "$run/config.yml" --output-dir "$results" < /dev/null

python -m scripts.benchmark.summarize --data "$photos" --results "$results" --seconds "$SECONDS"
