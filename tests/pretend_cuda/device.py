"""Tensors of the pretend device, and the rules for ATen operations on them.

A `PretendTensor` shares the memory of an ordinary tensor and reports the device `cuda:0` to Python; for
PyTorch's C++ code it is a CPU tensor. A dispatch mode intercepts every ATen operation: `dispatch` refuses
operations that CUDA refuses, counts synchronizations, computes on the CPU and wraps the results.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pretend_cuda.synchronizations import SYNCHRONIZATIONS

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
DeviceType = Literal["cpu", "cuda"]
NUMPY_MESSAGE = (
    "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory"
    " first."
)

aten = torch.ops.aten
_COPIES = {aten._to_copy.default, aten.copy_.default}
_READ_INDEX = {aten.index.Tensor, aten._unsafe_index.Tensor}
_INDEXING = _READ_INDEX | {aten.index_put_.default, aten._index_put_impl_.default, aten.index_put.default}
_SCALAR_OPERANDS = {
    aten.fill_.Tensor,
    aten.masked_fill_.Tensor,
    aten.masked_fill.Tensor,
    aten.where.self,
    aten.index_fill_.int_Tensor,
    aten.index_fill.int_Tensor,
}
"""Operations other than pointwise ones that accept a zero-dimensional CPU tensor as a scalar."""
_SYNCHRONIZING = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.bincount.default: "bincount",
    aten.histc.default: "histc",
    aten.equal.default: "equal",
    aten._linalg_check_errors.default: "check of linear algebra",
    aten._linalg_eigh.default: "check of linear algebra",
    aten._linalg_svd.default: "check of linear algebra",
    aten.linalg_lstsq.default: "check of linear algebra",
    aten.linalg_matrix_exp.default: "matrix_exp",
}
"""Operations that return a value to the host, or whose output size depends on values."""
_MATRIX_PRODUCTS = {
    aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default,
    aten.mv.default, aten.dot.default, aten.addmv.default,
}  # fmt: skip
"""Operations that CUDA supports for floating-point types only."""
_KERNEL_KEYS = (
    "CUDA",
    "CompositeExplicitAutograd",
    "CompositeImplicitAutograd",
    "CompositeExplicitAutogradNonFunctional",
)
_has_kernel: dict[Any, bool] = {}
_ambient = threading.local()


class DeviceError(RuntimeError):
    """An operation that CUDA refuses."""


class PretendTensor(torch.Tensor):
    """A tensor that reports the device `cuda:0`, created by `wrap`."""

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Always `cuda:0`."""
        return CUDA

    is_cuda = property(lambda self: True)  # pyright: ignore[reportAssignmentType]
    is_cpu = property(lambda self: False)  # pyright: ignore[reportAssignmentType]

    def get_device(self) -> int:
        """Index of the device."""
        return 0

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType] (`functions` intercepts all calls)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(NUMPY_MESSAGE)

    def __repr__(self, **kwargs: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"pretend_cuda({unwrap(self.detach())!r})"

    def __format__(self, format_spec: str) -> str:
        if self.dim() == 0:
            return format(torch.Tensor.item(self), format_spec)
        return object.__format__(self, format_spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied = wrap(unwrap(self.detach()).clone())
            copied.requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False):
                copied._is_param = True
            memo[id(self)] = copied
        return memo[id(self)]


def is_pretend(value: object) -> bool:
    """Check whether a value is a tensor on the pretend device."""
    return isinstance(value, PretendTensor)


def wrap(value: Any) -> Any:
    """Wrap a CPU tensor as a tensor on the device that shares its memory. Return other values unchanged."""
    if isinstance(value, Tensor) and not isinstance(value, PretendTensor):
        return torch.Tensor._make_subclass(PretendTensor, value, False)
    return value


def unwrap(value: Any) -> Any:
    """Unwrap a pretend tensor to a CPU tensor that shares its memory, without gradient.

    Other values are returned unchanged.
    """
    if not is_pretend(value):
        return value
    with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
        return aten.alias(value)


def _wrap_all(results: Any) -> Any:
    """Wrap the results of an ATen operation: one tensor, several, or none."""
    if isinstance(results, (list, tuple)):
        return type(results)(_wrap_all(result) for result in results)
    return wrap(results)


def device_type(value: Tensor) -> DeviceType:
    """Get the device type of a tensor."""
    return "cuda" if is_pretend(value) else "cpu"


@contextmanager
def ambient(device: DeviceType) -> Iterator[None]:
    """Set the device of tensors that C++ code creates like its operands, which it believes to be on the CPU.

    Args:
        device: Device of the operands.
    """
    before = ambient_device()
    _ambient.device = device
    try:
        yield
    finally:
        _ambient.device = before


def ambient_device() -> DeviceType:
    """Get the device that `ambient` has set."""
    return getattr(_ambient, "device", "cpu")


def tensors_in(*values: Any) -> list[Tensor]:
    """Find all tensors in nested containers."""
    tensors: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, (list, tuple)) and value:
            tensors += tensors_in(*value)
        elif isinstance(value, dict) and value:
            tensors += tensors_in(*value.values())
    return tensors


