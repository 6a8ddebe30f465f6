"""SIMD vectors for numba: one lane per pixel, for any register width, with operators for arithmetic.

A kernel takes a `Lanes` argument, which fixes the number of pixels per register at compile time (16 on
AVX-512, 8 on AVX2, 4 on SSE2 and NEON). The kernel computes with three types of vectors:

- `Floats`, one float32 per lane: `+ - * /` with each other and with scalars, and comparisons, which give a
  `Mask`;
- `Ints`, one int32 per lane, for comparing indices;
- `Mask`, one bit per lane: `&` and `~`.

For example, `exponent = e - dx * (a * dx + b)` evaluates a whole block of pixels. The operations are emitted
as LLVM vector instructions: they depend neither on auto-vectorization nor on a compiler on the user's
machine, and one source supports all widths. numba caches a kernel under its signature, which contains the
type of `Lanes`: the lane count, and `SOURCE_STAMP`.

The lanes of a vector cover a small block of pixels, as square as possible (4x4, 4x2, 2x2). A splat with a
diameter of a few pixels intersects fewer square blocks than horizontal runs of pixels.
"""

from __future__ import annotations

import operator
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import NativeValue, models, register_model, unbox

from nope_splat.splatting.rasterizer.kernels import SOURCE_STAMP, intrinsic

FAST_MATH = ("contract", "nsz", "arcp")  # no "reassoc", so that forward and backward pass round identically
BLOCK_SHAPES = {16: (4, 4), 8: (4, 2), 4: (2, 2)}  # lanes: (width, height) of the pixel block


class Lanes:
    """Number of pixels per SIMD register, passed to kernels as a compile-time constant.

    Args:
        count: Number of pixels per register: 16, 8 or 4.

    Raises:
        ValueError: For any other count.
    """

    def __init__(self, count: int) -> None:
        if count not in BLOCK_SHAPES:
            raise ValueError(f"A SIMD register holds 4, 8 or 16 pixels, not {count}.")
        self.count = count
        self._numba_type_ = LanesType(count, SOURCE_STAMP)  # attribute that numba reads

    @classmethod
    def for_host(cls) -> Lanes:
        """Return the `Lanes` with the largest count that this processor supports."""
        try:
            features = llvm.get_host_cpu_features()
        except RuntimeError:  # not supported by LLVM on this platform
            return cls(4)
        if features.get("avx512f"):
            return cls(16)
        return cls(8 if features.get("avx2") else 4)


class LanesType(types.Type):
    """Numba type of `Lanes`.

    The name of the type contains the lane count, and a stamp that changes with the source files of this
    package, so that numba compiles kernels again after a change.
    """

    def __init__(self, count: int, stamp: int) -> None:
        self.count = count
        super().__init__(name=f"Lanes({count}, {stamp})")


class _VectorType(types.Type):
    """Numba type of a SIMD register with `count` lanes."""

    element: ir.Type
    kind: str

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(name=f"{self.kind}x{count}")

    @property
    def llvm(self) -> ir.VectorType:
        return ir.VectorType(self.element, self.count)


class Floats(_VectorType):
    """Numba type of a SIMD register with one float32 per lane."""

    element, kind = ir.FloatType(), "float32"


class Ints(_VectorType):
    """Numba type of a SIMD register with one int32 per lane."""

    element, kind = ir.IntType(32), "int32"


class Mask(_VectorType):
    """Numba type of a SIMD register with one bit per lane."""

    element, kind = ir.IntType(1), "bool"


@register_model(Floats)
@register_model(Ints)
@register_model(Mask)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: _VectorType) -> None:
        super().__init__(manager, numba_type, numba_type.llvm)


register_model(LanesType)(models.OpaqueModel)


@unbox(LanesType)
def _unbox_lanes(numba_type: LanesType, value: Any, context: Any) -> NativeValue:
    return NativeValue(context.context.get_dummy_value())


# --- arithmetic and comparison ----------------------------------------------------------------------------


