"""Matching by DUSt3R's pointmaps.

- Anchors match where the true geometry projects them, in full-resolution pixels; occluded anchors do not
  match.
- A scene of one uniform gray, without SIFT keypoints, is reconstructed.
- The loading code of the package runs, offline, on a tiny network with random weights.
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
from nope_splat.matching import MatchingSettings, PointmapOptions, dust3r, match_images
from nope_splat.matching.dust3r import NetworkInput
from nope_splat.matching.pointmaps import Pointmap, anchor_pixels, build_anchor_tracks, match_anchors
from nope_splat.sfm import SfmOptions, reconstruct
from nope_splat.sfm.initialization.pointmap_alignment import PointmapInitialization
from nope_splat.sfm.initialization.two_view import TwoViewInitialization

OPTIONS = PointmapOptions()

# --- Geometry ---


def with_weights(weights: str) -> MatchingSettings:
    return MatchingSettings(matcher="dust3r", dust3r_weights=weights)


def test_anchors_match_where_the_true_geometry_projects(tmp_path: Path) -> None:
    poses = ring(2, 20.0)
    images = gray_images(tmp_path, 2)
    inputs = [NetworkInput.from_image(image) for image in images]
    first, second = (ray_cast(*arguments) for arguments in zip(poses, images, inputs, strict=True))
    ones = np.ones(first.shape[:2])
    source, target = (
        Pointmap.from_prediction((world - poses[0, :3, 3]) @ poses[0, :3, :3], ones * 9, OPTIONS)
        for world in (first, second)
    )
    matches = inputs[1].to_image(match_anchors(source, target, OPTIONS))
    column, row = anchor_pixels(ones.shape, OPTIONS.anchor_spacing).T
    in_second = (first[row, column] - poses[1, :3, 3]) @ poses[1, :3, :3]
    expected = CAMERA.project(in_second, np.array(SIZE))
    inside = ((expected > 10) & (expected < np.array(SIZE) - 10)).all(1)
    matched = np.all(np.isfinite(matches), axis=1)
    assert matched[inside].mean() > 0.6
    error = np.linalg.norm(matches - expected, axis=1)[matched]
    assert np.median(error) < 0.05
    assert np.quantile(error, 0.98) < 0.5


def test_unreliable_points_are_invalid_and_do_not_affect_others() -> None:
    rng = np.random.default_rng(0)
    points = np.dstack([*np.meshgrid(np.arange(60.0), np.arange(40.0)), np.full((40, 60), 50.0)])
    points[:, 30:] *= 1.5  # a depth edge
    not_finite = rng.random((40, 60)) < 0.05
    points[not_finite] = np.nan
    confidence = np.full((40, 60), 4.0)
    confidence[:, :5] = 1.2
    mask = np.ones((40, 60), bool)
    mask[35:] = False
    pointmap = Pointmap.from_prediction(points, confidence, OPTIONS, mask)
    assert np.isfinite(pointmap.points).all()
    assert not pointmap.valid[not_finite].any()
    assert not pointmap.valid[:, :5].any()
    assert not pointmap.valid[35:].any()
    assert not pointmap.valid[:, 29:31].any()
    assert pointmap.valid.mean() > 0.5
    invalid = Pointmap.from_prediction(np.full((40, 60, 3), np.nan), confidence, OPTIONS)
    assert np.isnan(match_anchors(pointmap, invalid, OPTIONS)).all()
    assert np.isnan(match_anchors(invalid, pointmap, OPTIONS)).all()


def test_anchors_on_an_earlier_track_start_no_new_track() -> None:
    shapes = [(24, 36)] * 3
    anchors = anchor_pixels((24, 36), 12) + 0.5
    unmatched = np.full(anchors.shape, np.nan)
    matches = {(i, j): anchors + 1.0 if i < j else unmatched for i in range(3) for j in range(3) if i != j}
    matches[1, 2] = unmatched
    matches[0, 1] = np.where(np.arange(6)[:, None] < 4, anchors + 1.0, np.nan)
    tracks, positions = build_anchor_tracks(matches, shapes, 12)
    # The third image observes all six anchors of the first, the second image four. Its other anchors are
    # unmatched.
    assert [len(track_ids) for track_ids in tracks] == [6, 4, 6]
    np.testing.assert_array_equal(tracks[0], np.arange(6))
    np.testing.assert_array_equal(tracks[1], np.arange(4))
    np.testing.assert_allclose(positions[2], anchors + 1.0)


# --- From images to cameras ---


@pytest.mark.parametrize("initialization", [TwoViewInitialization(), PointmapInitialization()])
def test_images_without_texture_are_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, initialization: Any
) -> None:
    poses = ring(6, 60.0)
    images = gray_images(tmp_path, len(poses))
    folder = ImageFolder(tmp_path, tuple(images), {})
    with refused("no-texture"):
        reconstruct(folder, options=SfmOptions())
    monkeypatch.setattr(dust3r, "predict", FakeNetwork(poses).predict)
    monkeypatch.setattr(dust3r, "LONGER_SIDE", 192)
    scene = reconstruct(
        folder, options=SfmOptions(MatchingSettings(matcher="dust3r"), initialization=initialization)
    )
    assert scene.registered.all()
    assert scene.cameras[0].focal == pytest.approx(CAMERA.focal, rel=0.05)
    truth = {image.name: pose for image, pose in zip(images, poses, strict=True)}
    estimated = dict(zip(scene.image_names, scene.T_world_camera, strict=True))
    assert compare_poses(estimated, truth).auc_5 > 80


def test_registration_by_pointmaps_requires_a_matcher_that_predicts_them(tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path, tuple(gray_images(tmp_path, 3)), {})
    with refused("conflicting-options", "initialization pointmaps", "matching.matcher"):
        reconstruct(folder, options=SfmOptions(initialization=PointmapInitialization()))


# --- The network ---


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save the weights of a tiny random network, and return their folder."""
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


