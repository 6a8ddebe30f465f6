"""Where tests have depth from: the procedural scene's, made worse, and tiny random networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from nope_splat.depth import DepthKind


def write_maps(valley: Path, folder: Path, kind: DepthKind, noise: float, seed: int) -> Path:
    """The valley's depth with smooth relative errors, and a scale and shift of its own in each map."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for file in sorted((valley / "depth").iterdir()):
        depth = np.load(file)["depth"].astype(np.float64)
        error = gaussian_filter(rng.normal(size=depth.shape), 15)
        depth = depth * np.exp(noise * error / error.std())
        values = 1 / depth if kind == "disparity" else depth
        shift = 0.0 if kind == "metric" else rng.uniform(-0.2, 0.5) * np.nanmedian(values)
        np.savez(folder / file.name, depth=np.exp(rng.uniform(-1, 1)) * (values + shift))
    return folder


def save_tiny(architecture: str, folder: Path) -> str:
    """Save a random network of an architecture, as its authors save theirs."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    if architecture == "depth-anything":
        backbone = transformers.Dinov2Config(
            **{name: value for name, value in small.items() if name != "intermediate_size"},
            image_size=28, patch_size=14, reshape_hidden_states=False,
            out_indices=[1, 2, 3, 4], apply_layernorm=True,
        )  # fmt: skip
        config = transformers.DepthAnythingConfig(
            backbone_config=backbone, reassemble_hidden_size=16, patch_size=14,
            neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, head_hidden_size=4,
        )  # fmt: skip
        network = transformers.DepthAnythingForDepthEstimation(config)
        size = {"height": 56, "width": 56}
        options = {"keep_aspect_ratio": True, "ensure_multiple_of": 14}
    else:
        config = transformers.DPTConfig(
            **small, image_size=32, patch_size=8, backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        )  # fmt: skip
        network = transformers.DPTForDepthEstimation(config)
        size, options = {"height": 32, "width": 32}, {}
    network.save_pretrained(folder)
    transformers.DPTImageProcessor(size=size, **options).save_pretrained(folder)
    return str(folder)
