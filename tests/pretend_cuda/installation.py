"""Installation of the pretend device, for the rest of the process."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import torch

from pretend_cuda import driver, gsplat_kernels, serialization
from pretend_cuda.device import DispatchMode
from pretend_cuda.functions import FunctionMode


def install(exact: bool = False) -> None:
    """Add a pretend GPU to this process. Call it before anything queries torch for GPUs.

    Args:
        exact: Whether to composite tile by tile as gsplat does on a GPU, which takes seconds for a large
            image. Otherwise the CPU rasterizer composites, without truncation of splats at tiles.
    """
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # compiled code would bypass the modes
    driver.install()
    serialization.install()
    gsplat_kernels.install(exact)
    # Keep the identity of parameters in Module.to, as on CUDA, although their class changes.
    torch.nn.Module._apply = _with_parameter_swapping(torch.nn.Module._apply)
    # Backward passes call Python functions from C++, where the function mode is disabled.
    torch.autograd._engine_run_backward = _with_function_mode(torch.autograd._engine_run_backward)  # pyright: ignore[reportPrivateImportUsage]
    threading.Thread._bootstrap_inner = _with_modes(threading.Thread._bootstrap_inner)  # pyright: ignore[reportAttributeAccessIssue]
    DispatchMode().__enter__()
    FunctionMode().__enter__()


def _with_parameter_swapping(apply: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(apply)
    def wrapper(self: torch.nn.Module, fn: Callable[..., Any], recurse: bool = True) -> Any:
        future = torch.__future__
        before = future.get_swap_module_params_on_conversion()
        future.set_swap_module_params_on_conversion(True)
        try:
            return apply(self, fn, recurse)
        finally:
            future.set_swap_module_params_on_conversion(before)

    return wrapper


def _with_function_mode(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with FunctionMode():
            return run(*args, **kwargs)

    return wrapper


def _with_modes(run: Callable[..., Any]) -> Callable[..., Any]:
    """Start new threads with the modes of the device, because modes are per thread."""

    @functools.wraps(run)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with DispatchMode(), FunctionMode():
            return run(*args, **kwargs)

    return wrapper
