"""Only one loop of the package changes a damping: there are no other Levenberg-Marquardt loops."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import nope_splat

PACKAGE = Path(nope_splat.__file__).parent


def changes_damping(statement: ast.AST) -> bool:
    """Whether a statement scales something called a damping, such as `damping *= 10`."""
    if isinstance(statement, ast.AugAssign):
        return isinstance(statement.op, ast.Mult | ast.Div) and "damping" in ast.unparse(statement.target)
    if not isinstance(statement, ast.Assign) or "damping" not in ast.unparse(statement.targets[0]):
        return False
    return any(
        isinstance(part, ast.BinOp)
        and isinstance(part.op, ast.Mult | ast.Div)
        and "damping" in ast.unparse(part)
        for part in ast.walk(statement.value)
    )


def loops_on_damping(source: str) -> int:
    """Number of outermost or nested loops in whose body a damping is scaled."""
    loops = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.For | ast.While)]
    return sum(any(changes_damping(part) for part in ast.walk(loop)) for loop in loops)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("damping *= 10", 1),
        ("self.damping /= 5", 1),
        ("x, damping = y, damping / 10", 1),
        ("new_damping = max(damping / 5, 1e-9)", 1),
        ("matrix = matrix + damping * diagonal", 0),
        ("damping = result.damping", 0),
    ],
)
def test_what_counts(body: str, expected: int) -> None:
    assert loops_on_damping(f"while True:\n    {body}") == expected
    assert loops_on_damping(body) == 0


def test_one_loop_changes_the_damping() -> None:
    files = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if loops_on_damping(path.read_text())
    }
    assert files == {"geometry/levenberg_marquardt.py"}
