"""Every tensor is made on a device that somebody has chosen.

A tensor on the default device is on the CPU, where every test of a CPU finds it in its place.
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
"""Functions of torch that make a tensor from nothing but numbers."""
PACKAGE = Path(nope_splat.__file__ or next(iter(nope_splat.__path__))).parent


def factory_calls(source: str) -> Iterator[ast.Call]:
    """Calls of torch's factories, as `torch.zeros(...)`."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in FACTORIES
        ):
            module = node.func.value
            if isinstance(module, ast.Name) and module.id == "torch":
                yield node


def on_default_device(source: str) -> list[int]:
    """Lines that make a tensor without naming its device."""
    return [
        call.lineno
        for call in factory_calls(source)
        if not any(keyword.arg == "device" for keyword in call.keywords)
    ]


def test_no_tensor_is_made_on_a_default_device() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert sum(len(list(factory_calls(file.read_text()))) for file in files) > 30
    found = [f"{file}:{line}" for file in files for line in on_default_device(file.read_text())]
    assert not found


def test_a_default_device_is_found() -> None:
    assert on_default_device("x = torch.zeros(3)\ny = torch.zeros(3, device=d)\nz = x.new_zeros(3)") == [1]


def test_intrinsics_are_never_nerfstudios() -> None:
    """`Cameras.get_intrinsics_matrices` always returns a tensor of the CPU."""
    calls = [file for file in PACKAGE.rglob("*.py") if "get_intrinsics_matrices" in file.read_text()]
    assert not calls