class DispatchMode(TorchDispatchMode):
    """Mode that passes every ATen operation to `dispatch`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation by `dispatch`."""
        return dispatch(func, args, kwargs or {})


def dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one ATen operation under the rules of the device.

    Args:
        func: The operation.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Raises:
        DeviceError: If CUDA refuses the operation.
    """
    if func in _COPIES:
        return _copy(func, args, kwargs)
    tensors = tensors_in(args, kwargs)
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    on_device = any(is_pretend(tensor) for tensor in tensors)
    if (on_device or device == "cuda") and kwargs.get("generator") is not None:
        raise DeviceError(f"{func}: expected a 'cuda' device type for generator but found 'cpu'")
    if not on_device:
        if device == "cuda":
            return _wrap_all(func(*args, **kwargs | {"device": CPU}))
        results = func(*args, **kwargs)
        created_like_operands = not tensors and ambient_device() == "cuda"
        return _wrap_all(results) if created_like_operands else results
    _check_devices(func, args, tensors)
    _check_kernel(func, tensors)
    _count(func, args, kwargs)
    if device is not None:
        kwargs = kwargs | {"device": CPU}
    with torch._C._DisableTorchDispatch():
        results = func(*args, **kwargs)
    to_host = device == "cpu" and ambient_device() == "cpu"
    return results if to_host else _wrap_all(results)


def _check_devices(func: Any, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    """Refuse operands on both devices. At least one operand is on the pretend device."""
    on_host = [tensor for tensor in tensors if not is_pretend(tensor)]
    if not on_host:
        return
    if func in _INDEXING:
        if not is_pretend(args[0]):
            raise DeviceError(
                f"{func}: indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        if func not in _READ_INDEX and not is_pretend(args[2]) and args[2].dim() > 0:
            raise DeviceError(f"{func}: expected the values on the device of the indexed tensor (cuda:0)")
        return
    if ambient_device() == "cuda":
        return  # created by torch inside an operation on device tensors
    accepts_scalars = torch.Tag.pointwise in func.tags or func in _SCALAR_OPERANDS
    writes_to_host = func._schema.is_mutable and isinstance(args[0], Tensor) and not is_pretend(args[0])
    if writes_to_host or not accepts_scalars or any(tensor.dim() for tensor in on_host):
        operands = [(tuple(tensor.shape), str(tensor.device)) for tensor in tensors]
        raise DeviceError(
            f"{func}: Expected all tensors to be on the same device, but found at least two devices,"
            f" cuda:0 and cpu! {operands}"
        )


def _check_kernel(func: Any, tensors: list[Tensor]) -> None:
    """Refuse operations without a CUDA kernel, if this build of torch knows its CUDA kernels."""
    if func in _MATRIX_PRODUCTS and not tensors[0].dtype.is_floating_point:
        raise DeviceError(f"{func}: not implemented for {tensors[0].dtype} on CUDA")
    if torch.version.cuda is None:
        return
    if func not in _has_kernel:
        name = func.name()
        _has_kernel[func] = func.namespace != "aten" or any(
            torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in _KERNEL_KEYS
        )
    if not _has_kernel[func]:
        raise DeviceError(f"{func}: there is no kernel for CUDA")


def _count(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Count the synchronizations of an operation on the device."""
    record = SYNCHRONIZATIONS.record
    if func in _SYNCHRONIZING:
        record(_SYNCHRONIZING[func])
    elif func in _INDEXING:
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        for index in indices:
            if not is_pretend(index):
                record("upload of indices")
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            record("boolean mask")
    elif func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
        record("repeat_interleave")


def _copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Copy a tensor between devices, or on one device."""
    if func is aten.copy_.default:
        destination, source = args[:2]
        if device_type(destination) != device_type(source):
            count_copy(device_type(destination), len(args) > 2 and args[2])
        with torch._C._DisableTorchDispatch():
            func(*args, **kwargs)
        return destination
    source, device = args[0], kwargs.get("device")
    target = device_type(source) if device is None else torch.device(device).type
    if ambient_device() == "cuda":
        target = "cuda"
    if device is not None:
        kwargs = kwargs | {"device": CPU}
    if target != device_type(source):
        count_copy(target, kwargs.get("non_blocking", False))
    with torch._C._DisableTorchDispatch():
        copied = func(*args, **kwargs)
    return wrap(copied) if target == "cuda" else copied


def count_copy(target: str, non_blocking: bool) -> None:
    """Count a copy between devices.

    Uploads with `non_blocking` do not count, because the host does not wait for them. Downloads always count,
    because the host has to wait before it can read the result.

    Args:
        target: Device type of the copy.
        non_blocking: Argument of the caller.
    """
    if target != "cuda":
        SYNCHRONIZATIONS.record("download")
    elif not non_blocking:
        SYNCHRONIZATIONS.record("upload")
