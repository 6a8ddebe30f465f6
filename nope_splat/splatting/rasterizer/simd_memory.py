"""Between memory and SIMD registers: making, loading and storing vectors, and the pixels that they cover."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from nope_splat.splatting.rasterizer.kernels import intrinsic
from nope_splat.splatting.rasterizer.simd import BLOCK_SHAPES, Floats, Ints, broadcast


@intrinsic
def floats(typing: Any, lanes: Any, scalar: Any) -> Any:
    """The float32 scalar in every lane."""
    vector = Floats(lanes.count)

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return broadcast(builder, values[1], vector.llvm)

    return vector(lanes, types.float32), emit


@intrinsic
def ints(typing: Any, lanes: Any, scalar: Any) -> Any:
    """The int32 scalar in every lane."""
    vector = Ints(lanes.count)

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return broadcast(builder, values[1], vector.llvm)

    return vector(lanes, types.int32), emit


@intrinsic
def lane_count(typing: Any, lanes: Any) -> Any:
    """Pixels per register, a compile-time constant."""
    return types.int64(lanes), lambda *_: ir.Constant(ir.IntType(64), lanes.count)


@intrinsic
def lane_numbers(typing: Any, lanes: Any) -> Any:
    """0, 1, 2, ... as Floats."""
    vector = Floats(lanes.count)
    return vector(lanes), lambda *_: ir.Constant(vector.llvm, [float(lane) for lane in range(lanes.count)])


@intrinsic
def block_columns(typing: Any, lanes: Any) -> Any:
    """Horizontal pixel center of every lane within its block: 0.5, 1.5, ... Floats."""
    return _block_centers(lanes, lambda lane, width: lane % width)


@intrinsic
def block_rows(typing: Any, lanes: Any) -> Any:
    """Vertical pixel center of every lane within its block. Floats."""
    return _block_centers(lanes, lambda lane, width: lane // width)


def _block_centers(lanes: Any, place: Any) -> Any:
    vector = Floats(lanes.count)
    width = BLOCK_SHAPES[lanes.count][0]
    centers = [place(lane, width) + 0.5 for lane in range(lanes.count)]
    return vector(lanes), lambda *_: ir.Constant(vector.llvm, centers)


@intrinsic
def block_width(typing: Any, lanes: Any) -> Any:
    """Width in pixels of the block that a register covers, a compile-time constant."""
    return types.int64(lanes), lambda *_: ir.Constant(ir.IntType(64), BLOCK_SHAPES[lanes.count][0])


@intrinsic
def block_height(typing: Any, lanes: Any) -> Any:
    """Height in pixels of the block that a register covers, a compile-time constant."""
    return types.int64(lanes), lambda *_: ir.Constant(ir.IntType(64), BLOCK_SHAPES[lanes.count][1])


def address_of(context: Any, builder: Any, array_type: Any, array: Any, index: Any, kind: ir.Type) -> Any:
    """Emit the address of an element of a numba array, as a pointer to the LLVM type `kind`."""
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def load_vector(builder: Any, address: Any) -> Any:
    """Emit the load of a vector that is aligned as its elements are."""
    value = builder.load(address)
    value.align = 4
    return value


@intrinsic
def load(typing: Any, lanes: Any, array: Any, index: Any) -> Any:
    """Consecutive elements of a contiguous float32 or int32 array, unchecked."""
    vector = (Floats if array.dtype == types.float32 else Ints)(lanes.count)

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return load_vector(builder, address_of(context, builder, array, values[1], values[2], vector.llvm))

    return vector(lanes, array, types.int64), emit


def store_vector(builder: Any, value: Any, address: Any) -> None:
    """Emit the store of a vector that is aligned as its elements are."""
    builder.store(value, address).align = 4


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a vector to consecutive elements of a contiguous array, unchecked."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        store_vector(
            builder, values[2], address_of(context, builder, array, values[0], values[1], value.llvm)
        )
        return context.get_dummy_value()

    return types.void(array, types.int64, value), emit


@intrinsic
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of an element that will be read soon."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        address = address_of(context, builder, array, values[0], values[1], ir.IntType(8))
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, word, word, word])
        hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(hint, [address, ir.Constant(word, 0), ir.Constant(word, 3), ir.Constant(word, 1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), emit


def _halved(builder: Any, left: Any, right: Any, group: int) -> Any:
    """Add up both halves of every group of lanes: groups of half the size, of left and right in turn."""
    count, half = left.type.count, group // 2
    lanes = [
        source + start + lane
        for start in range(0, count, group)
        for source in (0, count)
        for lane in range(half)
    ]
    index = ir.VectorType(ir.IntType(32), count)
    low = builder.shuffle_vector(left, right, ir.Constant(index, lanes))
    high = builder.shuffle_vector(left, right, ir.Constant(index, [lane + half for lane in lanes]))
    return builder.fadd(low, high)


def _lane_sums(builder: Any, vectors: list[Any]) -> Any:
    """The sums over the lanes of as many vectors as there are lanes, as one vector."""
    count = group = len(vectors)
    while len(vectors) > 1:
        vectors = [_halved(builder, *pair, group) for pair in zip(vectors[::2], vectors[1::2], strict=True)]
        group //= 2
    # Halving leaves the sums in bit-reversed order.
    bits = count.bit_length() - 1
    order = [int(format(lane, f"0{bits}b")[::-1], 2) for lane in range(count)]
    index = ir.Constant(ir.VectorType(ir.IntType(32), count), order)
    return builder.shuffle_vector(vectors[0], ir.Constant(vectors[0].type, ir.Undefined), index)


@intrinsic
def store_sums(typing: Any, array: Any, index: Any, vectors: Any) -> Any:
    """Write the sum over the lanes of every Floats of a tuple, one after the other, in whole registers."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        summands = cgutils.unpack_tuple(builder, values[2], vectors.count)
        vector = vectors.dtype.llvm
        for start in range(0, len(summands), vector.count):
            some = summands[start : start + vector.count]
            some += [ir.Constant(vector, None)] * (vector.count - len(some))
            place = builder.add(values[1], ir.Constant(ir.IntType(64), start))
            address = address_of(context, builder, array, values[0], place, vector)
            store_vector(builder, _lane_sums(builder, some), address)
        return context.get_dummy_value()

    return types.void(array, types.int64, vectors), emit
