"""Stand-ins for the functions of `torch.cuda` that query the driver, for one GPU.

Used memory and elapsed time are unknown. They are NaN, so that they cannot enter a result unnoticed.
"""

from __future__ import annotations

import types
from typing import Any

import torch

from pretend_cuda.device import DeviceError, is_pretend
from pretend_cuda.synchronizations import SYNCHRONIZATIONS

TOTAL_MEMORY = 24 * 2**30
"""Memory of the pretend GPU in bytes. Allocations are not counted."""
UNKNOWN = float("nan")
PROPERTIES = types.SimpleNamespace(
    name="Pretend GPU",
    major=8,
    minor=9,
    total_memory=TOTAL_MEMORY,
    multi_processor_count=128,
    gcnArchName="",
    is_integrated=False,
    is_multi_gpu_board=False,
)
_RETURN_VALUES: dict[str, Any] = {
    "is_available": True,
    "is_initialized": True,
    "device_count": 1,
    "current_device": 0,
    "is_bf16_supported": True,
    "is_current_stream_capturing": False,
    "get_device_name": PROPERTIES.name,
    "get_device_capability": (PROPERTIES.major, PROPERTIES.minor),
    "get_device_properties": PROPERTIES,
    "mem_get_info": (TOTAL_MEMORY, TOTAL_MEMORY),
    **dict.fromkeys(
        ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"), UNKNOWN
    ),
    **dict.fromkeys(
        ("init", "_lazy_init", "set_device", "empty_cache", "ipc_collect", "reset_peak_memory_stats"), None
    ),
    "_is_in_bad_fork": False,
}


class Stream:
    """The only stream, and the only event."""

    cuda_stream = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def record(self, *args: Any) -> None:
        """Do nothing, since operations are synchronous."""

    wait_stream = wait_event = record_event = wait = record

    def query(self) -> bool:
        """Return True, since operations are synchronous."""
        return True

    def is_capturing(self) -> bool:
        """Return False, since graphs are not supported."""
        return False

    def elapsed_time(self, end: Stream) -> float:
        """Return NaN."""
        return UNKNOWN

    def synchronize(self) -> None:
        """Count a synchronization."""
        _synchronize()


class Device:
    """Stand-in for `torch.cuda.device`."""

    def __init__(self, *args: Any) -> None: ...

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *args: object) -> None: ...


def _synchronize(*args: Any) -> None:
    SYNCHRONIZATIONS.record("synchronize")


def _get_rng_state(device: Any = "cuda") -> torch.Tensor:
    """Get the state of the CPU generator, which the device shares."""
    return torch.get_rng_state()


def _set_rng_state(state: torch.Tensor, device: Any = "cuda") -> None:
    if is_pretend(state) or state.dtype != torch.uint8:
        raise DeviceError("RNG state must be a torch.ByteTensor")
    torch.set_rng_state(state)


def install() -> None:
    """Replace functions of `torch.cuda` and `torch.accelerator` by the stand-ins."""
    cuda: Any = torch.cuda
    for name, value in _RETURN_VALUES.items():
        setattr(cuda, name, lambda *_, _value=value, **__: _value)
    for name in ("manual_seed", "manual_seed_all"):
        setattr(cuda, name, lambda seed: None)  # torch.manual_seed also seeds the CPU
    cuda.get_rng_state, cuda.set_rng_state = _get_rng_state, _set_rng_state
    cuda.get_rng_state_all = lambda: [_get_rng_state()]
    cuda.set_rng_state_all = lambda states: _set_rng_state(states[0])
    cuda.synchronize = _synchronize
    cuda.device, cuda.Stream, cuda.Event = Device, Stream, Stream
    cuda.current_stream = cuda.default_stream = Stream
    accelerator: Any = getattr(torch, "accelerator", types.SimpleNamespace())  # since torch 2.6
    accelerator.current_stream = Stream
    accelerator.current_device_index = lambda: 0
    accelerator.synchronize = _synchronize
