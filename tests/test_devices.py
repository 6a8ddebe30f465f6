"""Every tensor is created on an explicit device.

Tests on a CPU cannot detect a tensor that is created on the default device by mistake.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import nope_splat

FACTORIES = {
    "arange", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint", "randn", "randperm",
    "tensor", "zeros",
}  # fmt: skip
"""Functions of torch that create a tensor without a tensor argument."""
PACKAGE = Path(nope_splat.__file__ or next(iter(nope_splat.__path__))).parent


def factory_calls(source: str) -> Iterator[ast.Call]:
    """Find calls of torch's factories, such as `torch.zeros(...)`."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in FACTORIES
        ):
            module = node.func.value
            if isinstance(module, ast.Name) and module.id == "torch":
                yield node


def lines_without_device(source: str) -> list[int]:
    """Find lines that create a tensor without a device argument."""
    return [
        call.lineno
        for call in factory_calls(source)
        if not any(keyword.arg == "device" for keyword in call.keywords)
    ]


def test_tensors_are_created_on_explicit_devices() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert sum(len(list(factory_calls(file.read_text()))) for file in files) > 30
    violations = [f"{file}:{line}" for file in files for line in lines_without_device(file.read_text())]
    assert not violations


def test_default_devices_are_detected() -> None:
    assert lines_without_device("x = torch.zeros(3)\ny = torch.zeros(3, device=d)\nz = x.new_zeros(3)") == [1]


def test_nerfstudios_intrinsic_matrices_are_not_used() -> None:
    """`Cameras.get_intrinsics_matrices` always returns a tensor on the CPU."""
    calls = [file for file in PACKAGE.rglob("*.py") if "get_intrinsics_matrices" in file.read_text()]
    assert not calls
