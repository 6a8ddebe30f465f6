"""Test the method's panel and cameras in nerfstudio's viewer, without a browser.

- Frusta have the optimized poses and the learned field of view; held-out ones have their aligned poses.
- The panel updates during training and lists images without a pose.
- Track points appear when enabled.
"""

from __future__ import annotations

import html
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from fixtures.splat_scene import FOCAL, SIZE, make_pipeline, set_to_truth
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.render_state_machine import RenderAction
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer

from nope_splat.plugin.pipeline import NopePipeline
from nope_splat.plugin.viewer import HELD_OUT_COLOR, MAX_LISTED_IMAGES, TRAINING_COLOR, Renderers, _images


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NopePipeline:
    pipeline = make_pipeline(tmp_path, monkeypatch, unregistered=(3,))
    set_to_truth(pipeline)
    return pipeline


@pytest.fixture
def viewer(pipeline: NopePipeline, tmp_path: Path) -> Iterator[Viewer]:
    viewer = Viewer(
        ViewerConfig(websocket_host="127.0.0.1"),
        tmp_path / "run" / "viewer.log",
        tmp_path,
        pipeline,
        train_lock=threading.Lock(),  # pyright: ignore[reportArgumentType] (nerfstudio's annotation is off)
    )
    data = pipeline.datamanager
    viewer.init_scene(data.train_dataset, "training", data.eval_dataset)
    yield viewer
    viewer.viser_server.stop()


