"""Test that a stopped viewer releases browsers, renderer and model."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fixtures.splat_scene import make_pipeline, set_to_truth
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer import Viewer
from viser._messages import ViewerCameraMessage
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from nope_splat.plugin.viewer_shutdown import stop_viewer


def make_viewer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Viewer:
    """Create a viewer of a tiny scene like in a training."""
    pipeline = make_pipeline(folder, monkeypatch)
    set_to_truth(pipeline)
    settings, lock = ViewerConfig(websocket_host="127.0.0.1"), threading.Lock()
    lock_of_training: Any = lock  # nerfstudio's annotation is wrong
    viewer = Viewer(settings, folder / "run" / "viewer.log", folder, pipeline, train_lock=lock_of_training)
    viewer.init_scene(pipeline.datamanager.train_dataset, "training", pipeline.datamanager.eval_dataset)
    return viewer


@contextmanager
def browser_of(viewer: Viewer) -> Iterator[ClientConnection]:
    """Connect like a browser, and wait for a rendering."""
    with connect(f"ws://127.0.0.1:{viewer.viser_server.get_port()}", max_size=None) as browser:
        camera = ViewerCameraMessage((1, 0, 0, 0), (0, 0, -3), 0.8, 1.3, (0, 0, 0), (0, -1, 0))
        browser.send(msgspec.msgpack.encode(camera.as_serializable_dict()))
        while not any(renderer.output_keys for renderer in viewer.render_statemachines.values()):
            time.sleep(0.01)
        yield browser


def read_on(browser: ClientConnection) -> None:
    """Read messages of the viewer forever."""
    while True:
        browser.recv()


@pytest.mark.parametrize("browser", ["none", "open", "closed"])
def test_browsers_are_disconnected_and_the_model_is_released(
    browser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = make_viewer(tmp_path, monkeypatch)
    references = [weakref.ref(viewer.pipeline), weakref.ref(viewer.pipeline.model)]
    if browser == "closed":
        with browser_of(viewer):
            pass
        while viewer.render_statemachines:
            time.sleep(0.01)
    with browser_of(viewer) if browser == "open" else nullcontext() as connection:
        stop_viewer(viewer)
        if connection is not None:
            with pytest.raises(ConnectionClosed):
                read_on(connection)
    assert not any(isinstance(thread, RenderStateMachine) for thread in threading.enumerate())
    deadline = time.monotonic() + 20  # threads of closed connections may still end
    while any(reference() is not None for reference in references) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    assert [reference() for reference in references] == [None, None]


def test_a_lock_that_an_ended_thread_holds_does_not_delay_the_stop_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Viser keeps the lock if sending a message fails, and further messages wait for it."""
    monkeypatch.setattr("nope_splat.plugin.viewer_shutdown.STOP_TIMEOUT", 0.5)
    viewer = make_viewer(tmp_path, monkeypatch)
    server: Any = viewer.viser_server
    server._websock_server._atomic_lock.acquire()
    viewer.viser_server.gui.add_markdown("another message")
    stopping = threading.Thread(target=stop_viewer, args=(viewer,), daemon=True)
    stopping.start()
    stopping.join(20)
    assert not stopping.is_alive()
