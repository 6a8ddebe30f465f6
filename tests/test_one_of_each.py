"""Each formula of the geometry has one definition, and what others need they import from there."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import nope_splat

PACKAGE = Path(nope_splat.__file__).parent
COMPILED = "splatting/rasterizer/"
"""The kernels, which numba and CUDA compile, have a projection of their own."""


@dataclass(frozen=True)
class Formula:
    """How a second definition would look."""

    name: str
    """What it is."""
    pattern: str
    """Regular expression for a line of code, as `ast.unparse` writes it."""
    home: tuple[str, ...]
    """Modules that may contain it."""
    instead: str
    """What to call elsewhere."""
    examples: tuple[str, ...]
    """Code that the pattern must find."""


FORMULAS = [
    Formula(
        "radial distortion",
        r"1 \+ (?P<s>[\w.]+(\[[^\]]*\])?) \* \(.* \+ (?P=s) \* |1 \+ [\w.]*k1 \* ",
        ("geometry/distortion.py",),
        "geometry.distortion.radial_scale, distort, undistort",
        (
            "1 + square * (k1 + square * k2)",
            "scale = 1 + s * (radial[..., :1] + s * radial[..., 1:])",
            "d = (1 + k1 * r2 + k2 * r2**2) * p",
            "slope = 1 + r2 * (3 * k1 + r2 * 5 * k2)",
        ),
    ),
    Formula(
        "Jacobian of radial distortion",
        r"2 \* [\w.]*k1 \+ 4 \* [\w.]*k2",
        ("geometry/distortion.py",),
        "geometry.distortion.distortion_jacobian",
        ("slope = 2 * k1 + 4 * k2 * square",),
    ),
    Formula(
        "perspective projection",
        r"\w\[[^\[\]]*, :2\](\.\w+\([\w.]*\))? / ",
        ("geometry/projection.py",),
        "geometry.projection.perspective, project",
        (
            "x = points[:, :2] / points[:, 2:]",
            "x = focal * points[..., :2] / depth.clamp(min=0.1)",
            "x = points[:, :2].astype(np.float64) / points[:, 2:]",
            "x = points[front, :2] / depth",
        ),
    ),
    Formula(
        "derivative of the projection by a rotation",
        r"1 \+ (?P<u>[uvxy]) \* (?P=u)\b|1 \+ [uvxy] \*\* 2",
        ("geometry/projection.py",),
        "geometry.projection.rotation_jacobian",
        ("row = (-u * v, 1 + u * u, -v)", "row = (-x * y, 1 + x**2, -y)"),
    ),
    Formula(
        "skew-symmetric matrix",
        r"-z, y, z\b",
        ("geometry/rigid.py",),
        "geometry.rigid.skew",
        ("torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1)",),
    ),
    Formula(
        "exponential or logarithm of a rotation",
        r"matrix_exp\(|from_rotvec\(|as_rotvec\(|cv2\.Rodrigues\(",
        ("geometry/rigid.py",),
        "geometry.rigid.rotation_exp, rotation_log, move_poses",
        ("torch.linalg.matrix_exp(a)", "Rotation.from_rotvec(v).as_matrix()", "R.as_rotvec()"),
    ),
    Formula(
        "nearest rotation, Procrustes or Umeyama fit",
        r"linalg\.svd\((?!.*compute_uv=False)",
        ("geometry/rigid.py",),
        "geometry.rigid.nearest_rotation, geometry.similarity.align_groups",
        ("left, singular, right = np.linalg.svd(covariance)", "torch.linalg.svd(a)"),
    ),
    Formula(
        "flip of axes",
        r"diag\(\[1(\.0)?, -1(\.0)?, -1(\.0)?|\[1(\.0)?, -1(\.0)?, -1(\.0)?, 1(\.0)?\]",
        ("geometry/axes.py",),
        "geometry.axes.switch_axes, OPENCV_FROM_OPENGL",
        ("flip = np.diag([1, -1, -1, 1])", "flip = torch.tensor([1.0, -1.0, -1.0, 1.0])"),
    ),
    Formula(
        "constant of robust statistics",
        r"\b(1\.482\d*|2\.385|1\.345|1\.349)\b",
        ("geometry/robust.py",),
        "geometry.robust.robust_sigma, CAUCHY, HUBER, NORMAL_IQR",
        ("sigma = 1.4826 * np.median(abs(r))", "CAUCHY = 2.385", "huber: float = 1.345"),
    ),
    Formula(
        "Cauchy cost or weight",
        r"(?<!math\.)\blog1p\(|1 / \(1 \+ ",
        ("geometry/robust.py",),
        "geometry.robust.cauchy_cost, cauchy_weight",
        ("c**2 * torch.log1p(squared / c**2)", "weight = 1 / (1 + (r / scale) ** 2)"),
    ),
    Formula(
        "Huber cost or weight",
        r"2 \* [\w.]+ \* \w+ - [\w.]+ \*\* 2|length - 0\.5|huber / |\bhuber_loss\(",
        ("geometry/robust.py",),
        "geometry.robust.huber_cost, huber_weight",
        ("2 * delta * length - delta**2", "length - 0.5", "(problem.huber / length).clamp(max=1.0)"),
    ),
    Formula(
        "pose estimation",
        r"poselib\.(estimate|refine)_(absolute|relative)_pose\b|solvePnP",
        ("sfm/pose_estimation.py",),
        "sfm.pose_estimation.estimate_absolute_pose, estimate_relative_pose",
        (
            "pose, info = poselib.estimate_absolute_pose(xy, X, camera)",
            "poselib.estimate_relative_pose(a, b)",
        ),
    ),
    Formula(
        "camera as poselib takes it",
        r"'model': .*'params': ",
        ("sfm/pose_estimation.py",),
        "sfm.pose_estimation.poselib_camera",
        ("c = {'model': 'SIMPLE_PINHOLE', 'width': 0, 'height': 0, 'params': [f, 0.0, 0.0]}",),
    ),
    Formula(
        "spanning tree",
        r"\bminimum_spanning_tree\(|maximum_spanning_tree\(",
        (
            "scene/tracks.py",
            "matching/retrieval.py",
        ),  # retrieval connects images by distances, not by matches
        "scene.tracks.maximum_spanning_forest",
        ("tree = minimum_spanning_tree(graph)",),
    ),
]


def code_lines(source: str) -> list[str]:
    """Statements as `ast.unparse` writes them, without docstrings and comments."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # a string by itself is a docstring
            texts = [
                each
                for each in body
                if isinstance(each, ast.Expr)
                and isinstance(each.value, ast.Constant)
                and isinstance(each.value.value, str)
            ]
            node.body = [each for each in body if each not in texts] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree).splitlines()


@pytest.fixture(scope="module")
def modules() -> dict[str, list[str]]:
    """Lines of code of each module that is not compiled, by its path in the package."""
    paths = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
    return {name: code_lines(path.read_text()) for name, path in paths.items() if COMPILED not in name}


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.name)
def test_formula_is_defined_once(formula: Formula, modules: dict[str, list[str]]) -> None:
    assert set(formula.home) <= set(modules)
    second = [
        f"{name}: {line.strip()}"
        for name, lines in modules.items()
        if name not in formula.home
        for line in lines
        if re.search(formula.pattern, line)
    ]
    assert not second, f"{formula.name} is defined again; use {formula.instead}"


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.name)
def test_second_definitions_are_found(formula: Formula) -> None:
    for example in formula.examples:
        assert any(re.search(formula.pattern, line) for line in code_lines(example)), example


def test_docstrings_and_comments_are_no_definitions() -> None:
    source = 'def f():\n    """Compute points[:, :2] / points[:, 2:]."""\n    return 1  # 1.4826\n'
    assert code_lines(source) == ["def f():", "    return 1"]
