"""A browser for the viewer that looks at the scene and waits for one picture."""

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

REPEAT = 3.0
"""Seconds after which the browser asks again."""
GRACE = 2.0
"""Seconds before it leaves. A camera that is read after its browser has gone is an error in nerfstudio, which
leaves a lock of viser closed, and neither viewer nor training ends."""


def wait_for_picture(port: int, process: subprocess.Popen[Any], seconds: float) -> NDArray[np.uint8] | None:
    """Connect to a viewer on this machine, perhaps before it runs, and look from where a camera may be.

    Args:
        port: Of the viewer.
        process: That of the viewer; without it there is nothing to wait for.
        seconds: How long to wait.

    Returns:
        The first picture that shows something (H, W, 3), or None if there was none in time.
    """
    end = time.monotonic() + seconds

    def is_worth_waiting() -> bool:
        return process.poll() is None and time.monotonic() < end

    while is_worth_waiting():
        try:
            with connect(f"ws://127.0.0.1:{port}", max_size=None, open_timeout=30) as connection:
                return _read_pictures(connection, is_worth_waiting)
        except (OSError, TimeoutError, ConnectionClosed):
            time.sleep(0.3)
    return None


def _read_pictures(
    connection: ClientConnection, is_worth_waiting: Callable[[], bool]
) -> NDArray[np.uint8] | None:
    asked = 0.0
    while is_worth_waiting():
        if time.monotonic() - asked > REPEAT:  # the viewer passes over what comes before it is ready
            asked = time.monotonic()
            _look(connection)
        try:
            data = connection.recv(timeout=1.0)
        except TimeoutError:
            continue
        assert isinstance(data, bytes), "viser sends no text"
        received = msgspec.msgpack.decode(data)
        for message in received if isinstance(received, list) else received.get("messages", [received]):
            if message["type"] == BackgroundImageMessage.__name__:
                picture = np.asarray(Image.open(io.BytesIO(message["rgb_bytes"])).convert("RGB"))
                if picture.std() > 5:
                    time.sleep(GRACE)
                    return picture
    return None


def _look(connection: ClientConnection) -> None:
    camera: Any = ViewerCameraMessage((1, 0, 0, 0), (0, 0, 0), 0.8, 1.3, (0, 0, 1), (0, -1, 0))
    connection.send(msgspec.msgpack.encode(camera.as_serializable_dict()))