def broadcast(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    """Emit LLVM code that broadcasts a scalar to all lanes of a vector."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    )


def _constant(value: float, vector: ir.VectorType) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _common_vector(operands: tuple[types.Type, ...]) -> _VectorType | None:
    """Find the vector type that the operands of an operation have in common.

    Returns:
        The type of the operands that are vectors. None if no operand is a vector, if vectors have different
        types, or if an operand is neither a vector nor a scalar.
    """
    vectors = {operand for operand in operands if isinstance(operand, _VectorType)}
    scalars = all(isinstance(operand, _VectorType | types.Number) for operand in operands)
    return vectors.pop() if len(vectors) == 1 and scalars else None


def _define_operator(
    symbol: Any, operand_type: type[_VectorType], result: type[_VectorType], emit: Any
) -> None:
    """Define a Python operator on vectors for numba. Scalar operands are broadcast to all lanes.

    Args:
        symbol: Function of the module `operator`, for example `operator.add`.
        operand_type: Type of the vector operands.
        result: Type of the result.
        emit: Function that emits the LLVM instruction, given the builder and the operands.
    """

    class Typing(AbstractTemplate):
        def generic(self, args: tuple[types.Type, ...], kws: Any) -> Any:
            vector = _common_vector(args)
            return signature(result(vector.count), *args) if isinstance(vector, operand_type) else None

    def lower(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        vector = _common_vector(sig.args)
        assert vector is not None
        element = types.float32 if isinstance(vector, Floats) else types.int32
        return emit(
            builder,
            *(
                value
                if isinstance(kind, _VectorType)
                else broadcast(builder, context.cast(builder, value, kind, element), vector.llvm)
                for kind, value in zip(sig.args, values, strict=True)
            ),
        )

    register: Any = infer_global(symbol)
    register(Typing)
    number = types.Number
    pairs = ((operand_type, operand_type), (operand_type, number), (number, operand_type))
    for operands in ((operand_type,),) if symbol is operator.invert else pairs:
        lower_builtin(symbol, *operands)(lower)


_define_operator(operator.add, Floats, Floats, lambda b, x, y: b.fadd(x, y, flags=FAST_MATH))
_define_operator(operator.sub, Floats, Floats, lambda b, x, y: b.fsub(x, y, flags=FAST_MATH))
_define_operator(operator.mul, Floats, Floats, lambda b, x, y: b.fmul(x, y, flags=FAST_MATH))
_define_operator(operator.truediv, Floats, Floats, lambda b, x, y: b.fdiv(x, y, flags=FAST_MATH))
_define_operator(operator.ge, Floats, Mask, lambda b, x, y: b.fcmp_ordered(">=", x, y))
_define_operator(operator.gt, Floats, Mask, lambda b, x, y: b.fcmp_ordered(">", x, y))
_define_operator(operator.le, Floats, Mask, lambda b, x, y: b.fcmp_ordered("<=", x, y))
_define_operator(operator.gt, Ints, Mask, lambda b, x, y: b.icmp_signed(">", x, y))
_define_operator(operator.and_, Mask, Mask, lambda b, x, y: b.and_(x, y))
_define_operator(operator.invert, Mask, Mask, lambda b, x: b.not_(x))


def _select_by(comparison: str) -> Any:
    """Create the body of an intrinsic that selects x in lanes where `x comparison y` holds, otherwise y.

    `comparison` is "<" or ">". The intrinsic's argument x is Floats; y is Floats or a scalar.
    """

    def choose(typing: Any, x: Any, y: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            left, right = values
            if not isinstance(y, Floats):
                right = broadcast(builder, right, x.llvm)
            return builder.select(builder.fcmp_ordered(comparison, left, right), left, right)

        return x(x, y if isinstance(y, Floats) else types.float32), emit

    return choose


@intrinsic
def minimum(typing: Any, x: Any, y: Any) -> Any:
    """Compute the minimum of x and y in every lane. x is Floats; y is Floats or a scalar."""
    return _select_by("<")(typing, x, y)


@intrinsic
def maximum(typing: Any, x: Any, y: Any) -> Any:
    """Compute the maximum of x and y in every lane. x is Floats; y is Floats or a scalar."""
    return _select_by(">")(typing, x, y)


@intrinsic
def square_root(typing: Any, x: Any) -> Any:
    """Compute the square root in every lane."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        kind = ir.FunctionType(x.llvm, [x.llvm])
        root = cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{x.count}f32")
        return builder.call(root, values)

    return x(x), emit


@intrinsic
def truncated(typing: Any, x: Any) -> Any:
    """Truncate the float32 in every lane toward zero. Returns Ints."""
    vector = Ints(x.count)

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return builder.fptosi(values[0], vector.llvm)

    return vector(x), emit


@intrinsic
def absolute(typing: Any, x: Any) -> Any:
    """Compute the absolute value in every lane."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        bits = ir.VectorType(ir.IntType(32), x.count)
        return builder.bitcast(
            builder.and_(builder.bitcast(values[0], bits), _constant(0x7FFFFFFF, bits)), x.llvm
        )

    return x(x), emit


@intrinsic
def exp2(typing: Any, x: Any) -> Any:
    """Compute 2^x for the value x in every lane.

    For -8 <= x <= 0, the relative error is at most 7e-7. Computes `2**x = (2**(x / 8))**8` with a polynomial
    of degree five for the inner power.
    """

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        eighth = builder.fmul(values[0], _constant(0.125, x.llvm), flags=FAST_MATH)
        power = _constant(0.00093878797, x.llvm)
        for coefficient in (0.00918861078, 0.0552797217, 0.240172189, 0.693142253, 0.999999925):
            product = builder.fmul(power, eighth, flags=FAST_MATH)
            power = builder.fadd(product, _constant(coefficient, x.llvm), flags=FAST_MATH)
        for _ in range(3):
            power = builder.fmul(power, power, flags=FAST_MATH)
        return power

    return x(x), emit


@intrinsic
def select(typing: Any, mask: Any, x: Any, y: Any) -> Any:
    """Select x in lanes where the mask is set, otherwise y; x and y are both Floats or both Ints."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return builder.select(*values)

    return x(mask, x, x), emit


@intrinsic
def any_lane(typing: Any, mask: Any) -> Any:
    """Check whether the mask is set in at least one lane."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        bits = ir.IntType(mask.count)
        return builder.icmp_unsigned("!=", builder.bitcast(values[0], bits), ir.Constant(bits, 0))

    return types.boolean(mask), emit
