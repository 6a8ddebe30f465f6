"""Checkpoints with the device tags of a CUDA machine.

Tensors on the device are saved with the tag `cuda:0`. On loading, they are placed by `map_location`, or by
the tag without it. Any PyTorch can read these files.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any

import torch
from torch import _utils

from pretend_cuda.device import PretendTensor, unwrap, wrap

_MARK = "is_of_pretend_cuda"
_PRIORITY = 1
"""Precedes PyTorch's own taggers. The first of them, for the CPU, has priority 10."""


def _reduce(tensor: PretendTensor, protocol: Any) -> Any:
    """Reduce a device tensor for `pickle` and `torch.save`, marking its storage for the tag."""
    if getattr(tensor, "_is_param", False):
        return _utils._rebuild_parameter, (tensor.detach(), tensor.requires_grad, OrderedDict())
    rebuild, arguments = unwrap(tensor.detach()).__reduce_ex__(protocol)
    storage, *rest = arguments
    setattr(storage._untyped_storage, _MARK, True)
    rest[3] = tensor.requires_grad
    return rebuild, (storage, *rest)


def _tag(storage: Any) -> str | None:
    return "cuda:0" if getattr(_untyped(storage), _MARK, False) else None


def _place(storage: Any, location: str) -> Any:
    if not location.startswith("cuda"):
        return None
    setattr(_untyped(storage), _MARK, True)
    return storage


def _untyped(storage: Any) -> Any:
    return getattr(storage, "_untyped_storage", storage)


def install() -> None:
    """Register the device with PyTorch's serialization."""
    PretendTensor.__reduce_ex__ = _reduce  # pyright: ignore[reportAttributeAccessIssue]
    torch.serialization.register_package(_PRIORITY, _tag, _place)
    rebuild = _utils._rebuild_tensor_v2

    @functools.wraps(rebuild)
    def rebuild_on_device(storage: Any, *args: Any, **kwargs: Any) -> Any:
        tensor = rebuild(storage, *args, **kwargs)
        if not getattr(_untyped(storage), _MARK, False):
            return tensor
        return wrap(unwrap(tensor.detach())).requires_grad_(tensor.requires_grad)

    _utils._rebuild_tensor_v2 = rebuild_on_device
