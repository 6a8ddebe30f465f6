"""Default learning rates of all parameter groups, for training on a GPU or on a CPU.

The learning rates of Gaussians on a GPU are those of Splatfacto. Training runs on a CPU are shorter and use
higher learning rates for means, scales and rotations, and lower learning rates for opacities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from nerfstudio.engine.optimizers import AdamOptimizerConfig

from nope_splat.plugin.schedulers import DecayConfig
from nope_splat.utils.device_defaults import Auto, ByDevice, Device


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Options of the Adam optimizer of a parameter group."""

    lr: float | Auto = "auto"  # pyright: ignore[reportIncompatibleVariableOverride] (a float before setup)
    """Learning rate at the start of training or, with a warm-up, at the end of the warm-up. "auto" is a
    default that depends on the training device."""
    eps: float = 1e-15
    """Constant added to Adam's denominator for numerical stability."""
    fused: bool = True
    """Whether to use PyTorch's fused implementation of Adam, which is faster."""


class Rates(NamedTuple):
    """Default learning rates of a parameter group; a rate that depends on the device is a `ByDevice`."""

    initial: float | ByDevice
    """Learning rate at the start of training or, with a warm-up, at the end of the warm-up."""
    final: float | ByDevice | None = None
    """Learning rate at the end of training, after exponential decay; None for a constant learning rate."""
    warmup: float = 0.0
    """Fraction of the training run during which the learning rate rises from zero; 0 for no warm-up."""


GAUSSIAN_RATES = {
    "features_dc": Rates(0.0025),
    "features_rest": Rates(0.0025 / 20),
    "opacities": Rates(ByDevice(cuda=0.05, cpu=0.025)),
    "scales": Rates(ByDevice(cuda=0.005, cpu=0.02)),
    "quats": Rates(ByDevice(cuda=0.001, cpu=0.005)),
}
"""Default learning rates of the parameters of Gaussians, except the means."""
CAMERA_PARAMETERS = ("camera", "focal", "principal_point", "distortion")
"""Camera parameters that Adam can optimize; each has a parameter group such as `focal_opt`."""
DEFAULT_RATES = {
    "means": Rates(ByDevice(cuda=1.6e-4, cpu=5e-4), ByDevice(cuda=1.6e-6, cpu=5e-5)),
    **GAUSSIAN_RATES,
    **{f"track_{name}": rates for name, rates in GAUSSIAN_RATES.items()},
    "track_points": Rates(3e-4, 3e-6),
    "depth_corrections": Rates(5e-4, 5e-5),
    **{f"{name}_opt": Rates(1e-4, 1e-5, warmup=0.1) for name in CAMERA_PARAMETERS},
}
"""Default learning rates by the name of the parameter group."""


def optimizer_groups() -> dict[str, dict[str, Any]]:
    """Create nerfstudio's optimizer configuration, with "auto" for device-dependent learning rates.

    Returns:
        For each parameter group by name, the configurations `optimizer` and `scheduler`; the scheduler is
        None if the learning rate is constant.
    """
    return {name: _group(rates) for name, rates in DEFAULT_RATES.items()}


def resolve_rates(groups: dict[str, dict[str, Any]], device: Device) -> None:
    """Replace each learning rate "auto" by the default for a device.

    Args:
        groups: Configuration from `optimizer_groups`, updated in place. Learning rates that the user has set
            are kept.
        device: The training device.
    """
    for name, group in groups.items():
        optimizer, scheduler = group["optimizer"], group["scheduler"]
        if optimizer.lr == "auto":
            optimizer.lr = _rate_on(DEFAULT_RATES[name].initial, device)
        if isinstance(scheduler, DecayConfig) and scheduler.lr_final == "auto":
            scheduler.lr_final = _rate_on(DEFAULT_RATES[name].final, device)


def _group(rates: Rates) -> dict[str, Any]:
    """Create the configurations `optimizer` and `scheduler` of a parameter group."""
    scheduler = None
    if rates.final is not None:
        scheduler = DecayConfig(lr_final=_or_auto(rates.final), warmup=rates.warmup)
    return {"optimizer": FusedAdamConfig(lr=_or_auto(rates.initial)), "scheduler": scheduler}


def _or_auto(rate: float | ByDevice) -> float | Auto:
    """Return "auto" if a learning rate depends on the device, else the learning rate itself."""
    return "auto" if isinstance(rate, ByDevice) else rate


def _rate_on(rate: float | ByDevice | None, device: Device) -> float:
    """Return the value of a learning rate for a device; `rate` must not be None."""
    assert rate is not None, "a group with decay has a final rate"
    return rate.value(device) if isinstance(rate, ByDevice) else rate
