"""Test who can reach the viewer, and which files it reads and writes.

All connections are on 127.0.0.1, and all files are harmless markers.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import msgspec
import psutil
import pytest
import viser
from fixtures.splat_scene import make_pipeline, set_to_truth
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.viewer import Viewer
from viser._messages import GuiUpdateMessage, ViewerCameraMessage
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from nope_splat.plugin.config import nope_splat
from nope_splat.plugin.viewer_access import (
    SAVE_BUTTON,
    confine,
    listening_host,
    log_address,
    restrict_viewers,
)
from nope_splat.plugin.viewer_shutdown import stop_viewer

MARKER = b"marker outside of the viewer's folder"
PAGE = Path(viser.__file__).parent / "client" / "build"
"""viser's own folder."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the scene and of the run."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def viewer(root: Path) -> Iterator[Viewer]:
    """A viewer with nerfstudio's defaults, as `ns-viewer` creates it."""
    with pytest.MonkeyPatch.context() as patch:
        pipeline = make_pipeline(root / "scene", patch)
        set_to_truth(pipeline)
        viewer = Viewer(ViewerConfig(), root / "run" / "viewer.log", root / "scene", pipeline)
        viewer.init_scene(pipeline.datamanager.train_dataset, "completed", pipeline.datamanager.eval_dataset)
        yield viewer
        stop_viewer(viewer)


