"""SIMD vectors in memory: making, loading and storing them, and the pixels that they cover."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from nope_splat.splatting.rasterizer.kernels import intrinsic
from nope_splat.splatting.rasterizer.simd import BLOCK_SHAPES, Floats, Ints, broadcast


@intrinsic
def floats(typing: Any, lanes: Any, scalar: Any) -> Any:
    """Broadcast a float32 scalar to all lanes."""
    vector = Floats(lanes.count)

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return broadcast(builder, values[1], vector.llvm)

    return vector(lanes, types.float32), emit


@intrinsic
def ints(typing: Any, lanes: Any, scalar: Any) -> Any:
    """Broadcast an int32 scalar to all lanes."""
    vector = Ints(lanes.count)

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return broadcast(builder, values[1], vector.llvm)

    return vector(lanes, types.int32), emit


@intrinsic
def lane_count(typing: Any, lanes: Any) -> Any:
    """Get the number of pixels per register, a compile-time constant."""
    return types.int64(lanes), lambda *_: ir.Constant(ir.IntType(64), lanes.count)


@intrinsic
def lane_numbers(typing: Any, lanes: Any) -> Any:
    """Number the lanes: 0, 1, 2, ... as Floats."""
    vector = Floats(lanes.count)
    return vector(lanes), lambda *_: ir.Constant(vector.llvm, [float(lane) for lane in range(lanes.count)])


@intrinsic
def block_columns(typing: Any, lanes: Any) -> Any:
    """Get the x coordinate of every lane's pixel center in its block: 0.5, 1.5, ... as Floats."""
    return _block_centers(lanes, lambda lane, width: lane % width)


@intrinsic
def block_rows(typing: Any, lanes: Any) -> Any:
    """Get the y coordinate of every lane's pixel center in its block, as Floats."""
    return _block_centers(lanes, lambda lane, width: lane // width)


def _block_centers(lanes: Any, position: Any) -> Any:
    """Define a constant vector whose lane i holds one pixel-center coordinate, `position(i, block_width)`."""
    vector = Floats(lanes.count)
    width = BLOCK_SHAPES[lanes.count][0]
    centers = [position(lane, width) + 0.5 for lane in range(lanes.count)]
    return vector(lanes), lambda *_: ir.Constant(vector.llvm, centers)


@intrinsic
def block_width(typing: Any, lanes: Any) -> Any:
    """Get the width in pixels of the block of a register, a compile-time constant."""
    return types.int64(lanes), lambda *_: ir.Constant(ir.IntType(64), BLOCK_SHAPES[lanes.count][0])


@intrinsic
def block_height(typing: Any, lanes: Any) -> Any:
    """Get the height in pixels of the block of a register, a compile-time constant."""
    return types.int64(lanes), lambda *_: ir.Constant(ir.IntType(64), BLOCK_SHAPES[lanes.count][1])


def address_of(context: Any, builder: Any, array_type: Any, array: Any, index: Any, kind: ir.Type) -> Any:
    """Emit the address of an element of a numba array, as a pointer to the LLVM type `kind`."""
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def load_vector(builder: Any, address: Any) -> Any:
    """Emit the load of a vector, with the alignment of its elements."""
    value = builder.load(address)
    value.align = 4
    return value


@intrinsic
def load(typing: Any, lanes: Any, array: Any, index: Any) -> Any:
    """Load consecutive elements of a contiguous float32 or int32 array, without bounds checks."""
    vector = (Floats if array.dtype == types.float32 else Ints)(lanes.count)

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return load_vector(builder, address_of(context, builder, array, values[1], values[2], vector.llvm))

    return vector(lanes, array, types.int64), emit


def store_vector(builder: Any, value: Any, address: Any) -> None:
    """Emit the store of a vector, with the alignment of its elements."""
    builder.store(value, address).align = 4


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Store a vector to consecutive elements of a contiguous array, without bounds checks."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        store_vector(
            builder, values[2], address_of(context, builder, array, values[0], values[1], value.llvm)
        )
        return context.get_dummy_value()

    return types.void(array, types.int64, value), emit


@intrinsic
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Prefetch the cache line of an element."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        address = address_of(context, builder, array, values[0], values[1], ir.IntType(8))
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, word, word, word])
        hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(hint, [address, ir.Constant(word, 0), ir.Constant(word, 3), ir.Constant(word, 1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), emit


def _add_halves(builder: Any, left: Any, right: Any, group: int) -> Any:
    """Add the two halves of every group of lanes. The result alternates between groups of left and right."""
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
    """Emit the lane sums of N vectors with N lanes, as one vector."""
    count = group = len(vectors)
    while len(vectors) > 1:
        vectors = [
            _add_halves(builder, *pair, group) for pair in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        group //= 2
    # The sums are now in bit-reversed order.
    bits = count.bit_length() - 1
    order = [int(format(lane, f"0{bits}b")[::-1], 2) for lane in range(count)]
    index = ir.Constant(ir.VectorType(ir.IntType(32), count), order)
    return builder.shuffle_vector(vectors[0], ir.Constant(vectors[0].type, ir.Undefined), index)


@intrinsic
def store_sums(typing: Any, array: Any, index: Any, vectors: Any) -> Any:
    """Store the lane sums of a tuple of Floats consecutively, padded to a multiple of a register."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        summands = cgutils.unpack_tuple(builder, values[2], vectors.count)
        vector = vectors.dtype.llvm
        for start in range(0, len(summands), vector.count):
            group = summands[start : start + vector.count]
            group += [ir.Constant(vector, None)] * (vector.count - len(group))
            offset = builder.add(values[1], ir.Constant(ir.IntType(64), start))
            address = address_of(context, builder, array, values[0], offset, vector)
            store_vector(builder, _lane_sums(builder, group), address)
        return context.get_dummy_value()

    return types.void(array, types.int64, vectors), emit
