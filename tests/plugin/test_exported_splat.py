"""Test the `.ply` of nerfstudio's `ns-export gaussian-splat` for compatibility with other viewers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from fixtures.splat_scene import make_pipeline, set_to_truth
from plyfile import PlyData

from nope_splat.plugin.camera_optimizer import NopeCameraOptimizerConfig
from nope_splat.plugin.camera_refinement import GradientRefinement
from nope_splat.plugin.model import NopeSplatModelConfig

exporter = pytest.importorskip("nerfstudio.scripts.exporter")

ORDER = [
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
    *(f"f_rest_{i}" for i in range(45)),
    *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
]
"""Attributes of the original implementation of Gaussian splatting, for harmonics of degree 3."""


@pytest.mark.parametrize("tracks", ["separate", "tied"])
def test_attributes_have_the_usual_order_and_no_gaussian_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracks: Literal["separate", "tied"]
) -> None:
    cameras = NopeCameraOptimizerConfig(mode="SE3", refinement=GradientRefinement())
    settings = NopeSplatModelConfig(camera_optimizer=cameras, num_downscales=0, track_points=tracks)
    pipeline = make_pipeline(tmp_path, monkeypatch, model=settings)
    set_to_truth(pipeline)
    model = pipeline.model
    generator = torch.Generator().manual_seed(0)
    for group in (model.gauss_params, model.track_params):
        for name in ("features_rest", "scales", "quats") if group else ():
            group[name].data += 0.1 * torch.rand(group[name].shape, generator=generator)
    monkeypatch.setattr(exporter, "eval_setup", lambda *args, **kwargs: (None, pipeline, None, 0))
    exporter.ExportGaussianSplat(load_config=tmp_path / "config.yml", output_dir=tmp_path / "out").main()

    ply = PlyData.read(tmp_path / "out" / "splat.ply")
    (vertices,) = ply.elements
    assert vertices.name == "vertex"
    assert not ply.text
    assert [attribute.name for attribute in vertices.properties] == ORDER
    assert {attribute.val_dtype for attribute in vertices.properties} == {"f4"}
    assert len(vertices.data) == model.num_points == (120 if tracks == "tied" else 60)
    for names, values in (
        (("x", "y", "z"), model.means),
        (("f_dc_0", "f_dc_1", "f_dc_2"), model.features_dc),
        (("f_rest_0", "f_rest_15", "f_rest_30"), model.features_rest[:, 0]),  # channel by channel
        (("opacity",), model.opacities),
        (("scale_0", "scale_1", "scale_2"), model.scales),
        (("rot_0", "rot_1", "rot_2", "rot_3"), model.quats),
    ):
        exported = np.stack([vertices[name] for name in names], axis=1)
        np.testing.assert_allclose(exported, values.detach().numpy(), rtol=1e-6, err_msg=names[0])
