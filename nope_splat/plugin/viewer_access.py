"""Restrict access to nerfstudio's viewer: connections, web pages and files.

By default, nerfstudio opens its viewer to the network without a password. The web server of the required
viser version serves any file of the machine, and a browser chooses the names of files that the viewer writes.
Neither package offers a hook before the port is opened. Therefore `restrict_viewers` wraps three functions:
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

LOOPBACK = "127.0.0.1"
"""IPv4 loopback address, on which a server is reachable only from this machine."""
HOST_OPTION = "--viewer.websocket-host"
"""Command line option for the network address on which the viewer listens."""
SAVE_BUTTON = "Generate Command"
"""Label of nerfstudio's buttons that show a command. The button in the render panel also saves the camera
path."""


@functools.cache  # wraps only once
def restrict_viewers() -> None:
    """Restrict the viewers that this process opens for runs of this package.

    By default these viewers are reachable only from this machine. They save files only in the run's folder.
    All viewers of the process, including those of other methods, serve only the files of their own web page,
    and accept connections only from this page.
    """
    _wrap_constructor(Viewer)
    _wrap_constructor(ViewerLegacyState)
    start = WebsockServer.start

    @functools.wraps(start)
    def start_restricted(self: WebsockServer) -> None:
        root = self._http_server_root
        if root is None:  # this server has no web page
            start(self)
            return
        self._http_server_root = confine(root)
        start(self)
        _refuse_other_pages(self._ws_server)

    WebsockServer.start = start_restricted


def _wrap_constructor(viewer_class: Any) -> None:
    """Wrap the constructor of a viewer class, to restrict viewers that show a run of this package.

    Such viewers listen on the address from `listening_host`, and save their files in the run's folder.
    """
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
        # nerfstudio would save camera paths in the photo folder, its argument `datapath`.
        construct(self, config, log_filename, confine(log_filename.parent), pipeline, **options)
        if isinstance(self.viser_server, ViserServer):
            _report_refused_names(self.viser_server)
            port = self.viser_server.get_port()
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        else:  # the legacy viewer, whose page is on another server
            port, url = self.viser_server._ws_server._port, self.viewer_url
        log_address(host, port, url, shared=options.get("share", False))

    viewer_class.__init__ = construct_restricted


def listening_host(config: ViewerConfig, in_training: bool) -> str:
    """Choose the network address on which a viewer listens.

    In a training run, the default of `config.websocket_host` is set by this package. In `ns-viewer`, it is
    set by nerfstudio and means all addresses of this machine; only the command line shows whether the user
    has set the same value.

    Args:
        config: Options of the viewer.
        in_training: Whether the viewer belongs to a training run.

    Returns:
        `config.websocket_host` in a training run. In `ns-viewer`, `config.websocket_host` if the user has set
        this option, else the loopback address.
    """
    chosen = any(argument.replace("_", "-").startswith(HOST_OPTION) for argument in sys.argv)
    if in_training or chosen or config.websocket_host != ViewerConfig().websocket_host:
        return config.websocket_host
    return LOOPBACK


def log_address(host: str, port: int, url: str, shared: bool) -> None:
    """Log the URL of the viewer; warn if the viewer is reachable from other machines.

    Args:
        host: Network address on which the viewer listens.
        port: Port on which the viewer listens.
        url: URL of the viewer's page on this machine.
        shared: Whether the viewer also has a public URL (`--viewer.make-share-url`).
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
        " without a password: anyone who connects can see the photos, control training and, with this"
        " version of viser, possibly read your other files. To view it privately, set"
        f" {HOST_OPTION} to {LOOPBACK}, leave out --viewer.make-share-url, and run"
        f" {tunnel} on the other machine."
    )


def _is_local(host: str) -> bool:
    """Check whether a network address is reachable only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name instead of an IP address
        return host == "localhost"


def confine(folder: Path) -> Path:
    """Create a path object that gives access only to a folder and the files inside it.

    viser and nerfstudio append file names from a browser to this path. The resulting paths are of
    the same class, and are checked whenever the file system is accessed. Symbolic links inside the folder are
    followed, because a browser cannot create links, and some package managers install files as links.

    Args:
        folder: The folder, which need not exist yet.

    Returns:
        New path object with the absolute path of the folder. Access to a file outside the folder raises
        `FileNotFoundError`.
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
    """Refuse WebSocket connections from web pages of other servers.

    Without this check, any web page in a browser on this machine could connect to the viewer.

    Args:
        server: WebSocket server of the library `websockets`, modified in place.
    """
    register = server.register

    def register_restricted(connection: Any) -> None:
        process = connection.process_request

        async def process_same_origin(path: str, headers: Any) -> Any:
            origin = headers.get("Origin")  # sent by browsers only
            if origin is not None and urlsplit(origin).netloc != headers.get("Host"):
                return HTTPStatus.FORBIDDEN, {}, b"403"
            return await process(path, headers)

        connection.process_request = process_same_origin
        register(connection)

    server.register = register_restricted


def _report_refused_names(server: ViserServer) -> None:
    """Make a viewer's save button show an error and log a warning if a camera path cannot be saved.

    Files outside the run's folder are refused (see `confine`).
    """

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
