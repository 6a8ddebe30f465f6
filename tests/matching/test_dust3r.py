"""Matches from pointmaps, and the network that makes them.

- Anchors are found where the geometry says, in full-resolution pixels; what is hidden is not found.
- Spheres before a wall, in one gray, give cameras, where SIFT has nothing to say.
- The package's own loading code runs, offline, on a tiny random network.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.errors import refused
from fixtures.pointmap_scene import CAMERA, SIZE, FakeNetwork, gray_images, ray_cast
from fixtures.synthetic import ring
from PIL import Image

from nope_splat.evaluation.pose_metrics import compare_poses
from nope_splat.io.images import ImageFile, ImageFolder
from nope_splat.matching import MatchingSettings, dust3r, match_images
from nope_splat.matching.dust3r import View
from nope_splat.matching.pointmaps import Pointmap, anchor_pixels, look_up, star_tracks
from nope_splat.sfm import ReconstructionSettings, reconstruct

# --- Geometry ---


def with_weights(weights: str) -> MatchingSettings:
    return MatchingSettings(matcher="dust3r", dust3r_weights=weights)


def test_anchors_are_found_where_the_geometry_says(tmp_path: Path) -> None:
    poses = ring(2, 20.0)
    images = gray_images(tmp_path, 2)
    views = [View.of(image) for image in images]
    first, second = (ray_cast(*each) for each in zip(poses, images, views, strict=True))
    ones = np.ones(first.shape[:2])
    maps = [
        Pointmap.sanitised((world - poses[0, :3, 3]) @ poses[0, :3, :3], ones * 9)
        for world in (first, second)
    ]
    found = views[1].to_image(look_up(*maps))
    column, row = anchor_pixels(*ones.shape).T
    in_second = (first[row, column] - poses[1, :3, 3]) @ poses[1, :3, :3]
    expected = CAMERA.project(in_second, np.array(SIZE))
    inside = ((expected > 10) & (expected < np.array(SIZE) - 10)).all(1)
    known = np.isfinite(found).all(1)
    assert known[inside].mean() > 0.6
    error = np.linalg.norm(found - expected, axis=1)[known]
    assert np.median(error) < 0.05
    assert np.quantile(error, 0.98) < 0.5


def test_bad_points_are_not_used_and_do_not_spread() -> None:
    rng = np.random.default_rng(0)
    points = np.dstack([*np.meshgrid(np.arange(60.0), np.arange(40.0)), np.full((40, 60), 50.0)])
    points[:, 30:] *= 1.5  # a depth edge
    bad = rng.random((40, 60)) < 0.05
    points[bad] = np.nan
    confidence = np.full((40, 60), 4.0)
    confidence[:, :5] = 1.2
    mask = np.ones((40, 60), bool)
    mask[35:] = False
    pointmap = Pointmap.sanitised(points, confidence, mask)
    assert np.isfinite(pointmap.points).all()
    assert not pointmap.usable[bad].any()
    assert not pointmap.usable[:, :5].any()
    assert not pointmap.usable[35:].any()
    assert not pointmap.usable[:, 29:31].any()
    assert pointmap.usable.mean() > 0.5
    nothing = Pointmap.sanitised(np.full((40, 60, 3), np.nan), confidence)
    assert np.isnan(look_up(pointmap, nothing)).all()
    assert np.isnan(look_up(nothing, pointmap)).all()


def test_a_track_has_one_anchor_and_no_second_one_where_it_passes() -> None:
    shapes = [(24, 36)] * 3
    anchors = anchor_pixels(24, 36) + 0.5
    nowhere = np.full(anchors.shape, np.nan)
    found = {(i, j): anchors + 1.0 if i < j else nowhere for i in range(3) for j in range(3) if i != j}
    found[1, 2] = nowhere
    found[0, 1] = np.where(np.arange(6)[:, None] < 4, anchors + 1.0, np.nan)
    tracks, positions = star_tracks(found, shapes)
    # Six anchors of the first are seen by the third, four by the second, whose other two see nobody.
    assert [len(one) for one in tracks] == [6, 4, 6]
    np.testing.assert_array_equal(tracks[0], np.arange(6))
    np.testing.assert_array_equal(tracks[1], np.arange(4))
    np.testing.assert_allclose(positions[2], anchors + 1.0)


# --- From images to cameras ---


@pytest.mark.parametrize("registration", ["incremental", "pointmaps"])
def test_images_without_texture_are_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registration: Any
) -> None:
    poses = ring(6, 60.0)
    images = gray_images(tmp_path, len(poses))
    folder = ImageFolder(tmp_path, tuple(images), {})
    with refused("no-texture"):
        reconstruct(folder, settings=ReconstructionSettings())
    monkeypatch.setattr(dust3r, "predict", FakeNetwork(poses).predict)
    monkeypatch.setattr(dust3r, "LONGER_SIDE", 192)
    scene = reconstruct(folder, settings=ReconstructionSettings(matcher="dust3r", registration=registration))
    assert scene.registered.all()
    assert scene.cameras[0].focal == pytest.approx(CAMERA.focal, rel=0.05)
    truth = {image.name: pose for image, pose in zip(images, poses, strict=True)}
    estimated = dict(zip(scene.image_names, scene.T_world_camera, strict=True))
    assert compare_poses(estimated, truth).auc_5 > 80


def test_pointmaps_are_not_asked_of_a_matcher_that_makes_none(tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path, tuple(gray_images(tmp_path, 3)), {})
    with refused("conflicting-options", "registration pointmaps", "matcher"):
        reconstruct(folder, settings=ReconstructionSettings(registration="pointmaps"))


# --- The network ---


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the weights of a tiny random network."""
    for name in ("dust3r.model", "mini_dust3r.model"):
        try:
            model = importlib.import_module(name)
            break
        except ImportError:
            continue
    else:
        pytest.skip("neither dust3r nor mini_dust3r is installed")
    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("weights"))
    model.AsymmetricCroCo3DStereo(
        head_type="linear",
        enc_embed_dim=64,
        enc_depth=2,
        enc_num_heads=4,
        dec_embed_dim=48,
        dec_depth=2,
        dec_num_heads=4,
        pos_embed="RoPE100",
        landscape_only=False,
        img_size=(512, 512),
        patch_size=16,
        output_mode="pts3d",
        depth_mode=("exp", -float("inf"), float("inf")),
        conf_mode=("exp", 1, float("inf")),
    ).save_pretrained(folder)
    return folder


