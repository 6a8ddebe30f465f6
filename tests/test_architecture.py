"""The package has no circular imports, not even for types. import-linter checks its layers."""

from __future__ import annotations

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
