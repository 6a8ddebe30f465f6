"""Every sentence for users stands in `messages.txt`, so that its words are read and changed in one place.

The sentences of errors and log messages are read from the syntax tree of the package, with `{...}` for values
that are known only when it runs. Other tests compare the codes of errors, and what they name. After a change:

    python tests/test_messages.py
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

from nope_splat import errors

GOLDEN = Path(__file__).with_name("messages.txt")
PACKAGE = Path(__file__).parents[1] / "nope_splat"
VALUE = "{...}"
REASON = ast.Constant(f" ({VALUE}); ")
"""Middle of the messages of `io.camera_checks.parsing`."""
MODEL = ast.Constant(f"its camera model is {VALUE}, and ")
"""Start of the messages of `io.cameras.lenses.UnsuitableLens`."""
LOG_LEVELS = ("info", "warning", "error")

Constants = Mapping[str, str]
"""Strings of a module by their names."""


def templates(node: ast.expr, constants: Constants) -> list[str]:
    """The strings that an expression may give, one for each alternative."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.Name(id=name) if name in constants:
            return [constants[name]]
        case ast.FormattedValue(value=(ast.Name() | ast.IfExp()) as name):
            return templates(name, constants)
        case ast.JoinedStr(values=parts):
            return combinations(parts, constants)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return combinations([left, right], constants)
        case ast.IfExp(body=body, orelse=alternative):
            return [*templates(body, constants), *templates(alternative, constants)]
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
            return [re.sub(r"{[^}]*}", VALUE, text)]
    return [VALUE]


def combinations(parts: Sequence[ast.expr], constants: Constants) -> list[str]:
    """Concatenations of the alternatives of every part."""
    return ["".join(chosen) for chosen in itertools.product(*(templates(part, constants) for part in parts))]


def sentences(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Code or level of every message of a module, and the message."""
    constants = {
        target.id: node.value.value
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
    for node in ast.walk(module):
        match node:
            case ast.Call(func=ast.Name(id="NopeSplatError"), args=[code, message]):
                (kind,) = templates(code, constants)
            # `plugin.device` converts a `MissingKernelsError` to a `NopeSplatError` with the same code.
            case ast.Call(func=ast.Name(id="MissingKernelsError"), args=[message]):
                kind = "missing-device"
            case ast.Call(func=ast.Name(id="MissingKernelsError"), args=[message, ast.Constant(str(kind))]):
                pass
            case ast.Call(func=ast.Name(id="InvalidCamera"), args=[message]):
                kind = "reason"  # in the parentheses of an error
            case ast.Call(func=ast.Name(id="UnsuitableLens"), args=[_, reason]):
                kind, message = "reason", ast.JoinedStr([MODEL, reason])
            case ast.Call(func=ast.Name(id="parsing"), args=[source, advice]):
                kind, message = "unreadable-file", ast.JoinedStr([source, REASON, advice])
            case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr=kind), args=[message, *_]) if (
                kind in LOG_LEVELS
            ):
                pass
            case _:
                continue
        for template in templates(message, constants):
            yield kind, template


def listed() -> str:
    """All messages of the package, sorted by module, kind and words."""
    lines = []
    for path in sorted(PACKAGE.rglob("*.py")):
        found = sorted(set(sentences(ast.parse(path.read_text("utf8")))))
        if found:
            lines += [path.relative_to(PACKAGE.parent).as_posix()]
            lines += [f"    {kind}: {template}".replace("\n", "\\n") for kind, template in found]
    return "\n".join(lines) + "\n"


def test_the_golden_file_holds_every_sentence() -> None:
    assert listed() == GOLDEN.read_text("utf8"), "run `python tests/test_messages.py`, and read its changes"


def test_codes_are_explained_and_used() -> None:
    codes = get_args(errors.ErrorCode)
    explained = [
        line.strip().removeprefix("- `").partition("`: ")[0]
        for line in (errors.NopeSplatError.__doc__ or "").splitlines()
        if line.strip().startswith("- `")
    ]
    assert explained == list(codes)
    kinds = {line.strip().partition(": ")[0] for line in listed().splitlines()}
    assert set(codes) - kinds == {"unsupported-scene"}  # of benchmarks


def test_alternatives_and_constants_are_spelled_out() -> None:
    source = (
        "ADVICE = 'try again'\n"
        "logger.warning(f'{name} is {\"bad\" if bad else \"worse\"}; {ADVICE}' + '.')\n"
        "raise NopeSplatError('missing-file', f'no {path}' if path else 'no {}'.format(name))\n"
        "logger.log(3, 'of something else')\n"
    )
    assert sorted(sentences(ast.parse(source))) == [
        ("missing-file", "no {...}"),
        ("missing-file", "no {...}"),
        ("warning", "{...} is bad; try again."),
        ("warning", "{...} is worse; try again."),
    ]


if __name__ == "__main__":
    GOLDEN.write_text(listed(), "utf8")
