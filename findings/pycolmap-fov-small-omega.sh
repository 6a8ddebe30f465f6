#!/usr/bin/env bash
# With pycolmap 4.2.1, the FOV lens projects to other pixels as soon as omega falls below 0.01.
#
# Expected:  Camera.img_from_cam follows r_d = atan(2 r tan(omega / 2)) / omega for all omega (Devernay and
#            Faugeras 2001), with a series only where omega is so small that nobody sees a difference, and
#            cam_from_img is its inverse.
# Happens:   From omega = 0.01 on, both hold to 1e-12 pixels. Below, img_from_cam moves a point at 63 degrees from
#            the axis by 0.49 pixels (omega = 0.0099, focal length 1000): the change has the size and sign of the
#            series of the inverse function. The round trip through cam_from_img misses by as much.
# Means:     A camera with a nearly vanished omega, as bundle adjustment of a lens without distortion produces it,
#            is reprojected worse than one with a larger omega. Our reader of FOV lenses uses the formula for
#            every omega, and its test compares it with pycolmap at omega = 0.6.
#
# Versions:  pycolmap 4.2.1 with numpy 2.4.6 from PyPI, Python 3.11.
# Takes:     half a minute.

set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > fov.py <<'PYTHON'
import sys

import numpy as np
import pycolmap

FOCAL, RADIUS = 1000.0, 2.0
errors = {}
for omega in (0.05, 0.0101, 0.0099, 0.005):
    camera = pycolmap.Camera(model="FOV", width=2000, height=2000, params=[FOCAL, FOCAL, 1000, 1000, omega])
    pixel = np.asarray(camera.img_from_cam(np.array([[RADIUS, 0.0, 1.0]])))
    exact = 1000 + FOCAL * np.arctan(2 * RADIUS * np.tan(omega / 2)) / omega
    back = np.asarray(camera.cam_from_img(pixel))[0][0]
    errors[omega] = pixel[0, 0] - exact
    print(f"omega {omega}: {errors[omega]:+.6f} pixels from the formula, round trip {FOCAL * (back - RADIUS):+.6f} pixels")
large = max(abs(errors[0.05]), abs(errors[0.0101]))
sys.exit(not (large < 1e-9 and 0.4 < errors[0.0099] < 0.6 and 0.1 < errors[0.005] < 0.2))
PYTHON

"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet pycolmap==4.2.1 numpy==2.4.6
environment/bin/python fov.py || { echo "this is no longer what was found"; exit 1; }
