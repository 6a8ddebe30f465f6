"""The end of nerfstudio's viewer, such that nothing of it outlives the training."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import suppress

from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer import Viewer

PATIENCE = 1.0
"""Seconds for browsers to say goodbye, and for a rendering to end."""


def stop_viewer(viewer: Viewer) -> None:
    """Send the browsers away and end the threads of the viewer.

    viser's own `stop` leaves the event loop of its server running, in a thread that holds all that callbacks
    hold: the trainer, the images and the model.

    Args:
        viewer: Not to be used any more.
    """
    renderers = _renderers(viewer)
    for renderer in renderers:
        renderer.running = False
    server = viewer.viser_server._websock_server
    loop, sockets = server._broadcast_buffer.event_loop, server._ws_server
    assert sockets is not None

    async def close() -> threading.Thread:
        sockets.close()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(sockets.wait_closed(), PATIENCE)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        return threading.current_thread()

    # Before its `stop`, which takes away what answers the browsers that are still there.
    thread = asyncio.run_coroutine_threadsafe(close(), loop).result()
    viewer.viser_server.stop()
    for renderer in renderers:
        renderer.join(PATIENCE)
        if not renderer.is_alive():  # compiled code that it has traced, to be interruptible, holds on to it
            del renderer.viewer, renderer.client
    loop.call_soon_threadsafe(loop.stop)
    thread.join(PATIENCE)


def _renderers(viewer: Viewer) -> list[RenderStateMachine]:
    """One for each browser that was ever there; the viewer itself forgets those that have gone."""
    return [
        each
        for each in gc.get_objects()
        if type(each) is RenderStateMachine and getattr(each, "viewer", None) is viewer
    ]
