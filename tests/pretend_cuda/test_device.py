"""Rules of a CUDA device, for the pretend device and, with `-m gpu`, for a real one.

- Tensors on the host and the device do not mix, except for scalars and indices.
- Results of operations on device tensors are on the device.
- Modules, optimizers and checkpoints work on the device, and parameters keep their identity.
- Some operations synchronize the host with the device, others do not.
"""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = torch.device("cuda", 0)
IS_PRETEND = torch.cuda.is_available() and torch.cuda.get_device_name() == "Pretend GPU"


class HostAndDevice:
    """Equal tensors on host and device."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.host = torch.rand(4, 3, generator=generator)
        self.device = self.host.to(DEVICE)
        self.index = torch.tensor([0, 1], device=DEVICE)
        self.mask = self.device > 0.5


@pytest.fixture
def tensors() -> HostAndDevice:
    return HostAndDevice()


def test_tensors_report_their_device(tensors: HostAndDevice) -> None:
    assert tensors.device.device == DEVICE
    assert tensors.device.is_cuda
    assert tensors.device.get_device() == 0
    assert not tensors.host.is_cuda
    assert tensors.host.device.type == "cpu"


REFUSED: dict[str, Callable[[HostAndDevice], Any]] = {
    "add": lambda x: x.device + x.host,
    "add to the host in place": lambda x: x.host.sum().add_(x.device.sum()),
    "matrix product": lambda x: x.device @ x.host.T,
    "product of integers": lambda x: x.index[None] @ x.index[:, None],
    "cat": lambda x: torch.cat([x.device, x.host]),
    "stack of numbers": lambda x: torch.stack([x.device.sum(), x.host.sum()]),
    "where": lambda x: torch.where(x.mask, x.device, x.host),
    "index on the device": lambda x: x.host[x.index],
    "put values of the host": lambda x: x.device.__setitem__(x.index, x.host[:2]),
    "index_add": lambda x: x.device.index_add_(0, torch.arange(4), x.device),
    "gather": lambda x: x.device.gather(0, torch.zeros(1, 3, dtype=torch.int64)),
    "numpy": lambda x: x.device.numpy(),
    "asarray": lambda x: np.asarray(x.device),
    "array of numbers": lambda x: np.array(x.device.sum()),
    "pin": lambda x: x.device.pin_memory(),
    "linear layer of the host": lambda x: nn.Linear(3, 2)(x.device),
    "random numbers by a generator of the host": lambda x: torch.rand(
        2, device=DEVICE, generator=torch.Generator()
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operations_across_devices_are_refused(name: str, tensors: HostAndDevice) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        REFUSED[name](tensors)


ALLOWED: dict[str, Callable[[HostAndDevice], Tensor]] = {
    "number of the host": lambda x: x.device + x.host.sum(),
    "number of the host first": lambda x: x.host.sum() * x.device,
    "limit of the host": lambda x: x.device.clamp(min=x.host.mean()),
    "index of the host": lambda x: x.device[torch.tensor([0, 1])],
    "list as index": lambda x: x.device[:, [0, 1]],
    "array as index": lambda x: x.device[np.array([0, 1])],
    "where with a number": lambda x: torch.where(x.mask, x.device, 0.0),
    "mask": lambda x: x.device[x.mask],
    "like": lambda x: torch.zeros_like(x.device),
    "new": lambda x: x.device.new_zeros(2),
    "new tensor": lambda x: x.device.new_tensor([1.0, 2.0]),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=DEVICE),
    "as_tensor of an array": lambda x: torch.as_tensor(np.ones(3), device=DEVICE),
    "as_tensor of itself": lambda x: torch.as_tensor(x.device),
    "to another tensor's device": lambda x: torch.eye(3).to(x.device),
    "to an index": lambda x: x.host.to(0),
    "cuda": lambda x: x.host.cuda(),
    "arange": lambda x: torch.arange(3, device=x.device.device),
    "block_diag": lambda x: torch.block_diag(x.device, x.device),
    "inverse": lambda x: torch.linalg.inv(x.device.T @ x.device),
    "matrix_exp": lambda x: torch.linalg.matrix_exp(x.device[:3]),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x.device, x.device),
    "cdist": lambda x: torch.cdist(x.device, x.device),
    "pad": lambda x: nn.functional.pad(x.device, (0, 1)),
    "meshgrid": lambda x: torch.meshgrid(x.device[0], x.device[0], indexing="xy")[0],
    "quantile": lambda x: x.device.quantile(0.5),
    "grid_sample": lambda x: nn.functional.grid_sample(
        x.device[None, None], torch.zeros(1, 2, 2, 2, device=DEVICE), align_corners=False
    ),
    "interpolate": lambda x: nn.functional.interpolate(x.device[None, None], scale_factor=2.0),
    "data": lambda x: x.device.data,
    "detach": lambda x: x.device.detach(),
    "deepcopy": lambda x: copy.deepcopy(x.device),
    "pickle": lambda x: pickle.loads(pickle.dumps(x.device)),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed_operations_return_device_tensors(name: str, tensors: HostAndDevice) -> None:
    assert ALLOWED[name](tensors).device == DEVICE


def test_values_match_the_host(tensors: HostAndDevice) -> None:
    assert torch.equal(tensors.device.cpu(), tensors.host)
    assert tensors.device.tolist() == tensors.host.tolist()
    np.testing.assert_array_equal(tensors.device.numpy(force=True), tensors.host.numpy())
    assert f"{tensors.device.sum():.3f}" == f"{tensors.host.sum():.3f}"
    assert float(tensors.device[0, 0]) == float(tensors.host[0, 0])
    assert "cuda" in repr(tensors.device)
    tensors.device[tensors.mask] = 0.0
    tensors.device[[0, 1], 0] = 5.0
    assert tensors.device.max() == 5
    assert torch.equal(tensors.device.cpu()[2:], torch.where(tensors.host > 0.5, 0.0, tensors.host)[2:])


def test_gradients_are_copied_between_devices() -> None:
    leaf = torch.rand(3, requires_grad=True)
    (leaf.to(DEVICE) * 2).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.device.type == "cpu"
    (gradient,) = torch.autograd.grad((leaf.to(DEVICE) ** 2).sum(), leaf)
    torch.testing.assert_close(gradient, 2 * leaf.detach())


def test_autograd_functions_are_checked_in_backward_passes() -> None:
    class WrongDevice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: Tensor) -> Tensor:
            return values.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return gradient * torch.ones(3)

    leaf = torch.rand(3, device=DEVICE, requires_grad=True)
    with pytest.raises(RuntimeError, match="device"):
        WrongDevice.apply(leaf).sum().backward()


def test_parameters_keep_their_identity(tensors: HostAndDevice) -> None:
    module = nn.Linear(3, 2)
    weight = module.weight
    optimizer = torch.optim.Adam(module.parameters())
    module.to(DEVICE)
    assert module.weight is weight
    assert weight.device == DEVICE
    assert isinstance(weight, nn.Parameter)
    assert isinstance(copy.deepcopy(weight), nn.Parameter)
    before = weight.detach().clone()
    module(tensors.device).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.device == DEVICE
    optimizer.step()
    assert not torch.equal(weight, before)
    weight.data = torch.zeros(5, 3, device=DEVICE)
    assert module.weight.shape == (5, 3)


@pytest.mark.parametrize("fused", [False, True])
def test_checkpoints(fused: bool, tensors: HostAndDevice) -> None:
    module = nn.Linear(3, 2).to(DEVICE)
    optimizer = torch.optim.Adam(module.parameters(), fused=fused)
    module(tensors.device).sum().backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save({"module": module.state_dict(), "optimizer": optimizer.state_dict()}, file)

    def load(**options: Any) -> dict[str, Any]:
        file.seek(0)
        return torch.load(file, weights_only=True, **options)

    assert load()["module"]["weight"].device == DEVICE
    state = load(map_location="cpu")
    assert state["module"]["weight"].device.type == "cpu"
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    assert module.weight.device == DEVICE
    assert optimizer.state[module.weight]["exp_avg"].device == DEVICE
    optimizer.step()

    host = io.BytesIO()
    torch.save(tensors.host, host)
    host.seek(0)
    assert torch.load(host, weights_only=True, map_location="cuda").device == DEVICE


def test_new_threads_have_the_device(tensors: HostAndDevice) -> None:
    raised: list[Exception] = []

    def add() -> None:
        try:
            _ = tensors.device + tensors.host
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=add)
    thread.start()
    thread.join()
    assert len(raised) == 1


def test_rng_state_can_be_restored() -> None:
    state = torch.cuda.get_rng_state()
    assert state.device.type == "cpu"
    first = torch.rand(5, device=DEVICE)
    torch.cuda.set_rng_state(state)
    assert torch.equal(first, torch.rand(5, device=DEVICE))


def count_synchronizations(operation: Callable[[], Any]) -> int:
    """Count the synchronizations of an operation on the pretend device."""
    from pretend_cuda.synchronizations import SYNCHRONIZATIONS

    before = sum(SYNCHRONIZATIONS.counts.values())
    operation()
    return sum(SYNCHRONIZATIONS.counts.values()) - before


@pytest.fixture
def strict() -> Iterator[None]:
    """Make synchronizing operations raise an error on a real device."""
    if IS_PRETEND:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


SYNCHRONIZING: dict[str, tuple[int, Callable[[HostAndDevice], Any]]] = {
    "item": (1, lambda x: float(x.device[0, 0])),
    "condition": (1, lambda x: bool(x.mask.any())),
    "download": (1, lambda x: x.device.cpu()),
    "list": (1, lambda x: x.device.tolist()),
    "upload": (1, lambda x: x.host.to(DEVICE)),
    "copy_": (1, lambda x: x.device.copy_(x.host)),
    "tensor": (1, lambda x: torch.tensor([1.0, 2.0], device=DEVICE)),
    "new tensor": (1, lambda x: x.device.new_tensor([1.0, 2.0])),
    "index of the host": (1, lambda x: x.device[torch.tensor([0, 1])]),
    "two lists as indices": (2, lambda x: x.device[[0, 1], [0, 1]]),
    "number of the device as index": (1, lambda x: x.device[x.index[0]]),
    "mask": (1, lambda x: x.device[x.mask]),
    "tensor under a mask": (1, lambda x: x.device.__setitem__(x.mask, x.device[0, 0])),
    "nonzero": (1, lambda x: x.mask.nonzero()),
    "unique": (1, lambda x: x.index.unique()),
    "bincount": (1, lambda x: torch.bincount(x.index)),
    "repeat_interleave": (1, lambda x: x.device[:2].repeat_interleave(x.index, 0)),
    "inverse": (1, lambda x: torch.linalg.inv(x.device[:3] @ x.device[:3].T + torch.eye(3, device=DEVICE))),
    "synchronize": (1, lambda x: torch.cuda.synchronize()),
}


@pytest.mark.parametrize("name", SYNCHRONIZING)
@pytest.mark.usefixtures("strict")
def test_synchronizing_operations_are_counted(name: str, tensors: HostAndDevice) -> None:
    count, operation = SYNCHRONIZING[name]
    if IS_PRETEND:
        assert count_synchronizations(lambda: operation(tensors)) == count
    elif name != "synchronize":  # the strict mode allows explicit synchronization
        with pytest.raises(RuntimeError, match="synchroniz"):
            operation(tensors)


ASYNCHRONOUS: dict[str, Callable[[HostAndDevice], Any]] = {
    "arithmetic": lambda x: (x.device * 2 + 1).sum().sqrt(),
    "number of the host": lambda x: x.device + x.host[0, 0],
    "index of the device": lambda x: x.device[x.index],
    "slice": lambda x: x.device[1:3, None, ::2],
    "number under a mask": lambda x: x.device.__setitem__(x.mask, 0.0),
    "where": lambda x: torch.where(x.mask, x.device, 0.0),
    "made there": lambda x: torch.zeros(3, device=DEVICE) + torch.arange(3, device=DEVICE),
    "full": lambda x: torch.full((3,), 0.5, device=DEVICE),
    "matrix product": lambda x: x.device @ x.device.T,
    "sort": lambda x: x.device.flatten().sort(),
    "index_add": lambda x: x.device.index_add_(0, x.index, x.device[:2] + 1),
    "repeat_interleave of known size": lambda x: x.device[:2].repeat_interleave(x.index, 0, output_size=1),
    "inverse without check": lambda x: torch.linalg.inv_ex(x.device[:3]),
    "upload without waiting": lambda x: x.host.pin_memory().to(DEVICE, non_blocking=True),
}


@pytest.mark.parametrize("name", ASYNCHRONOUS)
@pytest.mark.usefixtures("strict")
def test_asynchronous_operations_are_not_counted(name: str, tensors: HostAndDevice) -> None:
    if IS_PRETEND:
        assert count_synchronizations(lambda: ASYNCHRONOUS[name](tensors)) == 0
    else:
        ASYNCHRONOUS[name](tensors)


@pytest.mark.skipif(not IS_PRETEND, reason="for the pretend device only")
def test_unknown_memory_and_time_are_nan() -> None:
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        assert np.isnan(getattr(torch.cuda, name)())
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    assert np.isnan(start.elapsed_time(end))
