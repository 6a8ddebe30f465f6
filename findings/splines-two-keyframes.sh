#!/usr/bin/env bash
# A camera path of exactly two keyframes fails with splines 0.3.0 and numpy 2.2 or later; one of three works.
#
# Expected:  splines.quaternion.KochanekBartels interpolates two rotations as it interpolates three, with any
#            numpy that it can be installed with (it has no upper limit).
# Happens:   With two rotations and natural end conditions, splines tests the truth value of an empty array.
#            numpy 2.1 answers False with a DeprecationWarning, numpy 2.2 and later raise ValueError. With three
#            rotations the array is not empty.
# Means:     nerfstudio 1.1.5 depends on splines and, through nuscenes-devkit, on any numpy, and builds its camera
#            path with this class. The path in the viewer therefore fails as soon as the second keyframe is added,
#            and works again after the third.
#
# Versions:  splines 0.3.0 with numpy 2.1.3, 2.2.6 and 2.4.6 from PyPI, Python 3.11.
# Takes:     seconds.

set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > path.py <<'PYTHON'
import sys
import warnings

import numpy as np
from splines.quaternion import KochanekBartels, UnitQuaternion

warnings.simplefilter("ignore")
angles = np.linspace(0, 0.4, int(sys.argv[1]))
rotations = [UnitQuaternion.from_unit_xyzw(np.array([0, 0, np.sin(angle), np.cos(angle)])) for angle in angles]
try:
    middle = KochanekBartels(rotations, tcb=(0, 0, 0), endconditions="natural").evaluate((len(angles) - 1) / 2)
    print(f"a rotation by {np.degrees(2 * np.arccos(middle.scalar)):.1f} degrees in the middle")
except ValueError as error:
    print(f"ValueError: {error}")
PYTHON

"${PYTHON:-python3}" -m venv environment
failed=0
for numpy in 2.1.3 2.2.6 2.4.6; do
    environment/bin/pip install --quiet "splines==0.3.0" "numpy==$numpy"
    two="$(environment/bin/python path.py 2)"
    three="$(environment/bin/python path.py 3)"
    printf 'numpy %s, two keyframes: %s\nnumpy %s, three keyframes: %s\n' "$numpy" "$two" "$numpy" "$three"
    [[ "$three" == "a rotation by 22.9 degrees"* ]] || failed=1
    case "$numpy" in
        2.1.3) [[ "$two" == "a rotation by 22.9 degrees"* ]] || failed=1 ;;
        *) [[ "$two" == ValueError* ]] || failed=1 ;;
    esac
done
[ "$failed" = 0 ] || echo "this is no longer what was found"
exit "$failed"
