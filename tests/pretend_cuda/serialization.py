"""Checkpoints as a CUDA machine writes and reads them.

Tensors of the device are saved with the tag `cuda:0`. On loading, `map_location` decides where they come to
lie, and what has the tag stays on the device without it. Such files can be read by any PyTorch.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any

import torch
from torch import _utils

from pretend_cuda.device import PretendTensor, plain, wrap

_MARK = "is_of_pretend_cuda"
_PRIORITY = 1
"""Before PyTorch's own taggers, of which that of the CPU (10) comes first."""


def _reduce(tensor: PretendTensor, protocol: Any) -> Any:
    """How `pickle` and `torch.save` see a tensor of the device: as one whose storage has the tag."""
    if getattr(tensor, "_is_param", False):
        return _utils._rebuild_parameter, (tensor.detach(), tensor.requires_grad, OrderedDict())
    rebuild, arguments = plain(tensor.detach()).__reduce_ex__(protocol)
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
    """Teach PyTorch's serialization the device."""
    PretendTensor.__reduce_ex__ = _reduce  # pyright: ignore[reportAttributeAccessIssue]
    torch.serialization.register_package(_PRIORITY, _tag, _place)
    rebuild = _utils._rebuild_tensor_v2

    @functools.wraps(rebuild)
    def rebuild_on_device(storage: Any, *args: Any, **kwargs: Any) -> Any:
        tensor = rebuild(storage, *args, **kwargs)
        if not getattr(_untyped(storage), _MARK, False):
            return tensor
        return wrap(plain(tensor.detach())).requires_grad_(tensor.requires_grad)

    _utils._rebuild_tensor_v2 = rebuild_on_device
