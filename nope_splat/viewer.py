"""What the method adds to nerfstudio's viewer: a panel with the focal length, and the track points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nerfstudio.viewer.viewer_elements import ViewerControl

from nope_splat.model import NopeSplatModel

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

GREEN = (0, 255, 0)
POINT_SIZE = 0.02


class NopeViewerControl(ViewerControl):
    """Set up by the viewer, if there is one, in training as in `ns-viewer`; without a viewer it does nothing.

    Args:
        model: Whose cameras and track points to show.
    """

    def __init__(self, model: NopeSplatModel) -> None:
        self._model = model
        self._ready = False

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        with self.viser_server.gui.add_folder("nope-splat"):
            self._text = self.viser_server.gui.add_markdown(self._summary())
            self._show_points = self.viser_server.gui.add_checkbox("Track points", False)
        self._show_points.on_update(lambda _: self._draw_points())
        self._ready = True

    def update(self, step: int) -> None:
        """Show the present state; called by the training loop, which holds the lock of the model.

        Args:
            step: Iteration; not used.
        """
        del step
        if self._ready:
            self._text.content = self._summary()
            if self._show_points.value:
                self._draw_points()

    def _summary(self) -> str:
        cameras = self._model.camera_optimizer
        focal, change = cameras.focal().item(), 100 * math.expm1(cameras.log_focal.item())
        return f"Focal length: {focal:.1f} px ({change:+.2f} % in training)"

    def _draw_points(self) -> None:
        from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

        self.viser_server.scene.add_point_cloud(
            "/track_points",
            points=self._model.track_positions().numpy(force=True) * VISER_NERFSTUDIO_SCALE_RATIO,
            colors=GREEN,
            point_size=POINT_SIZE,
            visible=self._show_points.value,
        )
