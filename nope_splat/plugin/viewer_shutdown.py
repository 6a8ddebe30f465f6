"""Stop nerfstudio's viewer at the end of a training run, and release its memory."""

from __future__ import annotations

import threading
from typing import Any

from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer import Viewer

RENDERING_TIMEOUT = 5.0
"""Maximum time in seconds to wait, per browser, until a rendering in progress has ended."""


def stop_viewer(viewer: Viewer) -> None:
    """Disconnect all browsers, stop the rendering threads and release the pipeline.

    After viser's `stop`, the daemon thread of its event loop still refers to the viewer. Therefore the
    viewer's references to pipeline and trainer are removed, so that their memory is free for another training
    run in this process.

    Args:
        viewer: The viewer, which cannot be used afterwards.
    """
    # The viewer does not list renderers of disconnected browsers, which may still be rendering.
    threads = (thread for thread in threading.enumerate() if isinstance(thread, RenderStateMachine))
    renderers = [renderer for renderer in threads if renderer.viewer is viewer]
    for renderer in renderers:
        renderer.running = False
    for renderer in renderers:
        renderer.join(RENDERING_TIMEOUT)
    viewer.viser_server.stop()
    released: Any = viewer  # nerfstudio's annotations exclude None
    released.pipeline = released.trainer = None
