"""Creation, loading and storing of SIMD vectors, and pixel positions of their lanes."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from nope_splat.splatting.rasterizer.kernels import intrinsic
from nope_splat.splatting.rasterizer.simd import BLOCK_SHAPES, Floats, Ints, broadcast


@intrinsic
def floats(typing: Any, lanes: Any, scalar: Any) -> Any:
    """Create a vector with a float32 scalar in all lanes."""
    vector = Floats(lanes.count)

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return broadcast(builder, values[1], vector.llvm)

    return vector(lanes, types.float32), emit


@intrinsic
def ints(typing: Any, lanes: Any, scalar: Any) -> Any:
    """Create a vector with an int32 scalar in all lanes."""
    vector = Ints(lanes.count)

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return broadcast(builder, values[1], vector.llvm)

    return vector(lanes, types.int32), emit


@intrinsic
def lane_count(typing: Any, lanes: Any) -> Any:
    """Return the number of lanes (pixels) per SIMD register, a compile-time constant."""
    return types.int64(lanes), lambda *_: ir.Constant(ir.IntType(64), lanes.count)


@intrinsic
def lane_numbers(typing: Any, lanes: Any) -> Any:
    """Create Floats with the index of each lane: 0, 1, 2 and so on."""
    vector = Floats(lanes.count)
    return vector(lanes), lambda *_: ir.Constant(vector.llvm, [float(lane) for lane in range(lanes.count)])


@intrinsic
def block_columns(typing: Any, lanes: Any) -> Any:
    """Create Floats with the distance, in pixels, of each lane's pixel center from the block's left edge."""
    return _block_centers(lanes, lambda lane, width: lane % width)


@intrinsic
def block_rows(typing: Any, lanes: Any) -> Any:
    """Create Floats with the distance, in pixels, of each lane's pixel center from the block's top edge."""
    return _block_centers(lanes, lambda lane, width: lane // width)


def _block_centers(lanes: Any, position: Any) -> Any:
    """Create a constant vector of pixel centers: lane i contains `position(i, block_width)` + 0.5, in pixels.

    `position` returns the column or the row of lane i in the block.
    """
    vector = Floats(lanes.count)
    width = BLOCK_SHAPES[lanes.count][0]
    centers = [position(lane, width) + 0.5 for lane in range(lanes.count)]
    return vector(lanes), lambda *_: ir.Constant(vector.llvm, centers)


@intrinsic
def block_width(typing: Any, lanes: Any) -> Any:
    """Return the width in pixels of the pixel block that a register covers, a compile-time constant."""
    return types.int64(lanes), lambda *_: ir.Constant(ir.IntType(64), BLOCK_SHAPES[lanes.count][0])


@intrinsic
def block_height(typing: Any, lanes: Any) -> Any:
    """Return the height in pixels of the pixel block that a register covers, a compile-time constant."""
    return types.int64(lanes), lambda *_: ir.Constant(ir.IntType(64), BLOCK_SHAPES[lanes.count][1])


def address_of(context: Any, builder: Any, array_type: Any, array: Any, index: Any, kind: ir.Type) -> Any:
    """Emit LLVM code for the address of an element of a numba array, as a pointer to the LLVM type `kind`."""
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def load_vector(builder: Any, address: Any) -> Any:
    """Emit LLVM code that loads a vector from an address aligned to 4 bytes."""
    value = builder.load(address)
    value.align = 4
    return value


@intrinsic
def load(typing: Any, lanes: Any, array: Any, index: Any) -> Any:
    """Load a vector from a contiguous float32 or int32 array, starting at `index`, without bounds checks."""
    vector = (Floats if array.dtype == types.float32 else Ints)(lanes.count)

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return load_vector(builder, address_of(context, builder, array, values[1], values[2], vector.llvm))

    return vector(lanes, array, types.int64), emit


def store_vector(builder: Any, value: Any, address: Any) -> None:
    """Emit LLVM code that stores a vector to an address aligned to 4 bytes."""
    builder.store(value, address).align = 4


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Store a vector to a contiguous array, starting at `index`, without bounds checks."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        store_vector(
            builder, values[2], address_of(context, builder, array, values[0], values[1], value.llvm)
        )
        return context.get_dummy_value()

    return types.void(array, types.int64, value), emit


@intrinsic
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Prefetch the cache line that contains element `index` of an array."""

    def emit(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        address = address_of(context, builder, array, values[0], values[1], ir.IntType(8))
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, word, word, word])
        hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(hint, [address, ir.Constant(word, 0), ir.Constant(word, 3), ir.Constant(word, 1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), emit


def _add_halves(builder: Any, left: Any, right: Any, group: int) -> Any:
    """Emit LLVM code that splits two vectors into groups of lanes, and adds the two halves of each group.

    A group consists of `group` consecutive lanes. Its halves are added lane by lane, which gives `group / 2`
    sums. In the resulting vector, the sums of each group of `left` are followed by the sums of the same group
    of `right`.
    """
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
    """Emit LLVM code that sums the lanes of each of N vectors with N lanes.

    Lane i of the resulting vector is the sum of vector i.
    """
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
    """Sum the lanes of each vector in a tuple of Floats, and store the sums starting at `array[index]`.

    The stored sums are padded with zeros to a multiple of the lane count.
    """

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
