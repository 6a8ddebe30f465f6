"""The package has no import circles, not even for types; its layers are checked by import-linter."""

from __future__ import annotations

import networkx
import pytest

grimp = pytest.importorskip("grimp")


def circles(graph: networkx.DiGraph) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    return [sorted(group) for group in networkx.strongly_connected_components(graph) if len(group) > 1]


def imports() -> networkx.DiGraph:
    """Which module imports which; a package stands for its `__init__.py`."""
    graph = grimp.build_graph("nope_splat", cache_dir=None)
    edges = [
        (module, target)
        for module in graph.modules
        for target in graph.find_modules_directly_imported_by(module)
    ]
    return networkx.DiGraph(edges)


def test_no_circles() -> None:
    graph = imports()
    assert graph.number_of_edges() > 500
    assert circles(graph) == []


def test_a_circle_is_found() -> None:
    assert circles(networkx.DiGraph([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")])) == [["a", "b", "c"]]
