"""Random mutations of file contents: bytes, text, nested values and arrays."""

from __future__ import annotations

import copy
import math
import random
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

ODD_NUMBERS: tuple[int | float, ...] = (
    *(0, -1, 1, 2, 3, 255, 65_536, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1),
    *(10**30, 10**400, 0.5, -0.5, -0.0, 1e-300, 1e30, 1e200, 1e308, math.nan, math.inf, -math.inf),
)
ODD_TEXTS = (
    *("", " ", "\n", "0", "-1", "nan", "true", "a", "a b", "é", "漢", "a" * 5000, "\0", "\x85", "\u2028"),
    *("\u202e", "\x9b31m", "[/x]", "..", "../a", "/", "/a", "a//b", "./a", "\ud800", "{}", "*", "!!x", "&a"),
)
ODD_VALUES: tuple[Any, ...] = (
    *ODD_NUMBERS,
    *ODD_TEXTS,
    *(None, True, False, [], {}, [1], [None], [[]], [[1, 2], [3, 4]], {"a": 1}),
)
Path = tuple[Any, ...]
"""Keys and indices that lead from the root of a nested value to one of its parts."""


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Change random bytes of a file content, or cut, remove, repeat or insert parts of it.

    Args:
        content: Content of a file.
        rng: Random number generator.

    Returns:
        The mutated content.
    """
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((1, 1, 2, 4, 8, 24, 100)))
        match rng.randrange(7):
            case 0:
                data[start:end] = rng.randbytes(end - start)
            case 1:
                data[start:end] = bytes([rng.choice((0, 255))]) * (end - start)
            case 2:
                number = rng.choice(ODD_NUMBERS)
                layout = rng.choice("fd") if isinstance(number, float) else rng.choice("BHIQ")
                size = struct.calcsize(layout)
                packed = _pack(number, layout, size)
                data[start : start + size] = packed
            case 3:
                del data[start:]
            case 4:
                del data[start:end]
            case 5:
                data[start:start] = data[start:end]
            case _:
                data[start:start] = rng.randbytes(rng.choice((1, 4, 8, 100)))
    return bytes(data)


def _pack(number: float, layout: str, size: int) -> bytes:
    """Pack a number in little-endian order; integers are reduced modulo the range of the layout."""
    if layout in "fd":
        try:
            return struct.pack(f"<{layout}", number)
        except OverflowError:
            return struct.pack(f"<{layout}", math.inf)
    return (int(number) % 256**size).to_bytes(size, "little")


def mutate_text(text: str, rng: random.Random) -> str:
    """Replace, remove or repeat random words and lines of a text.

    Args:
        text: Content of a text file.
        rng: Random number generator.

    Returns:
        The mutated text.
    """
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        index = rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                del lines[index]
                lines = lines or [""]
            case 1:
                lines.insert(rng.randrange(len(lines) + 1), lines[index])
            case 2:
                lines[index] = " " * rng.randrange(1, 5) + lines[index]
            case _:
                words = lines[index].split(" ")
                word = rng.randrange(len(words))
                match rng.randrange(4):
                    case 0:
                        del words[word]
                    case 1:
                        words.insert(word, words[word])
                    case _:
                        words[word] = odd_text(rng)
                lines[index] = " ".join(words)
    return "\n".join(lines)


def odd_text(rng: random.Random) -> str:
    """Return an unusual number or name as text, such as one with special characters or an overflowing number.

    Args:
        rng: Random number generator.
    """
    return rng.choice((str(rng.choice(ODD_NUMBERS)), rng.choice(ODD_TEXTS)))


def mutate_tree(tree: Any, rng: random.Random) -> Any:
    """Replace, remove, repeat or move random parts of nested dictionaries and lists.

    Args:
        tree: Nested value, which is not modified. Tensors and arrays in it are mutated as in `mutate_array`.
        rng: Random number generator.

    Returns:
        The mutated copy.
    """
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        paths = _paths(tree)
        if not paths:
            return rng.choice(ODD_VALUES)
        path = rng.choice(paths)
        parent = _part(tree, path[:-1])
        value = parent[path[-1]]
        match rng.randrange(8):
            case 0:
                del parent[path[-1]]
            case 1:
                parent[path[-1]] = copy.deepcopy(_part(tree, rng.choice(paths)))
            case 2 if isinstance(parent, list):
                parent.insert(path[-1], copy.deepcopy(value))
            case 2:
                parent[rng.choice((odd_text(rng), *parent))] = copy.deepcopy(value)
            case 3:
                parent[path[-1]] = [value]
            case 4 | 5 if hasattr(value, "dtype"):
                parent[path[-1]] = mutate_array(np.asarray(value), rng)
            case _:
                parent[path[-1]] = copy.deepcopy(rng.choice(ODD_VALUES))
    return tree


def _paths(tree: Any, path: Path = ()) -> list[Path]:
    """List the paths of all parts of a nested value, prefixed by `path`."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, part in children for found in ((*path, key), *_paths(part, (*path, key)))]


def _part(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def mutate_array(array: NDArray[Any], rng: random.Random) -> NDArray[Any]:
    """Change values, type or shape of an array.

    Args:
        array: The array, which is not modified.
        rng: Random number generator.

    Returns:
        The mutated copy.
    """
    array = np.array(array)
    match rng.randrange(7):
        case 0 if array.dtype.kind in "fiub":
            with np.errstate(all="ignore"):
                return array.astype(
                    rng.choice((np.float64, np.float32, np.int64, np.int32, np.bool_, np.uint8))
                )
        case 1:
            return array.reshape(-1)
        case 2 if array.ndim:
            return array[: rng.randrange(len(array) + 1)]
        case 3 if array.ndim:
            return np.concatenate([array, array[:1]])
        case 4:
            return array[None]
        case 5 if array.dtype.kind in "US":
            return np.full(array.shape, odd_text(rng).replace("\0", ""))
    if array.dtype.kind in "fiub" and array.size:
        number = rng.choice(ODD_NUMBERS)
        with np.errstate(all="ignore"):
            odd = np.array(float(max(min(number, 1e308), -1e308)) if number == number else number)
            flat = array.reshape(-1)
            start = rng.randrange(array.size)
            flat[start : start + rng.choice((1, 1, 10, array.size))] = odd.astype(array.dtype)
            return flat.reshape(array.shape)
    return np.zeros(rng.choice(((), (0,), (3,), (2, 2))))
