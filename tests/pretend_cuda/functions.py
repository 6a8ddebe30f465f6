"""Functions that are no ATen operations: conversions, copies between devices, indexing by lists, numpy.

`FunctionMode` intercepts every call of PyTorch's Python interface. Functions in `HANDLERS` are implemented
here. For all others, it sets the ambient device by their operands (see `device.ambient`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pretend_cuda.device import (
    CUDA,
    NUMPY_MESSAGE,
    DeviceError,
    DeviceType,
    ambient,
    count_copy,
    device_type,
    is_pretend,
    tensors_in,
    unwrap,
    wrap,
)
from pretend_cuda.synchronizations import SYNCHRONIZATIONS

Handler = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


class FunctionMode(TorchFunctionMode):
    """Mode that runs the handler of a function, or the function itself."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function or its handler."""
        kwargs = dict(kwargs or {})
        handler = HANDLERS.get(func)
        if handler is None or any(_is_meta(value) for value in (kwargs.get("device"), *args[1:2])):
            return _run(func, args, kwargs)
        return handler(func, args, kwargs)


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a function, with the device of its operands as the ambient device."""
    on_device = [is_pretend(tensor) for tensor in tensors_in(args, kwargs)]
    device = kwargs.get("device")
    requests_cuda = device is not None and torch.device(device).type == "cuda"
    all_on_device = (requests_cuda or (device is None and any(on_device))) and all(on_device)
    with ambient("cuda" if all_on_device else "cpu"):
        return func(*args, **kwargs)


def _is_meta(value: object) -> bool:
    """Check whether a value is the meta device, on which networks are first created."""
    return isinstance(value, (str, torch.device)) and str(value) == "meta"


class _Move(torch.autograd.Function):
    """Copy to the other device. The backward pass copies the gradient back."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, target: DeviceType) -> Tensor:
        ctx.source_device = device_type(source)
        return _copied(source, target)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        count_copy(ctx.source_device, False)
        return _copied(gradient, ctx.source_device), None


def _copied(source: Tensor, target: DeviceType) -> Tensor:
    with torch._C._DisableTorchDispatch():
        copied = torch.ops.aten.clone(source.detach())
    return wrap(copied) if target == "cuda" else copied


def move(source: Tensor, target: DeviceType, non_blocking: bool = False) -> Tensor:
    """Copy a tensor to a device, unless it is there.

    Args:
        source: Tensor.
        target: Target device type.
        non_blocking: Whether an upload is asynchronous.
    """
    if device_type(source) == target:
        return source
    count_copy(target, non_blocking)
    if source.requires_grad and torch.is_grad_enabled():
        return _Move.apply(source, target)
    return _copied(source, target)


def _type_of(device: Any) -> DeviceType:
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        raise DeviceError(f"the pretend GPU knows cpu and cuda, not {kind}")
    return "cuda" if kind == "cuda" else "cpu"