def test_a_network_from_a_folder_speaks_of_both_orders(weights: str, tmp_path: Path) -> None:
    sizes = [(400, 300), (300, 400)]
    images = [ImageFile(tmp_path / f"{i}.png", f"{i}.png", *size) for i, size in enumerate(sizes)]
    for image, (width, height) in zip(images, sizes, strict=True):
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(image.path)
    views = [View.of(image) for image in images]
    assert [view.shape for view in views] == [(384, 512), (512, 384)]
    ((forward, backward),) = dust3r.predict(images, views, [(0, 1)], with_weights(weights))
    for said, order in ((forward, (0, 1)), (backward, (1, 0))):
        for (points, confidence), image in zip(said, order, strict=True):
            assert points.shape == (*views[image].shape, 3)
            assert confidence.shape == views[image].shape
            assert np.isfinite(points).all()
            assert (confidence > 1).all()
    assert not np.array_equal(forward[0][0], backward[1][0])
    settings = MatchingSettings(matcher="dust3r", dust3r_weights=weights)
    keypoints, pairs, pointmaps = match_images(images, settings)
    assert pointmaps is not None
    assert [(pair.first, pair.second) for pair in pointmaps.pairs] == [(0, 1), (1, 0)]
    assert len(keypoints) == 2
    assert all(((one.xy > 0) & (one.xy < size)).all() for one, size in zip(keypoints, sizes, strict=True))
    assert len(pairs) <= 1


