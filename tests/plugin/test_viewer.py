"""Test nerfstudio's viewer in a real browser while `ns-train nope-splat` runs, and with `ns-viewer`.

- Both listen only on 127.0.0.1, and print their address.
- The page connects and shows our panel, and its canvas shows the splat.
- Its background color does not affect training.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WINDOW = (1000, 700)
CANVAS = (slice(100, 500), slice(20, 640))
"""Rows and columns of the window that the scene covers."""

PANEL = torch.tensor([38, 42, 55]) / 255
"""Background color of nerfstudio's viewer."""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@contextmanager
def running(command: list[str], log: Path) -> Iterator[psutil.Process]:
    """Run a process, and kill it with its children at the end."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        try:
            yield psutil.Process(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    """Poll for a true value until a timeout; a refused connection counts as false."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            value = condition()
        except OSError:
            value = None
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.5)


class Page:
    """A browser page controlled through the DevTools protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._count = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its result."""
        self._count += 1
        self._connection.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            answer = json.loads(self._connection.recv())
            if answer.get("id") == self._count:
                return answer["result"]

    def text(self) -> str:
        """Return all text on the page."""
        result = self.call("Runtime.evaluate", expression="document.body ? document.body.innerText : ''")
        return result["result"]["value"]

    def screenshot(self) -> NDArray[np.uint8]:
        """Capture the page. (H, W, 3)."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@contextmanager
def open_page(url: str, folder: Path) -> Iterator[Page]:
    """Open a page in headless Chromium, with WebGL in software."""
    profile = folder / "chromium"
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        f"--window-size={WINDOW[0]},{WINDOW[1]}",
        "about:blank",
    ]
    with running(command, folder / "chromium.log"):
        port = wait_for(lambda: (profile / "DevToolsActivePort").read_text().split()[:1], 60)[0]
        targets = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/json").read())
        target = next(candidate for candidate in targets if candidate["type"] == "page")
        with connect(target["webSocketDebuggerUrl"], max_size=None) as connection:
            page = Page(connection)
            page.call("Page.navigate", url=url)
            yield page


@dataclass
class Serving:
    """A process that serves a viewer."""

    process: psutil.Process
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Address of the viewer."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(command: str, folder: Path, *arguments: object) -> Iterator[Serving]:
    """Run a command of nerfstudio until its viewer serves the page, and kill it at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name(command)
    options = [*map(str, arguments), "--viewer.websocket-port", str(port)]
    log = folder / f"{command}.log"
    with running([sys.executable, str(program), *options], log) as process:
        viewer = Serving(process, port, log)
        assert wait_for(lambda: urllib.request.urlopen(viewer.url).status == 200, 180), log.read_text()[
            -2000:
        ]
        yield viewer


def check_local(viewer: Serving) -> None:
    """Check that a process listens on this machine only, and prints the address and how to tunnel to it."""
    processes = [viewer.process, *viewer.process.children(recursive=True)]
    sockets = [socket for process in processes for socket in process.net_connections("inet")]
    listening = {socket.laddr for socket in sockets if socket.status == psutil.CONN_LISTEN}
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert viewer.port in {address.port for address in listening}
    tunnel = f"ssh -L {viewer.port}:localhost:{viewer.port} USER@HOST"
    assert wait_for(lambda: tunnel in viewer.log.read_text(), 60), viewer.log.read_text()[-2000:]
    assert viewer.url in viewer.log.read_text()


def check_page(viewer: Serving, folder: Path) -> None:
    """Check that the page shows the panel and the splat."""
    with open_page(viewer.url, folder) as page:

        def has_picture() -> bool:
            canvas = page.screenshot()[CANVAS]
            return bool((canvas.std(axis=(0, 1)) > 10).all())

        assert wait_for(lambda: "Focal length" in page.text(), 90), page.text()
        visible = wait_for(has_picture, 90)
        Image.fromarray(page.screenshot()).save(folder / "viewer.png")
        assert visible, f"the canvas is blank: {folder / 'viewer.png'}"


@pytest.fixture(scope="module")
def training(valley: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A training; after its end, the viewer stays open."""
    folder = tmp_path_factory.mktemp("training")
    options = ["--output-dir", folder / "outputs", "--max-num-iterations", 100, "--vis", "viewer"]
    with serving("ns-train", folder, "nope-splat", "--data", valley, *options) as viewer:
        yield viewer


def finished_run(training: Serving) -> Path:
    """Wait for the end of the training, and return the folder of its run."""
    folder = training.log.parent / "outputs"
    (checkpoint,) = wait_for(lambda: list(folder.rglob("step-000000099.ckpt")), 300)
    return checkpoint.parents[1]


def test_training_listens_on_this_machine_only(training: Serving) -> None:
    check_local(training)


@needs_chromium
def test_viewer_shows_the_splat(training: Serving, tmp_path: Path) -> None:
    check_page(training, tmp_path)
    (checkpoint,) = (finished_run(training) / "nerfstudio_models").iterdir()
    color = torch.load(checkpoint, weights_only=True)["pipeline"]["_model.background_color"]
    assert (color - PANEL).abs().max() > 0.1


def test_ns_viewer_listens_on_this_machine_only(training: Serving, tmp_path: Path) -> None:
    with serving("ns-viewer", tmp_path, "--load-config", finished_run(training) / "config.yml") as viewer:
        check_local(viewer)
        if CHROMIUM is not None:
            check_page(viewer, tmp_path)
