"""Reconstruction end to end: accurate, reproducible, independent of held-out images, with clear errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures.errors import refused
from fixtures.real_images import real_scene
from fixtures.synthetic import SyntheticScene, look_at, make_scene
from PIL import Image

from nope_splat.evaluation.pose_metrics import PoseMetrics, compare_poses
from nope_splat.geometry.camera import Camera
from nope_splat.io.cameras import read_ground_truth
from nope_splat.io.images import find_images
from nope_splat.matching import Keypoints, MatchingSettings, PairMatches
from nope_splat.matching.database import MatchDatabase, matches_key
from nope_splat.sfm import MapperOptions, Reconstruction, SfmOptions, reconstruct
from nope_splat.sfm.camera_groups import CameraGroups
from nope_splat.sfm.pipeline import reconstruct_from_matches
from nope_splat.sfm.registration.batched import BatchedRegistration
from nope_splat.sfm.registration.incremental import IncrementalRegistration
from nope_splat.sfm.registration.spanning_tree import SpanningTreeRegistration


def run(
    made: SyntheticScene, folder: Path, held_out: tuple[int, ...] = (), **options: object
) -> Reconstruction:
    return reconstruct_from_matches(
        made.write_images(folder),
        np.isin(np.arange(len(made.names)), held_out),
        made.matches,
        replace(SfmOptions(), **options),  # pyright: ignore[reportArgumentType]
    )


def metrics(scene: Reconstruction, truth: dict[str, np.ndarray], focal: float) -> PoseMetrics:
    poses = {
        name: pose
        for name, pose, registered in zip(
            scene.image_names, scene.T_world_camera, scene.registered, strict=True
        )
        if registered
    }
    return compare_poses(poses, truth, scene.cameras[0].focal, focal)


@pytest.mark.parametrize("registration", [IncrementalRegistration(), SpanningTreeRegistration()])
def test_synthetic_scene(tmp_path: Path, registration: object) -> None:
    made = make_scene()
    scene = run(made, tmp_path, held_out=(3,), registration=registration)
    pose_metrics = metrics(scene, made.poses_by_name(), made.camera.focal)
    assert pose_metrics.num_registered == 8
    assert pose_metrics.auc_5 > 96
    assert abs(pose_metrics.focal_error) < 0.5
    assert scene.failures == {}

    observations = scene.observations
    assert 3 not in observations.image_ids
    assert np.bincount(observations.point_ids, minlength=len(scene.points)).min() >= 2
    assert (
        np.lexsort((observations.image_ids, observations.point_ids)) == np.arange(len(observations))
    ).all()
    assert np.sqrt((scene.reprojection_errors() ** 2).mean()) < 0.6
    assert np.median(scene.points_in_cameras(observations)[:, 2]) == pytest.approx(1)
    np.testing.assert_array_equal(scene.colors, np.tile([90, 120, 150], (len(scene.points), 1)))
    assert set(scene.resections.image_ids.tolist()) == {3}
    assert not np.isin(scene.graph.edges, 3).any()


def test_held_out_images_have_no_influence(tmp_path: Path) -> None:
    """Removing held-out images, or replacing their keypoints by noise, changes no bit of the result."""
    made = make_scene(6, 200)
    scene = run(made, tmp_path, held_out=(2, 5))
    keypoints = [
        Keypoints(
            np.random.default_rng(image_id).uniform(0, 480, image_keypoints.xy.shape),
            image_keypoints.descriptors,
        )
        if image_id in (2, 5)
        else image_keypoints
        for image_id, image_keypoints in enumerate(made.keypoints)
    ]
    without = [pair for pair in made.matches.pairs if not {2, 5} & {pair.first, pair.second}]
    for pairs in (made.matches.pairs, tuple(without)):
        changed = run(
            replace(made, keypoints=tuple(keypoints), matches=MatchDatabase(tuple(keypoints), pairs)),
            tmp_path,
            held_out=(2, 5),
        )
        training = ~scene.held_out
        np.testing.assert_array_equal(changed.points, scene.points)
        np.testing.assert_array_equal(changed.T_world_camera[training], scene.T_world_camera[training])
        assert changed.cameras[0] == scene.cameras[0]
        assert set(changed.failures) == {"002.png", "005.png"}
        assert all(reason.startswith("held out") for reason in changed.failures.values())


def test_order_of_images_does_not_matter(tmp_path: Path) -> None:
    made = make_scene(7, 300)
    order = np.random.default_rng(0).permutation(7)
    new_index = np.argsort(order)
    pairs = []
    for pair in made.matches.pairs:
        first, second = int(new_index[pair.first]), int(new_index[pair.second])
        if first < second:
            pairs.append(replace(pair, first=first, second=second))
        else:
            pairs.append(
                PairMatches(second, first, pair.indices[:, ::-1], pair.fundamental.T, pair.homography_ratio)
            )
    shuffled = replace(
        made,
        T_world_camera=made.T_world_camera[order],
        keypoints=tuple(made.keypoints[image_id] for image_id in order),
        matches=MatchDatabase(tuple(made.keypoints[image_id] for image_id in order), tuple(pairs)),
    )
    original = metrics(run(made, tmp_path), made.poses_by_name(), made.camera.focal)
    reordered = metrics(run(shuffled, tmp_path), shuffled.poses_by_name(), made.camera.focal)
    assert reordered.num_registered == original.num_registered == 7
    assert reordered.auc_5 == pytest.approx(original.auc_5, abs=0.5)
    assert reordered.focal_error == pytest.approx(original.focal_error, abs=0.2)


def test_reconstruction_starts_from_the_initial_focal_length(tmp_path: Path) -> None:
    made = make_scene()
    scene = run(made, tmp_path, initial_focal=500.0)
    assert scene.cameras[0].focal == pytest.approx(700, rel=0.005)


@pytest.mark.parametrize(
    "registration", [IncrementalRegistration(), SpanningTreeRegistration(), BatchedRegistration()]
)
def test_two_cameras_get_separate_focal_lengths(tmp_path: Path, registration: object) -> None:
    made = make_scene(10, second=(Camera(450.0, (3.0, -2.0)), (800, 500)))
    scene = run(made, tmp_path, held_out=(3,), registration=registration)
    assert scene.registered.all()
    assert scene.camera_ids.tolist() == 5 * [0, 1]
    first, second = scene.cameras
    assert first.focal == pytest.approx(700.0, rel=3e-3)
    assert second.focal == pytest.approx(450.0, rel=3e-3)
    np.testing.assert_allclose(second.offset, (3.0, -2.0), atol=1.5)
    assert metrics(scene, made.poses_by_name(), made.camera.focal).auc_5 > 96
    assert np.sqrt((scene.reprojection_errors() ** 2).mean()) < 0.6


def test_focal_length_of_a_camera_without_own_pairs(tmp_path: Path) -> None:
    """The only image of the second camera has pairs with images of the first camera only."""
    made = make_scene(8, second=(Camera(1500.0), (1000, 800)))
    pairs = [pair for pair in made.matches.pairs if not {1, 3, 5} & {pair.first, pair.second}]
    scene = run(replace(made, matches=MatchDatabase(made.keypoints, tuple(pairs))), tmp_path)
    assert scene.registered.tolist() == [True, False, True, False, True, False, True, True]
    assert scene.cameras[0].focal == pytest.approx(700.0, rel=3e-3)
    assert scene.cameras[1].focal == pytest.approx(1500.0, rel=1e-2)


def test_cameras_of_held_out_images_only_stay_unknown(tmp_path: Path) -> None:
    made = make_scene(4, 300, second=(Camera(450.0), (800, 500)))
    scene = run(made, tmp_path, held_out=(1, 3))
    assert scene.registered.tolist() == [True, False, True, False]
    reason = "held out, and no other photo of its camera has a pose"
    assert scene.failures == {"001.png": reason, "003.png": reason}


def test_feature_pixels_scale_with_the_images(tmp_path: Path) -> None:
    """Keypoints detected at a quarter of the image size give the same result, since thresholds scale."""
    made = make_scene(6, 300)
    keypoints = tuple(Keypoints(4 * small.xy, small.descriptors, 4.0) for small in made.keypoints)
    large = replace(
        made,
        camera_groups=CameraGroups.from_keypoints(
            4 * made.camera_groups.sizes, made.camera_groups.camera_ids, keypoints
        ),
        keypoints=keypoints,
        matches=MatchDatabase(keypoints, made.matches.pairs),
    )
    small_scene, large_scene = run(made, tmp_path), run(large, tmp_path)
    assert large_scene.cameras[0].focal == pytest.approx(4 * small_scene.cameras[0].focal)
    np.testing.assert_allclose(large_scene.T_world_camera, small_scene.T_world_camera, atol=1e-6)


def test_failures_name_disconnected_components(tmp_path: Path) -> None:
    made = make_scene(8, sees=lambda image, ids: (ids < 250) == (image < 4) if image < 7 else ids < 0)
    scene = run(made, tmp_path, held_out=(6,))
    assert scene.registered.sum() == 4
    reason = "in a group of 2 photos without matches to the other photos: 004.png, 005.png"
    assert scene.failures["004.png"] == scene.failures["005.png"] == reason
    assert scene.failures["006.png"].startswith("held out, and only 0 track points")
    assert scene.failures["007.png"] == "no verified matches with any other photo"


@pytest.mark.parametrize("mirrored", [(2,), (2, 6)])
def test_mirrored_images_are_left_out_and_named(mirrored: tuple[int, ...], tmp_path: Path) -> None:
    made = make_scene(9)
    is_mirrored = np.isin(np.arange(9), mirrored)
    pairs = [pair for pair in made.matches.pairs if is_mirrored[pair.first] == is_mirrored[pair.second]]
    matches = MatchDatabase(made.keypoints, tuple(pairs), mirrored_ids=np.array(mirrored))
    scene = run(replace(made, matches=matches), tmp_path, held_out=(6, 7))
    np.testing.assert_array_equal(scene.registered, ~is_mirrored)
    (notice,) = scene.notices
    assert notice.code == "mirrored-images"
    for image_id in mirrored:
        assert made.names[image_id] in notice.message
        assert scene.failures[made.names[image_id]].startswith("it is mirrored")


def test_two_groups_of_equal_size_are_told_apart(tmp_path: Path) -> None:
    """The mirrored group is left out though it has more matches."""
    made = make_scene(8)
    pairs = [pair for pair in made.matches.pairs if (pair.first < 4) == (pair.second < 4)]
    pairs = [replace(pair, indices=pair.indices[::2]) if pair.first < 4 else pair for pair in pairs]
    matches = MatchDatabase(made.keypoints, tuple(pairs), mirrored_ids=np.arange(4, 8))
    scene = run(replace(made, matches=matches), tmp_path)
    assert scene.registered.tolist() == [True] * 4 + [False] * 4


def test_images_that_match_only_after_flipping_are_refused(tmp_path: Path) -> None:
    made = make_scene(3, pairs=[])
    matches = replace(made.matches, mirrored_ids=np.array([1]))
    with refused("no-matches", "flip 001.png"):
        run(replace(made, matches=matches), tmp_path)


def test_images_that_cannot_be_reconstructed_are_refused(tmp_path: Path) -> None:
    with refused("no-matches"):
        run(make_scene(4, pairs=[]), tmp_path)
    with refused("no-matches", "000.png", "001.png"):
        run(make_scene(2, pairs=[]), tmp_path)
    with refused("no-matches", "000.png with 001.png", "002.png with 003.png"):
        run(make_scene(4, pairs=[(0, 1), (2, 3)]), tmp_path)
    with refused("too-few-images"):
        run(make_scene(4), tmp_path, (0, 1, 2))
    with refused("no-texture"):
        run(make_scene(4, num_points=5), tmp_path)


def test_pure_rotation_is_refused(tmp_path: Path) -> None:
    centers = np.array([0.0, -4.0, 0.0]) + np.random.default_rng(0).normal(0, 1e-4, (5, 3))
    poses = np.stack(
        [look_at(p, np.array([x, 0.0, 0.0])) for p, x in zip(centers, range(-2, 3), strict=True)]
    )
    with refused("no-baseline"):
        run(make_scene(poses=poses, noise=0.2), tmp_path)


def test_unknown_held_out_image_is_refused(tmp_path: Path) -> None:
    with refused("name-mismatch", "nowhere.jpg"):
        reconstruct(make_scene(3).write_images(tmp_path), ["nowhere.jpg"])


def test_invalid_options_are_refused(tmp_path: Path) -> None:
    folder = make_scene(3).write_images(tmp_path)
    with refused("invalid-option", "initial-focal is -1"):
        reconstruct(folder, options=SfmOptions(initial_focal=-1.0))


def test_matches_survive_the_cache() -> None:
    matches = make_scene(4, 100).matches
    loaded_matches = MatchDatabase.from_arrays(matches.to_arrays())
    for original, loaded in zip(matches.pairs, loaded_matches.pairs, strict=True):
        assert (original.first, original.second, original.homography_ratio) == (
            loaded.first,
            loaded.second,
            loaded.homography_ratio,
        )
        np.testing.assert_array_equal(original.indices, loaded.indices)
        np.testing.assert_array_equal(original.fundamental, loaded.fundamental)
    for original, loaded in zip(matches.keypoints, loaded_matches.keypoints, strict=True):
        np.testing.assert_array_equal(original.xy, loaded.xy)
        assert original.pixel_size == loaded.pixel_size
    empty = MatchDatabase.from_arrays(MatchDatabase(matches.keypoints, ()).to_arrays())
    assert empty.pairs == ()


def test_matches_key_ignores_the_device(tmp_path: Path) -> None:
    folder = make_scene(2, 50).write_images(tmp_path)
    options = MatchingSettings()
    key = matches_key(folder, options)
    assert key == matches_key(folder, replace(options, device="cpu"))
    assert key != matches_key(folder, replace(options, match_ratio=0.7))


def test_real_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Poses are better than COLMAP's (AUC@5 94.4), and a second run uses the cache."""
    data = real_scene("Herz-Jesus-P8")
    truth = read_ground_truth(data / "ground_truth.json")
    folder = find_images(data)
    held_out = [folder.images[0].name]
    scene = reconstruct(folder, held_out, cache_dir=tmp_path)
    pose_metrics = metrics(scene, truth.T_world_camera, truth.focal)
    assert pose_metrics.num_registered == 8
    assert pose_metrics.auc_5 > 97
    assert abs(pose_metrics.focal_error) < 0.3
    caplog.clear()
    again = reconstruct(folder, held_out, cache_dir=tmp_path)
    assert "Using the cached reconstruction" in caplog.text
    np.testing.assert_array_equal(again.points, scene.points)

    without = SfmOptions(mapper=MapperOptions(refine_principal_point=False))
    centered = reconstruct(folder, held_out, without, tmp_path)
    assert "Using the cached matches" in caplog.text
    assert centered.cameras[0].offset == (0.0, 0.0)
    assert metrics(centered, truth.T_world_camera, truth.focal).auc_5 > 92.5


def test_images_of_two_cameras(valley: Path, tmp_path: Path) -> None:
    """Every other image is cropped and enlarged, which changes its size and focal length."""
    truth = read_ground_truth(valley / "ground_truth.json")
    width, height = truth.size
    for index, path in enumerate(sorted((valley / "images").iterdir())):
        image = Image.open(path)
        if index % 2:
            margin_x, margin_y = width // 10, height // 10
            middle = image.crop((margin_x, margin_y, width - margin_x, height - margin_y))
            image = middle.resize((3 * middle.width // 2, 3 * middle.height // 2), Image.Resampling.BICUBIC)
        image.save(tmp_path / path.with_suffix(".png").name)
    scene = reconstruct(find_images(tmp_path))
    assert scene.registered.all()
    assert scene.cameras[0].focal == pytest.approx(truth.focal, rel=5e-3)
    assert scene.cameras[1].focal == pytest.approx(1.5 * truth.focal, rel=5e-3)
    poses = dict(zip((Path(name).stem for name in scene.image_names), scene.T_world_camera, strict=True))
    true_poses = {Path(name).stem: pose for name, pose in truth.T_world_camera.items()}
    assert compare_poses(poses, true_poses).auc_5 > 90
