"""The package has no circular imports, not even for types, and lists what it depends on.

import-linter checks its layers.
"""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import networkx
import pytest

grimp = pytest.importorskip("grimp")


def cycles(graph: networkx.DiGraph) -> list[list[str]]:
    """Find groups of modules that import each other, directly or indirectly."""
    return [sorted(group) for group in networkx.strongly_connected_components(graph) if len(group) > 1]


def import_graph() -> networkx.DiGraph:
    """Build the import graph. The node of a package is its `__init__.py`."""
    graph = grimp.build_graph("nope_splat", cache_dir=None)
    edges = [
        (module, target)
        for module in graph.modules
        for target in graph.find_modules_directly_imported_by(module)
    ]
    return networkx.DiGraph(edges)


def test_package_has_no_import_cycles() -> None:
    graph = import_graph()
    assert graph.number_of_edges() > 500
    assert cycles(graph) == []


def test_cycles_are_detected() -> None:
    assert cycles(networkx.DiGraph([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")])) == [["a", "b", "c"]]


def dependencies() -> dict[str, list[str]]:
    """Names of the distributions in pyproject.toml, normalized; the required ones under ""."""
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {
        extra: [re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-") for requirement in group]
        for extra, group in groups.items()
    }


def test_what_is_imported_is_a_dependency_and_the_reverse() -> None:
    graph = grimp.build_graph("nope_splat", include_external_packages=True, cache_dir=None)
    external = {module for module in graph.modules if graph.is_module_squashed(module)}
    modules = {module.split(".")[0] for module in external} - sys.stdlib_module_names
    providers = packages_distributions()
    used = {
        module: {name.lower().replace("_", "-") for name in providers.get(module, ["(not installed)"])}
        for module in modules
    }
    listed = dependencies()
    known = {name for extra in ("", "disk", "depth", "heic") for name in listed[extra]}
    assert {module for module, names in used.items() if not names & known} == set()
    imported = set.union(*used.values())
    # open3d and fpsample are imported by nerfstudio and pinned here; ninja is found by its name.
    assert set(listed[""]) - imported == {"open3d", "fpsample", "ninja"}


def functions() -> list[tuple[str, ast.FunctionDef]]:
    """Find the functions outside the rasterizer, whose kernels and gsplat-compatible interface are long."""
    root = Path(__file__).parents[1] / "nope_splat"
    return [
        (f"{path.relative_to(root)}: {node.name}", node)
        for path in sorted(root.rglob("*.py"))
        if "rasterizer" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and not any(ast.unparse(decorator).startswith("cached_njit") for decorator in node.decorator_list)
    ]


def num_lines(node: ast.FunctionDef) -> int:
    """Count the lines of a function without its docstring."""
    first, length = node.body[0], node.end_lineno - node.lineno + 1  # pyright: ignore[reportOptionalOperand]
    if ast.get_docstring(node) is None:
        return length
    return length - (first.end_lineno - first.lineno + 1)  # pyright: ignore[reportOptionalOperand]


def test_functions_have_at_most_60_lines_and_six_parameters() -> None:
    assert len(functions()) > 700
    assert [name for name, node in functions() if num_lines(node) > 60] == []
    parameters = {
        name: {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
        for name, node in functions()
    }
    assert [name for name, names in parameters.items() if len(names - {"self", "cls"}) > 6] == []
