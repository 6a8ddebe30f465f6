"""Restrict nerfstudio's viewer to this machine, to its own page and to its own files.

nerfstudio opens its viewer to the network by default, without a password. The web server of the viser version
that nerfstudio requires answers requests for any file, and a browser chooses the names of the files that the
viewer writes. Neither package has a hook before the port opens, so `restrict_viewers` wraps three functions:
the constructors of nerfstudio's two viewers, and `start` of viser's server.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.viewer import Viewer
from nerfstudio.viewer_legacy.server.viewer_state import ViewerLegacyState
from viser import GuiEvent, ViserServer
from viser.infra import WebsockServer

from nope_splat.plugin.datamanager import NopeDataManager

logger = logging.getLogger(__name__)

THIS_MACHINE = "127.0.0.1"
"""Address that no other machine can reach."""
HOST_OPTION = "--viewer.websocket-host"
SAVE_BUTTON = "Generate Command"
"""Label of nerfstudio's buttons; the one of the render panel saves the camera path first."""


@functools.cache  # wraps only once
def restrict_viewers() -> None:
    """Restrict all viewers of this process that show a run of this package.

    Viewers of other methods keep nerfstudio's defaults, except that viser's server serves only its own page,
    and accepts connections only from it.
    """
    _wrap_constructor(Viewer)
    _wrap_constructor(ViewerLegacyState)
    start = WebsockServer.start

    @functools.wraps(start)
    def start_restricted(self: WebsockServer) -> None:
        root = self._http_server_root
        if root is None:  # it serves no page
            start(self)
            return
        self._http_server_root = confine(root)
        start(self)
        _refuse_other_pages(self._ws_server)

    WebsockServer.start = start_restricted


def _wrap_constructor(viewer_class: Any) -> None:
    """Let viewers of our runs open on the chosen address, and save their files in the run's folder."""
    construct = viewer_class.__init__

    @functools.wraps(construct)
    def construct_restricted(
        self: Any, config: ViewerConfig, log_filename: Path, datapath: Path, pipeline: Any, **options: Any
    ) -> None:
        if not isinstance(pipeline.datamanager, NopeDataManager):
            construct(self, config, log_filename, datapath, pipeline, **options)
            return
        host = listening_host(config, in_training=options.get("trainer") is not None)
        config = replace(config, websocket_host=host)
        # nerfstudio saves camera paths in the folder of the photos.
        construct(self, config, log_filename, confine(log_filename.parent), pipeline, **options)
        if isinstance(self.viser_server, ViserServer):
            _report_refused_names(self.viser_server)
            port = self.viser_server.get_port()
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        else:  # the legacy viewer, whose page is elsewhere
            port, url = self.viser_server._ws_server._port, self.viewer_url
        log_address(host, port, url, shared=options.get("share", False))

    viewer_class.__init__ = construct_restricted


def listening_host(config: ViewerConfig, in_training: bool) -> str:
    """Choose the address on which a viewer listens.

    `ns-viewer` ignores the settings of the run. Its own default is all addresses, which only the command line
    distinguishes from the user's choice.

    Args:
        config: Settings of the viewer.
        in_training: Whether it belongs to a training, whose settings have a default of this package.

    Returns:
        The address of the settings if the user chose it, and that of this machine otherwise.
    """
    chosen = any(argument.replace("_", "-").startswith(HOST_OPTION) for argument in sys.argv)
    if in_training or chosen or config.websocket_host != ViewerConfig().websocket_host:
        return config.websocket_host
    return THIS_MACHINE


def log_address(host: str, port: int, url: str, shared: bool) -> None:
    """Log where the viewer is, and who can reach it.

    Args:
        host: Address on which it listens.
        port: Its port.
        url: Address of its page on this machine.
        shared: Whether it also has a public URL.
    """
    tunnel = f"`ssh -L {port}:localhost:{port} USER@HOST`"
    if _is_local(host) and not shared:
        logger.info(
            f"The viewer is at {url}, for this machine only; to open it on another machine, run {tunnel}"
            " there."
        )
        return
    logger.warning(
        f"The viewer on port {port} of {host} is open to {'the internet' if shared else 'the network'}"
        " without a password: anyone who connects can see the photos, steer the training and, with this"
        " version of viser, possibly read other files of yours. To view it privately, set"
        f" {HOST_OPTION} to {THIS_MACHINE}, leave out --viewer.make-share-url, and run"
        f" {tunnel} on the other machine."
    )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def confine(folder: Path) -> Path:
    """Make a path of which only files inside the folder can be used.

    viser and nerfstudio append names that a browser sends. Paths made from the result are confined, too, and
    the check is made whenever the file system is accessed. Symbolic links inside the folder are followed:
    a browser cannot create any, and some package managers install files as links.

    Args:
        folder: An existing or future folder.

    Returns:
        The absolute path of the folder. A path that leaves it looks like a missing file.
    """
    path: Any = type(folder)  # the class of paths on this operating system
    root = folder.resolve()

    class ConfinedPath(path):
        def __fspath__(self) -> str:
            if ".." in self.parts or not self.is_relative_to(root):
                reason = f"the viewer uses no files outside of {root}"
                raise FileNotFoundError(errno.ENOENT, reason, str(self))
            return super().__fspath__()

    return ConfinedPath(root)


def _refuse_other_pages(server: Any) -> None:
    """Refuse connections from pages of other servers, because browsers allow them even to this machine.

    Args:
        server: A server of the library `websockets`.
    """
    register = server.register

    def register_restricted(connection: Any) -> None:
        process = connection.process_request

        async def process_own_page(path: str, headers: Any) -> Any:
            origin = headers.get("Origin")  # only browsers send it
            if origin is not None and urlsplit(origin).netloc != headers.get("Host"):
                return HTTPStatus.FORBIDDEN, {}, b"403"
            return await process(path, headers)

        connection.process_request = process_own_page
        register(connection)

    server.register = register_restricted


def _report_refused_names(server: ViserServer) -> None:
    """Tell the user, in the browser and in the log, why a camera path was not saved."""

    def reporting(save: Callable[[GuiEvent], None]) -> Callable[[GuiEvent], None]:
        def save_or_report(event: GuiEvent) -> None:
            try:
                save(event)
            except OSError as error:
                logger.warning(f"The camera path was not saved: {error.strerror}.")
                if event.client is not None:
                    event.client.add_notification("The camera path was not saved", str(error.strerror))

        return save_or_report

    for handle in server.gui._gui_input_handle_from_id.values():
        if handle._impl.is_button and handle._impl.label == SAVE_BUTTON:
            handle._impl.update_cb = [reporting(callback) for callback in handle._impl.update_cb]
