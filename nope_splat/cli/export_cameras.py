"""The command `nope-splat export-cameras`, which exports optimized cameras for other tools."""

from __future__ import annotations

from pathlib import Path

from nope_splat.io.export import check_output_folder, write_colmap, write_report, write_transforms
from nope_splat.io.image_export import export_images, export_masks
from nope_splat.plugin.load_run import open_run, optimized_scene
from nope_splat.utils.terminal import printable


def export_cameras(load_config: Path, output_dir: Path, copy_images: bool = False) -> None:
    """Export the optimized cameras and track points of a training run.

    Writes `transforms.json` with `sparse_pc.ply` (nerfstudio), `sparse/0` and `sparse_text/0` (COLMAP model,
    binary and text), `report.json` (statistics), `images/` with the registered images, and `masks/` if any
    registered image has a mask.

    Args:
        load_config: Path of the `config.yml` of the training run.
        output_dir: Output folder; created if missing. The command fails instead of replacing a file that
            nope-splat did not write.
        copy_images: Whether to copy the images instead of creating symbolic links to them.
    """
    check_output_folder(output_dir)
    pipeline = open_run(load_config).pipeline
    folder = pipeline.datamanager.dataparser.folder
    original, masks = optimized_scene(pipeline), output_dir / "masks"
    scene = export_images(original, folder, output_dir / "images", copy_images)
    masked = export_masks(original, folder, masks, scene.image_names)
    write_transforms(scene, output_dir / "images", output_dir / "transforms.json", masks if masked else None)
    write_colmap(scene, output_dir / "sparse" / "0")
    write_colmap(scene, output_dir / "sparse_text" / "0", text=True)
    write_report(original, output_dir / "report.json", folder.skipped)
    count, iterations = int(scene.registered.sum()), pipeline.model.step + 1
    text = f"{count} cameras and {len(scene.points)} points after {iterations} iterations: {output_dir}"
    print(printable(text))