def _to(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Run `x.to(...)` in all its forms."""
    source, *rest = args
    like = rest.pop(0) if rest and isinstance(rest[0], Tensor) else kwargs.pop("other", None)
    copy = kwargs.pop("copy", False)
    device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*rest, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
    if like is not None:
        device, dtype = like.device, like.dtype
    result = source
    if dtype is not None and dtype != source.dtype:
        with ambient(device_type(source)):
            result = torch.Tensor.to(result, dtype)
    if device is not None:
        result = move(result, _type_of(device), non_blocking)
    if copy and result is source:
        result = result.clone()
    return result if memory_format is None else result.contiguous(memory_format=memory_format)


def _download(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return move(args[0], "cpu")


def _upload(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return move(args[0], "cuda", kwargs.get("non_blocking", False))


def _download_nested(data: Any) -> Any:
    """Download the device tensors in nested lists of numbers and tensors."""
    if is_pretend(data):
        SYNCHRONIZATIONS.record("download")
        return unwrap(data.detach())
    if type(data) in (list, tuple):
        return type(data)(_download_nested(item) for item in data)
    return data


def _new_tensor(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Run `torch.tensor` and similar functions, which create tensors on the host and upload them."""
    data, *rest = args if args else (kwargs.pop("data", kwargs.pop("obj", None)),)
    device = kwargs.pop("device", None)
    if func is not torch.tensor and isinstance(data, Tensor):
        dtype = kwargs.get("dtype", rest[0] if rest else None)
        return _to(func, (data,), {"device": device, "dtype": dtype})
    keeps_device = device is None and is_pretend(data)
    with ambient("cpu"):
        result = func(_download_nested(data), *rest, **kwargs)
    if not keeps_device and (device is None or _type_of(device) == "cpu"):
        return result
    SYNCHRONIZATIONS.record("upload of new tensor")
    return wrap(unwrap(result.detach())).requires_grad_(result.requires_grad)


def _new_tensor_like(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Run `x.new_tensor(data)`."""
    like, data, *rest = args
    kwargs = {"device": like.device, "dtype": like.dtype} | kwargs
    return _new_tensor(torch.tensor, (data, *rest), kwargs) if is_pretend(like) else _run(func, args, kwargs)


def _numpy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not is_pretend(args[0]):
        return _run(func, args, kwargs)
    if not kwargs.get("force", False):
        raise TypeError(NUMPY_MESSAGE)
    SYNCHRONIZATIONS.record("download")
    return unwrap(args[0].detach()).clone().numpy()


def _to_list(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not is_pretend(args[0]):
        return _run(func, args, kwargs)
    SYNCHRONIZATIONS.record("download")
    return unwrap(args[0].detach()).tolist()


def _pin(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    if is_pretend(args[0]):
        raise DeviceError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return args[0].clone()


def _set_data(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run `x.data = y`. Unlike on CUDA, it cannot change the device of x."""
    target, value = args
    if is_pretend(target) != is_pretend(value):
        raise DeviceError(
            f"x.data = y with x on {target.device} and y on {value.device} is not supported here"
        )
    with torch._C._DisableTorchDispatch():
        func(target, value)


def _uploaded_indices(index: Any) -> Any:
    """Convert lists of indices to device tensors, with one upload for each, as in PyTorch."""
    if isinstance(index, tuple):
        return tuple(_uploaded_index(part) for part in index)
    return _uploaded_index(index)


def _uploaded_index(index: Any) -> Any:
    is_array = type(index).__module__ == "numpy" and index.ndim > 0
    if not is_array and not isinstance(index, list | tuple):
        return index
    SYNCHRONIZATIONS.record("upload of indices")
    with ambient("cpu"):
        return wrap(unwrap(torch.tensor(_download_nested(index), dtype=None if len(index) else torch.int64)))


def _get_item(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    source, index = args
    return _run(func, (source, _uploaded_indices(index)) if is_pretend(source) else args, kwargs)


def _set_item(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run `x[index] = value`."""
    target, index, value = args
    if not is_pretend(target):
        return _run(func, args, kwargs)
    index = _uploaded_indices(index)
    is_mask = is_pretend(index) and index.dtype == torch.bool
    if is_mask and not isinstance(value, Tensor):
        with ambient("cuda"):  # as PyTorch does: the number of elements is not needed
            target.masked_fill_(index.reshape(index.shape + (1,) * (target.dim() - index.dim())), value)
        return None
    return _run(func, (target, index, value), kwargs)


def _tensor_method(name: str) -> Handler:
    """Make a handler that calls the method of `PretendTensor`, even if torch calls that of the base class."""

    def handler(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return getattr(type(args[0]), name)(*args) if is_pretend(args[0]) else _run(func, args, kwargs)

    return handler


def _property(value: object) -> Handler:
    """Make a handler of a property with a fixed value for device tensors."""

    def handler(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return value if is_pretend(args[0]) else _run(func, args, kwargs)

    return handler


HANDLERS: dict[Any, Handler] = {
    torch.tensor: _new_tensor,
    torch.as_tensor: _new_tensor,
    torch.asarray: _new_tensor,
    torch.Tensor.new_tensor: _new_tensor_like,
    torch.Tensor.to: _to,
    torch.Tensor.cpu: _download,
    torch.Tensor.cuda: _upload,
    torch.Tensor.numpy: _numpy,
    torch.Tensor.tolist: _to_list,
    torch.Tensor.pin_memory: _pin,
    torch.Tensor.__getitem__: _get_item,
    torch.Tensor.__setitem__: _set_item,
    torch.Tensor.data.__set__: _set_data,  # pyright: ignore[reportAttributeAccessIssue]
    torch.Tensor.device.__get__: _property(CUDA),  # pyright: ignore[reportAttributeAccessIssue]
    torch.Tensor.is_cuda.__get__: _property(True),  # pyright: ignore[reportAttributeAccessIssue]
    torch.Tensor.is_cpu.__get__: _property(False),  # pyright: ignore[reportAttributeAccessIssue]
    **{
        getattr(torch.Tensor, name): _tensor_method(name)
        for name in ("__array__", "__repr__", "__format__", "__deepcopy__")
    },
}