def get(viewer: Viewer, path: str, **headers: str) -> tuple[int, bytes]:
    """Request a path without normalizing it. Returns status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", viewer.viser_server.get_port(), timeout=10)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response.status, response.read()


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


# The address.


def test_the_default_of_nerfstudio_listens_on_this_machine_only(viewer: Viewer) -> None:
    port = viewer.viser_server.get_port()
    sockets = [socket for socket in psutil.Process().net_connections("inet") if socket.status == "LISTEN"]
    assert {socket.laddr.ip for socket in sockets if socket.laddr.port == port} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("config", "in_training", "options", "host"),
    [
        (nope_splat.config.viewer, True, "", "127.0.0.1"),
        (ViewerConfig(websocket_host="0.0.0.0"), True, "", "0.0.0.0"),
        (ViewerConfig(), False, "", "127.0.0.1"),
        (ViewerConfig(), False, "--viewer.websocket-port 7008", "127.0.0.1"),
        (ViewerConfig(), False, "--viewer.websocket-host 0.0.0.0", "0.0.0.0"),
        (ViewerConfig(), False, "--viewer.websocket_host=0.0.0.0", "0.0.0.0"),
        (ViewerConfig(websocket_host="192.0.2.1"), False, "", "192.0.2.1"),
    ],
)
def test_only_the_user_opens_the_viewer_to_the_network(
    config: ViewerConfig, in_training: bool, options: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ns-viewer", "--load-config", "config.yml", *options.split()])
    assert listening_host(config, in_training) == host


@pytest.mark.parametrize(
    ("host", "shared", "level"),
    [
        ("127.0.0.1", False, logging.INFO),
        ("127.0.0.2", False, logging.INFO),
        ("localhost", False, logging.INFO),
        ("::1", False, logging.INFO),
        ("127.0.0.1", True, logging.WARNING),
        ("0.0.0.0", False, logging.WARNING),
        ("192.0.2.1", False, logging.WARNING),
        ("", False, logging.WARNING),
        ("workstation", False, logging.WARNING),
    ],
)
def test_an_open_viewer_is_a_warning(
    host: str, shared: bool, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    log_address(host, 7007, "http://viewer", shared)
    (record,) = caplog.records
    assert record.levelno == level
    assert "ssh -L 7007:localhost:7007 USER@HOST" in record.message
    if level == logging.WARNING:
        for consequence in ("photos", "control", "other files", "--viewer.websocket-host"):
            assert consequence in record.message


def test_viewers_of_other_methods_keep_their_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restrict_viewers()
    server = MagicMock(side_effect=InterruptedError)
    monkeypatch.setattr(viser, "ViserServer", server)
    with pytest.raises(InterruptedError):
        Viewer(ViewerConfig(websocket_port=7007), tmp_path / "viewer.log", tmp_path, MagicMock())
    assert server.call_args.kwargs == {"host": "0.0.0.0", "port": 7007}


# Requests for files.


def test_the_page_is_served(viewer: Viewer) -> None:
    assert get(viewer, "/") == (200, (PAGE / "index.html").read_bytes())
    script = next((PAGE / "assets").glob("*.js"))
    assert get(viewer, f"/assets/{script.name}?version=1") == (200, script.read_bytes())
    assert get(viewer, "/robots.txt") == (200, (PAGE / "robots.txt").read_bytes())


def test_no_file_outside_of_the_page_is_served(viewer: Viewer, root: Path) -> None:
    marker = root / "marker.txt"
    marker.write_bytes(MARKER)
    relative = Path(os.path.relpath(marker, PAGE)).as_posix()
    for path in (f"/{relative}", f"/assets/../{relative}", f"/{relative}?version=1", "/..", "/missing.txt"):
        assert get(viewer, path) == (404, b"404"), path
        assert get(viewer, path, **{"Accept-Encoding": "gzip"}) == (404, b"404"), path
    status, body = get(viewer, f"/{marker}")
    assert status != 200
    assert MARKER not in body


def test_only_the_own_page_connects(viewer: Viewer) -> None:
    port = viewer.viser_server.get_port()
    for origin in ("http://example.com", f"http://example.com:{port}", "http://127.0.0.1:1", "null"):
        with pytest.raises(InvalidStatus) as refusal, connect(f"ws://127.0.0.1:{port}", origin=origin):  # pyright: ignore[reportArgumentType]
            pass
        assert refusal.value.response.status_code == 403
        assert get(viewer, "/", Origin=origin)[0] == 403
    for name in ("127.0.0.1", "localhost"):  # in the address bar, also through a tunnel
        with connect(f"ws://{name}:{port}", origin=f"http://{name}:{port}", max_size=None):  # pyright: ignore[reportArgumentType]
            pass


# Names of files.


class Browser:
    """A connected browser that uses the render panel."""

    def __init__(self, connection: ClientConnection, viewer: Viewer) -> None:
        self._connection = connection
        handles = viewer.viser_server.gui._gui_input_handle_from_id.values()
        self._handles = {
            handle._impl.label: handle for handle in reversed(handles)
        }  # the first of each label

    def send(self, message: Any) -> None:
        """Send a message of viser."""
        self._connection.send(msgspec.msgpack.encode(message.as_serializable_dict()))

    def set(self, label: str, value: Any) -> None:
        """Set the value of an input, or click a button."""
        self.send(GuiUpdateMessage(self._handles[label]._impl.id, {"value": value}))

    def save_path(self, name: str) -> None:
        """Save a camera path under a name."""
        self.set("Render name", name)
        assert wait_for(lambda: self._handles["Render name"].value == name)
        self.set(SAVE_BUTTON, True)

    def wait_for(self, text: str) -> None:
        """Read messages until one contains the text."""
        while text.encode() not in self._connection.recv(timeout=20, decode=False):
            pass


@pytest.fixture
def browser(viewer: Viewer) -> Iterator[Browser]:
    with connect(f"ws://127.0.0.1:{viewer.viser_server.get_port()}", max_size=None) as connection:
        browser = Browser(connection, viewer)
        browser.send(ViewerCameraMessage((1, 0, 0, 0), (0, 0, -3), 0.8, 1.3, (0, 0, 0), (0, -1, 0)))
        assert wait_for(viewer.viser_server.get_clients)
        yield browser


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_camera_paths_are_saved_in_the_folder_of_the_run(browser: Browser, root: Path) -> None:
    before = files(root)
    browser.save_path("flight")
    browser.wait_for("ns-render camera-path")
    assert files(root) - before == {"run/camera_paths/flight.json"}
    assert json.loads((root / "run" / "camera_paths" / "flight.json").read_text())["camera_path"] == []
    assert not (root / "scene" / "camera_paths").exists()


def test_names_cannot_leave_the_folder_of_the_run(
    browser: Browser, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = files(root)
    for name in ("../../marker", "../../scene/marker", "new/../../../marker", f"{root}/marker"):
        caplog.clear()
        browser.save_path(name)
        browser.wait_for("The camera path was not saved")
        assert files(root) == before
        (message,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert str(root / "run") in message


def test_confined_paths_are_checked_when_they_are_used(tmp_path: Path) -> None:
    (tmp_path / "marker.txt").write_bytes(MARKER)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "inside.txt").write_text("inside")
    (folder / "link.txt").symlink_to(tmp_path / "marker.txt")
    confined = confine(folder)
    assert (confined / "inside.txt").read_text() == "inside"
    assert (confined / "link.txt").read_bytes() == MARKER
    for path in (
        confined.parent / "marker.txt",
        confined / "../marker.txt",
        confined / tmp_path / "marker.txt",
    ):
        assert not path.exists()
        with pytest.raises(FileNotFoundError, match="outside"):
            path.read_bytes()
        with pytest.raises(FileNotFoundError, match="outside"), path.open("wb"):
            pass
    assert (tmp_path / "marker.txt").read_bytes() == MARKER
