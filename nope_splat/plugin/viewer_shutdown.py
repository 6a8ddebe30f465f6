"""Stop nerfstudio's viewer at the end of a training."""

from __future__ import annotations

import threading
from typing import Any

from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer import Viewer

RENDERING_TIMEOUT = 5.0
"""Seconds to wait for a rendering in progress."""


def stop_viewer(viewer: Viewer) -> None:
    """Disconnect all browsers, end the renderers and release the pipeline.

    viser's `stop` disconnects the browsers, but leaves its event loop in a daemon thread that refers to the
    viewer. The viewer therefore drops its references to the pipeline and to the trainer, so that a process
    that trains again has memory for the next model.

    Args:
        viewer: The viewer, which cannot be used afterwards.
    """
    # The viewer forgets the renderer of a browser that has left, although it may still be rendering.
    threads = (thread for thread in threading.enumerate() if isinstance(thread, RenderStateMachine))
    renderers = [renderer for renderer in threads if renderer.viewer is viewer]
    for renderer in renderers:
        renderer.running = False
    for renderer in renderers:
        renderer.join(RENDERING_TIMEOUT)
    viewer.viser_server.stop()
    released: Any = viewer  # nerfstudio's annotations exclude None
    released.pipeline = released.trainer = None
