#!/usr/bin/env bash
# OpenCV's VideoCapture converts HD video with the matrix of BT.601 even if the file states BT.709.
#
# Expected:  OpenCV and PyAV both decode with FFmpeg, so both read the color (200, 60, 40) from an H.264 file of
#            1280 x 720 pixels that is tagged as BT.709, as nearly all HD video is. Without a tag, both assume
#            BT.709 at this size, as video players do.
# Happens:   PyAV reads (199, 58, 39) from the tagged file; OpenCV reads (186, 46, 41), as from BT.601: red is 14
#            levels too dark, green 14. From the file without a tag, both read the wrong color.
# Means:     Frames that are extracted with OpenCV do not have the colors of photos of the same scene, nor of
#            frames that were extracted with ffmpeg. We decode with PyAV, and pass the matrix of BT.709 for HD
#            video that states none (`nope_splat/io/video.py`).
#
# Versions:  opencv-python-headless 4.11.0.86 and av 18.1.0 with numpy 2.4.6 from PyPI, Python 3.11.
# Takes:     half a minute.

set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > colors.py <<'PYTHON'
import sys

import av
import cv2
import numpy as np

COLOR, SIZE, BT709, LIMITED = np.array([200, 60, 40]), (1280, 720), 1, 1


def write(name, is_tagged):
    red, green, blue = COLOR / 255
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    levels = 16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748
    with av.open(name, "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        context = stream.codec_context
        if is_tagged:
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED
        for _ in range(5):
            frame = av.VideoFrame(*SIZE, "yuv420p")
            for plane, level in zip(frame.planes, levels):
                plane.update(bytes([round(level)]) * (plane.line_size * plane.height))
            if is_tagged:
                frame.colorspace, frame.color_range = BT709, LIMITED
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


errors = {}
for is_tagged in (True, False):
    name = f"tagged-{is_tagged}.mp4"
    write(name, is_tagged)
    with av.open(name) as file:
        by_pyav = next(file.decode(video=0)).to_ndarray(format="rgb24")[360, 640]
    by_opencv = cv2.VideoCapture(name).read()[1][360, 640, ::-1]
    for package, color in (("PyAV", by_pyav), ("OpenCV", by_opencv)):
        errors[package, is_tagged] = np.abs(color.astype(int) - COLOR).max()
        print(f"{package}, {'BT.709 stated' if is_tagged else 'no matrix stated'}: {color} instead of {COLOR}")
right, wrong = errors["PyAV", True], min(value for key, value in errors.items() if key != ("PyAV", True))
sys.exit(not (right <= 3 and wrong >= 10))
PYTHON

"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet opencv-python-headless==4.11.0.86 av==18.1.0 numpy==2.4.6
environment/bin/python colors.py || { echo "this is no longer what was found"; exit 1; }