def test_a_network_from_a_folder_predicts_both_orders(weights: str, tmp_path: Path) -> None:
    sizes = [(400, 300), (300, 400)]
    images = [ImageFile(tmp_path / f"{i}.png", f"{i}.png", *size) for i, size in enumerate(sizes)]
    for image, (width, height) in zip(images, sizes, strict=True):
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(image.path)
    inputs = [NetworkInput.from_image(image) for image in images]
    assert [geometry.shape for geometry in inputs] == [(384, 512), (512, 384)]
    ((forward, backward),) = dust3r.predict(images, inputs, [(0, 1)], with_weights(weights))
    for predictions, order in ((forward, (0, 1)), (backward, (1, 0))):
        for (points, confidence), image_id in zip(predictions, order, strict=True):
            assert points.shape == (*inputs[image_id].shape, 3)
            assert confidence.shape == inputs[image_id].shape
            assert np.isfinite(points).all()
            assert (confidence > 1).all()
    assert not np.array_equal(forward[0][0], backward[1][0])
    settings = MatchingSettings(matcher="dust3r", dust3r_weights=weights)
    keypoints, pairs, pointmaps = match_images(images, settings)
    assert pointmaps is not None
    assert [(pair.first, pair.second) for pair in pointmaps.pairs] == [(0, 1), (1, 0)]
    assert len(keypoints) == 2
    for features, size in zip(keypoints, sizes, strict=True):
        assert ((features.xy > 0) & (features.xy < size)).all()
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
    inputs = [NetworkInput.from_image(image) for image in images]
    assert len(list(dust3r.predict(images, inputs, pairs, with_weights(weights)))) == 3
    assert encoded == [(1, 3, 48, 64)] * 3


class SummingNetwork:
    """Network with DUSt3R's interface that predicts sums of the pixels of both images."""

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


def test_predictions_do_not_depend_on_the_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = gray_images(tmp_path, 5, upright=[4])
    for shade, image in enumerate(images):
        Image.new("L", (image.width, image.height), 40 * shade).convert("RGB").save(image.path)
    monkeypatch.setattr(dust3r, "LONGER_SIDE", 64)
    inputs = [NetworkInput.from_image(image) for image in images]
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]

    def predict(batch_size: int) -> tuple[list[Any], list[int]]:
        network = SummingNetwork()
        monkeypatch.setattr(dust3r, "_load", lambda *_: network)
        monkeypatch.setattr(dust3r, "_batch_size", lambda _: batch_size)
        return list(dust3r.predict(images, inputs, pairs, with_weights(""))), network.batches

    (single, single_sizes), (batched, batch_sizes) = predict(1), predict(3)
    assert single_sizes == [1] * 20
    assert max(batch_sizes) == 3
    assert sum(batch_sizes) == 20
    for single_pair, batched_pair in zip(single, batched, strict=True):
        for expected, actual in zip(single_pair, batched_pair, strict=True):
            for (points, confidence), (same_points, same_confidence) in zip(expected, actual, strict=True):
                np.testing.assert_array_equal(points, same_points)
                np.testing.assert_array_equal(confidence, same_confidence)


def test_a_cropped_input_maps_back_to_the_image() -> None:
    geometry = NetworkInput.from_image(ImageFile(Path("x"), "x", 1000, 700))
    assert geometry.size == (512, 358)
    assert geometry.shape == (352, 512)
    assert geometry.crop_offset == (0, 3)
    corners = geometry.to_image(np.array([[0.0, -3.0], [512, 355]]))
    np.testing.assert_allclose(corners, [[0, 0], [1000, 700]])
    row_numbers = np.arange(358)[:, None].repeat(512, 1)
    assert geometry.crop(row_numbers)[0, 0] == 3


def test_missing_package_or_weights_raise_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_folder_without_weights_raises_an_error(weights: str, tmp_path: Path) -> None:
    missing = MatchingSettings(matcher="dust3r", dust3r_weights=str(tmp_path / "nothing"))
    with refused("missing-weights", tmp_path / "nothing", "dust3r-weights"):
        match_images(gray_images(tmp_path, 2), missing)