def test_each_image_is_encoded_once(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = gray_images(tmp_path, 3)
    encoded: list[tuple[int, ...]] = []
    load = dust3r._load

    def load_and_count(name: str, device: torch.device) -> Any:
        model = load(name, device)
        encode = model._encode_image

        def count(image: torch.Tensor, shape: torch.Tensor) -> Any:
            encoded.append(tuple(image.shape))
            return encode(image, shape)

        model._encode_image = count
        return model

    monkeypatch.setattr(dust3r, "_load", load_and_count)
    monkeypatch.setattr(dust3r, "LONGER_SIDE", 64)
    pairs = [(0, 1), (0, 2), (1, 2)]
    said = list(
        dust3r.predict(images, [View.of(image_file) for image_file in images], pairs, with_weights(weights))
    )
    assert len(said) == 3
    assert encoded == [(1, 3, 48, 64)] * 3


class Sums:
    """Has the parts of DUSt3R's network; points and confidence are sums of the pixels of both images."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def _encode_image(self, image: torch.Tensor, shape: torch.Tensor) -> Any:
        return image.flatten(1)[:, None], torch.zeros(1, 1, 2), None

    def _decoder(self, first: torch.Tensor, _: Any, second: torch.Tensor, __: Any) -> Any:
        self.batches.append(len(first))
        both = first.sum(-1, keepdim=True) + 2 * second.sum(-1, keepdim=True)
        return [first.sum(-1, keepdim=True)], [both]

    def _downstream_head(self, number: int, tokens: list[torch.Tensor], shape: torch.Tensor) -> Any:
        height, width = shape[0].tolist()
        values = (number * tokens[0][:, :, 0, None]).expand(-1, height, width)
        return {"pts3d": values[..., None].expand(-1, -1, -1, 3), "conf": values}


def test_batches_of_pairs_say_what_single_pairs_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = gray_images(tmp_path, 5, upright=[4])
    for shade, image in enumerate(images):
        Image.new("L", (image.width, image.height), 40 * shade).convert("RGB").save(image.path)
    monkeypatch.setattr(dust3r, "LONGER_SIDE", 64)
    views = [View.of(image) for image in images]
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]

    def said(batch_size: int) -> tuple[list[Any], list[int]]:
        network = Sums()
        monkeypatch.setattr(dust3r, "_load", lambda *_: network)
        monkeypatch.setattr(dust3r, "_batch_size", lambda _: batch_size)
        return list(dust3r.predict(images, views, pairs, with_weights(""))), network.batches

    (single, ones), (together, batches) = said(1), said(3)
    assert ones == [1] * 20
    assert max(batches) == 3
    assert sum(batches) == 20
    for one, other in zip(single, together, strict=True):
        for before, after in zip(one, other, strict=True):
            for (points, confidence), (same_points, same_confidence) in zip(before, after, strict=True):
                np.testing.assert_array_equal(points, same_points)
                np.testing.assert_array_equal(confidence, same_confidence)


def test_a_cut_view_maps_back_to_the_image() -> None:
    view = View.of(ImageFile(Path("x"), "x", 1000, 700))
    assert view.size == (512, 358)
    assert view.shape == (352, 512)
    assert view.cut == (0, 3)
    np.testing.assert_allclose(view.to_image(np.array([[0.0, -3.0], [512, 355]])), [[0, 0], [1000, 700]])
    marked = np.arange(358)[:, None].repeat(512, 1)
    assert view.crop(marked)[0, 0] == 3


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = gray_images(tmp_path, 2)
    for name in ("dust3r", "dust3r.model", "mini_dust3r", "mini_dust3r.model"):
        monkeypatch.setitem(sys.modules, name, None)
    with refused("missing-package", "pip install --no-deps mini-dust3r roma && pip install beartype"):
        match_images(images, MatchingSettings(matcher="dust3r"))

    lacking = tmp_path / "packages" / "dust3r"
    lacking.mkdir(parents=True)
    (lacking / "__init__.py").touch()
    (lacking / "model.py").write_text("import something_else_that_it_needs")
    with monkeypatch.context() as present:
        for name in ("dust3r", "dust3r.model"):
            present.delitem(sys.modules, name)
        present.syspath_prepend(str(lacking.parent))
        with refused("missing-package", "(dust3r: No module named 'something_else"):
            match_images(images, MatchingSettings(matcher="dust3r"))
        sys.modules.pop("dust3r", None)

    class Unreachable:
        @staticmethod
        def from_pretrained(weights: str) -> None:
            raise OSError("no network")

    package = SimpleNamespace(AsymmetricCroCo3DStereo=Unreachable)
    monkeypatch.setitem(sys.modules, "mini_dust3r.model", package)
    missing = MatchingSettings(matcher="dust3r", dust3r_weights="some/weights")
    with refused("missing-weights", "some/weights (no network)", "dust3r-weights"):
        match_images(images, missing)


def test_a_folder_without_weights_is_named(weights: str, tmp_path: Path) -> None:
    missing = MatchingSettings(matcher="dust3r", dust3r_weights=str(tmp_path / "nothing"))
    with refused("missing-weights", tmp_path / "nothing", "dust3r-weights"):
        match_images(gray_images(tmp_path, 2), missing)