def frusta(
    pipeline: NopePipeline,
    viewer: Viewer,
    monkeypatch: pytest.MonkeyPatch,
    draw: Callable[[], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the frusta that the control or `draw` draws, by name."""
    drawn = {}
    add = viewer.viser_server.scene.add_camera_frustum

    def record(name: str, **settings: Any) -> Any:
        drawn[name] = settings
        return add(name, **settings)

    monkeypatch.setattr(viewer.viser_server.scene, "add_camera_frustum", record)
    control = pipeline.viewer_control
    control._locked(draw or control._draw)
    return drawn


def test_frusta_follow_the_optimized_cameras(
    pipeline: NopePipeline, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cameras = pipeline.model.camera_optimizer
    cameras.log_focal.data.fill_(0.1)
    cameras.pose_adjustment.data[:, :3] = 0.05
    pipeline.eval_poses[1, :, 3] += 0.3
    drawn = frusta(pipeline, viewer, monkeypatch)
    assert len(drawn) == 6 + 2
    for name, settings in drawn.items():
        assert settings["color"] == (HELD_OUT_COLOR if name.startswith("/held_out") else TRAINING_COLOR)
        assert settings["fov"] == pytest.approx(2 * math.atan(SIZE[1] / 2 / (FOCAL * math.exp(0.1))))
        assert settings["aspect"] == pytest.approx(SIZE[0] / SIZE[1])
        assert settings["image"].shape == (SIZE[1], SIZE[0], 3)
    for index, pose in enumerate(cameras.poses().detach()):
        position = pose[:, 3].numpy() * VISER_NERFSTUDIO_SCALE_RATIO
        np.testing.assert_allclose(drawn[f"/cameras/camera_{index:05d}"]["position"], position, atol=1e-4)
        np.testing.assert_allclose(viewer.camera_handles[index].position, position, atol=1e-4)
    for index, pose in enumerate(pipeline.eval_poses):
        position = pose[:, 3].numpy() * VISER_NERFSTUDIO_SCALE_RATIO
        np.testing.assert_allclose(drawn[f"/held_out/camera_{index:05d}"]["position"], position, atol=1e-4)

    viewer.update_camera_poses()  # agrees with nerfstudio's update of the same frusta
    for index, pose in enumerate(cameras.poses().detach()):
        position = pose[:, 3].numpy() * VISER_NERFSTUDIO_SCALE_RATIO
        np.testing.assert_allclose(viewer.camera_handles[index].position, position, atol=1e-4)


def test_training_frusta_are_redrawn_only_for_another_field_of_view(
    pipeline: NopePipeline, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any(name.startswith("/cameras") for name in frusta(pipeline, viewer, monkeypatch))
    pipeline.model.camera_optimizer.log_focal.data.fill_(1e-4)
    assert not any(name.startswith("/cameras") for name in frusta(pipeline, viewer, monkeypatch))
    pipeline.model.camera_optimizer.log_focal.data.fill_(0.01)
    assert any(name.startswith("/cameras") for name in frusta(pipeline, viewer, monkeypatch))


def test_an_early_browser_sees_all_frusta_in_their_color(
    pipeline: NopePipeline, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser connects while nerfstudio is still adding frusta."""
    late = viewer.camera_handles.pop(5)
    del viewer.train_util
    control, client = pipeline.viewer_control, MagicMock()
    welcome = threading.Thread(target=control._on_connect, args=[client])
    welcome.start()
    control._locked(control._draw)
    viewer.camera_handles[5] = late
    drawn = []
    draw = control._draw_camera
    monkeypatch.setattr(control, "_draw_camera", lambda name, *args: drawn.append(name) or draw(name, *args))
    viewer.train_util = 0.9
    welcome.join()
    assert "/cameras/camera_00005" in drawn


def test_frusta_exist_before_training_and_before_any_browser(
    pipeline: NopePipeline, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not viewer.render_statemachines
    assert len(frusta(pipeline, viewer, monkeypatch, pipeline.viewer_control.show_cameras)) == 6 + 2


def test_nothing_is_drawn_while_the_training_holds_the_lock(
    pipeline: NopePipeline, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests and connections of browsers wait for the current iteration."""
    control, lock = pipeline.viewer_control, viewer.train_lock
    assert lock is not None
    drawn: list[str] = []
    for name in ("_draw", "_draw_cameras", "_draw_points"):
        monkeypatch.setattr(control, name, lambda name=name: drawn.append(f"{name} {lock.locked()}"))
    threads = [
        threading.Thread(target=control._locked, args=[control._draw_points]),
        threading.Thread(target=control._locked, args=[control._draw_cameras]),
        threading.Thread(target=control._on_connect, args=[MagicMock()]),
    ]
    with lock:
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        assert not drawn
    for thread in threads:
        thread.join(10)
    assert sorted(drawn) == ["_draw True", "_draw_cameras True", "_draw_points True"]


def test_images_without_a_pose_are_listed_whatever_their_names(pipeline: NopePipeline) -> None:
    """The panel is MDX, which would run text in braces or angle brackets in the browser."""
    name = "{alert(1)} <img src=x> *день*\n.jpg"
    failures = {name: "too few matches"}
    scene = replace(pipeline.datamanager.dataparser.scene, failures=failures)
    legend, _, row = _images(scene).splitlines()
    for entry in ("6 trained on</span>", "2 held out</span>", "1 not registered</span>"):
        assert entry in legend
    assert not set("{}<>*") & set(row)
    assert html.unescape(row) == f"- {name}: too few matches"
    failures.update({f"{number}.jpg": "no matches" for number in range(MAX_LISTED_IMAGES + 4)})
    assert _images(scene).splitlines()[2] == row
    assert _images(scene).endswith("- and 5 more")


def test_panel_updates_during_training(pipeline: NopePipeline, viewer: Viewer) -> None:
    control = pipeline.viewer_control
    pipeline.model.num_iterations = 100
    pipeline.model.step = 29
    pipeline.model.camera_optimizer.log_focal.data.fill_(0.01)
    pipeline.history.record(0, {"focal_change_percent": 0.0})
    pipeline.history.record(10, {"focal_change_percent": 1.0})
    control._locked(control._draw)
    text = control._text.content
    assert "densification, iteration 30 of 100" in text
    assert "101.0 px (+1.01 %)" in text
    assert control._plots.figure.to_dict()["data"][0]["y"] == [0.0, 1.0]
    error = pipeline.model.reprojection_errors()
    assert f"{float(error.mean()):.3f} px" in text
    assert error.mean() > 0.1
    pipeline.model.step = 99
    control._locked(control._draw)
    assert "trained, 100 iterations" in control._text.content
    assert viewer.stats_markdown.content.startswith("Step: 100 ")


def test_track_points_appear_when_enabled(
    pipeline: NopePipeline, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clouds = []
    monkeypatch.setattr(
        viewer.viser_server.scene, "add_point_cloud", lambda name, **settings: clouds.append((name, settings))
    )
    with torch.no_grad():
        pipeline.model.track_positions()[7] += 0.1
    control = pipeline.viewer_control
    control._locked(control._draw)
    assert not clouds
    control._show_points.value = True
    control._locked(control._draw)
    name, settings = clouds[-1]
    assert name == "/track_points"
    assert settings["visible"]
    np.testing.assert_allclose(
        settings["points"], pipeline.model.track_positions().detach() * VISER_NERFSTUDIO_SCALE_RATIO
    )
    red = settings["colors"][:, 0] - settings["colors"][:, 2]
    assert red.argmax() == 7
    worst = pipeline.model.reprojection_errors().max()
    assert control._legend.visible
    limit = float(control._legend.content.removeprefix("Reprojection error: blue 0 px, red ").split()[0])
    assert 0 < limit < worst


def test_errors_of_another_reconstruction_are_not_shown(pipeline: NopePipeline, viewer: Viewer) -> None:
    """The observations in the cache belong to other points in this case."""
    pipeline.same_reconstruction = False
    control = pipeline.viewer_control
    control._locked(control._draw)
    assert "Focal length" in control._text.content
    assert "Reprojection error" not in control._text.content


def test_updates_without_a_browser_are_skipped(
    pipeline: NopePipeline, viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.viewer_control, "_draw", lambda: pytest.fail("drawn without a browser"))
    pipeline.viewer_control.update(50)


def test_rendering_for_a_disconnected_browser_does_not_raise() -> None:
    """An error would leave viser's lock acquired forever."""
    renderers = Renderers()
    renderers[3].action(RenderAction("move", None))  # pyright: ignore[reportArgumentType] (the pose does not matter)
    assert len(renderers) == 0
    with pytest.raises(KeyError):
        renderers.pop(3)
