"""A minimal client of the viewer, which sets a camera and waits for an image."""

from __future__ import annotations

import io
import subprocess
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from viser._messages import BackgroundImageMessage, ViewerCameraMessage
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

REQUEST_INTERVAL = 3.0
"""Seconds between requests for an image."""
DISCONNECT_DELAY = 2.0
"""Seconds before the client disconnects. If nerfstudio reads a camera of a disconnected client, it raises an
error that leaves a lock of viser held, so that neither the viewer nor the training ends."""


def wait_for_image(port: int, process: subprocess.Popen[Any], seconds: float) -> NDArray[np.uint8] | None:
    """Connect to a local viewer, as soon as it runs, and request an image.

    Args:
        port: Port of the viewer.
        process: Process of the viewer. Waiting ends when it exits.
        seconds: Timeout.

    Returns:
        The first image with visible content (H, W, 3), or None after the timeout.
    """
    end = time.monotonic() + seconds

    def keep_waiting() -> bool:
        return process.poll() is None and time.monotonic() < end

    while keep_waiting():
        try:
            with connect(f"ws://127.0.0.1:{port}", max_size=None, open_timeout=30) as connection:
                return _receive_image(connection, keep_waiting)
        except (OSError, TimeoutError, ConnectionClosed):
            time.sleep(0.3)
    return None


def _receive_image(
    connection: ClientConnection, keep_waiting: Callable[[], bool]
) -> NDArray[np.uint8] | None:
    last_request = 0.0
    while keep_waiting():
        if (
            time.monotonic() - last_request > REQUEST_INTERVAL
        ):  # the viewer ignores requests before it is ready
            last_request = time.monotonic()
            _send_camera(connection)
        try:
            data = connection.recv(timeout=1.0)
        except TimeoutError:
            continue
        assert isinstance(data, bytes), "viser sends no text"
        decoded = msgspec.msgpack.decode(data)
        for message in decoded if isinstance(decoded, list) else decoded.get("messages", [decoded]):
            if message["type"] == BackgroundImageMessage.__name__:
                image = np.asarray(Image.open(io.BytesIO(message["rgb_bytes"])).convert("RGB"))
                if image.std() > 5:
                    time.sleep(DISCONNECT_DELAY)
                    return image
    return None


def _send_camera(connection: ClientConnection) -> None:
    camera: Any = ViewerCameraMessage((1, 0, 0, 0), (0, 0, 0), 0.8, 1.3, (0, 0, 1), (0, -1, 0))
    connection.send(msgspec.msgpack.encode(camera.as_serializable_dict()))
