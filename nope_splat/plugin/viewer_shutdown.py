"""Stop nerfstudio's viewer at the end of a training run, and release its memory."""

from __future__ import annotations

import threading
from typing import Any

from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer import Viewer
from viser import ViserServer

RENDERING_TIMEOUT = 5.0
"""Maximum time in seconds to wait, per browser, until a rendering in progress has ended."""
STOP_TIMEOUT = 10.0
"""Maximum time in seconds to wait until viser has sent its last messages."""


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
    _stop_server(viewer.viser_server)
    released: Any = viewer  # nerfstudio's annotations exclude None
    released.pipeline = released.trainer = None


def _stop_server(server: ViserServer) -> None:
    """Stop viser's server, even if a thread has ended without releasing one of viser's locks.

    viser 0.2.7 does not release the lock of a connection if sending a message raises an exception. Threads
    that send further messages then wait forever for the lock. viser's `stop`, and Python at exit, would wait
    forever for these threads.
    """
    connections = [getattr(client, "_websock_connection", None) for client in server.get_clients().values()]
    senders = [getattr(server, "_websock_server", None), *connections]
    stopping = threading.Thread(target=server.stop, daemon=True)
    stopping.start()
    stopping.join(STOP_TIMEOUT)
    for sender in senders if stopping.is_alive() else ():
        lock = getattr(sender, "_atomic_lock", None)
        if lock is not None and lock.locked():
            lock.release()
    stopping.join(STOP_TIMEOUT)
