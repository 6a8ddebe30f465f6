"""Operations on the color channels of a pixel block: a tuple with one SIMD vector per channel.

Loops over channels are unrolled at compile time. The length of the background color, a tuple of scalars,
determines the number of channels. A kernel is compiled for each number of channels, so that its accumulators
stay in registers. In memory, each channel is a plane; the planes of successive channels start `stride`
elements apart.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from nope_splat.splatting.rasterizer.kernels import intrinsic
from nope_splat.splatting.rasterizer.simd import FAST_MATH, Floats, broadcast
from nope_splat.splatting.rasterizer.simd_memory import address_of, load_vector, store_vector


def _offset(builder: Any, start: Any, stride: Any, channel: int) -> Any:
    """Emit LLVM code for `start + stride * channel`."""
    return builder.add(start, builder.mul(stride, ir.Constant(ir.IntType(64), channel)))


@intrinsic
def zero_channels(typing: Any, lanes: Any, background: Any) -> Any:
    """Create a tuple of zero vectors, one vector per channel of `background`."""
    vector = Floats(lanes.count)
    result = types.UniTuple(vector, background.count)

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        zero = ir.Constant(vector.llvm, None)
        return context.make_tuple(builder, result, [zero] * background.count)

    return result(lanes, background), emit


@intrinsic
def broadcast_channels(typing: Any, lanes: Any, array: Any, start: Any, background: Any) -> Any:
    """Create one vector per channel of `background`; all lanes have the value `array[start + channel]`."""
    vector = Floats(lanes.count)
    result = types.UniTuple(vector, background.count)

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        data = cgutils.create_struct_proxy(array)(context, builder, values[1]).data
        unit_stride = ir.Constant(ir.IntType(64), 1)
        scalars = [
            builder.load(builder.gep(data, [_offset(builder, values[2], unit_stride, channel)]))
            for channel in range(background.count)
        ]
        return context.make_tuple(
            builder, result, [broadcast(builder, scalar, vector.llvm) for scalar in scalars]
        )

    return result(lanes, array, types.int64, background), emit


@intrinsic
def load_channels(typing: Any, lanes: Any, array: Any, start: Any, stride: Any, background: Any) -> Any:
    """Load one vector per channel of `background`, starting at `array[start + channel * stride]`."""
    vector = Floats(lanes.count)
    result = types.UniTuple(vector, background.count)

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        planes = [_offset(builder, values[2], values[3], channel) for channel in range(background.count)]
        addresses = [address_of(context, builder, array, values[1], plane, vector.llvm) for plane in planes]
        return context.make_tuple(builder, result, [load_vector(builder, address) for address in addresses])

    return result(lanes, array, types.int64, types.int64, background), emit


@intrinsic
def store_channels(typing: Any, array: Any, start: Any, stride: Any, channels: Any) -> Any:
    """Store one vector per channel, starting at `array[start + channel * stride]`."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        for channel, value in enumerate(cgutils.unpack_tuple(builder, values[3], channels.count)):
            plane = _offset(builder, values[1], values[2], channel)
            store_vector(builder, value, address_of(context, builder, array, values[0], plane, value.type))
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, channels), emit


@intrinsic
def add_weighted(typing: Any, total: Any, weight: Any, channels: Any) -> Any:
    """Compute `total + weight * channels` for each channel, with one weight per lane."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        totals = cgutils.unpack_tuple(builder, values[0], total.count)
        terms = cgutils.unpack_tuple(builder, values[2], total.count)
        sums = [
            builder.fadd(before, builder.fmul(values[1], term, flags=FAST_MATH), flags=FAST_MATH)
            for before, term in zip(totals, terms, strict=True)
        ]
        return context.make_tuple(builder, total, sums)

    return total(total, weight, channels), emit


@intrinsic
def dot_channels(typing: Any, left: Any, right: Any) -> Any:
    """Compute, in every lane, the dot product of `left` and `right` over the channels. Returns Floats."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        lefts, rights = (cgutils.unpack_tuple(builder, value, left.count) for value in values)
        result = builder.fmul(lefts[0], rights[0], flags=FAST_MATH)
        for x, y in zip(lefts[1:], rights[1:], strict=True):
            result = builder.fadd(result, builder.fmul(x, y, flags=FAST_MATH), flags=FAST_MATH)
        return result

    return left.dtype(left, right), emit
