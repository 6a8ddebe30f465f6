"""Switches the pretend device on, for the rest of the process."""

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
    """Give this process a pretend GPU. Call it before anything asks torch whether there is one.

    Args:
        exact: Whether gsplat's kernels composite as they do on a GPU, tile by tile, which takes seconds for a
            large image; otherwise the CPU rasterizer's do, which draw each splat a little farther.
    """
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # what is compiled would not pass through the modes
    driver.install()
    serialization.install()
    gsplat_kernels.install(exact)
    # A module that moves keeps its parameters' identity, as on CUDA, although their class changes.
    torch.nn.Module._apply = _swapping(torch.nn.Module._apply)
    # Backward passes run functions of Python from within C++, where the function mode is off.
    torch.autograd._engine_run_backward = _with_function_mode(torch.autograd._engine_run_backward)  # pyright: ignore[reportPrivateImportUsage]
    threading.Thread._bootstrap_inner = _with_modes(threading.Thread._bootstrap_inner)  # pyright: ignore[reportAttributeAccessIssue]
    DispatchMode().__enter__()
    FunctionMode().__enter__()


def _swapping(apply: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(apply)
    def inside(self: torch.nn.Module, fn: Callable[..., Any], recurse: bool = True) -> Any:
        future = torch.__future__
        before = future.get_swap_module_params_on_conversion()
        future.set_swap_module_params_on_conversion(True)
        try:
            return apply(self, fn, recurse)
        finally:
            future.set_swap_module_params_on_conversion(before)

    return inside


def _with_function_mode(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with FunctionMode():
            return run(*args, **kwargs)

    return inside


def _with_modes(run: Callable[..., Any]) -> Callable[..., Any]:
    """Modes belong to threads; a new one starts with those of the device."""

    @functools.wraps(run)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with DispatchMode(), FunctionMode():
            return run(*args, **kwargs)

    return inside
