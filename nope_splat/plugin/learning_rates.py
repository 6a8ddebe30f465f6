"""Learning rates of all parameters, by the device that trains.

On a GPU they are Splatfacto's. The short training of a CPU needs faster shapes and calmer opacities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from nerfstudio.engine.optimizers import AdamOptimizerConfig

from nope_splat.plugin.schedulers import DecayConfig
from nope_splat.utils.device_defaults import Auto, ByDevice, Device


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Adam in one pass over the parameters."""

    lr: float | Auto = "auto"  # pyright: ignore[reportIncompatibleVariableOverride] (a float before setup)
    """Learning rate; "auto" depends on the device that trains."""
    eps: float = 1e-15
    """The epsilon value to use."""
    fused: bool = True
    """Whether one kernel does the whole step."""


class Rates(NamedTuple):
    """Learning rates of a group of parameters, the same on all devices or `ByDevice`."""

    first: float | ByDevice
    """At the start."""
    last: float | ByDevice | None = None
    """At the end, where they decay."""
    warmup: float = 0.0
    """Share of the training in which they rise from zero."""


GAUSSIANS = {
    "features_dc": Rates(0.0025),
    "features_rest": Rates(0.0025 / 20),
    "opacities": Rates(ByDevice(cuda=0.05, cpu=0.025)),
    "scales": Rates(ByDevice(cuda=0.005, cpu=0.02)),
    "quats": Rates(ByDevice(cuda=0.001, cpu=0.005)),
}
CAMERAS = ("camera", "focal", "principal_point", "distortion")
RATES = {
    "means": Rates(ByDevice(cuda=1.6e-4, cpu=5e-4), ByDevice(cuda=1.6e-6, cpu=5e-5)),
    **GAUSSIANS,
    **{f"track_{name}": rates for name, rates in GAUSSIANS.items()},
    "track_points": Rates(3e-4, 3e-6),
    "depth_corrections": Rates(5e-4, 5e-5),
    **{f"{name}_opt": Rates(1e-4, 1e-5, warmup=0.1) for name in CAMERAS},
}
"""By parameter group."""


def optimizer_groups() -> dict[str, dict[str, Any]]:
    """Nerfstudio's configuration of the optimizers, with "auto" where the device decides."""
    return {name: _group(rates) for name, rates in RATES.items()}


def resolve_rates(groups: dict[str, dict[str, Any]], device: Device) -> None:
    """Replace each "auto" by the rate of a device.

    Args:
        groups: From `optimizer_groups`, perhaps with rates of the user; changed.
        device: Where the training runs.
    """
    for name, group in groups.items():
        optimizer, scheduler = group["optimizer"], group["scheduler"]
        if optimizer.lr == "auto":
            optimizer.lr = _of(RATES[name].first, device)
        if isinstance(scheduler, DecayConfig) and scheduler.lr_final == "auto":
            scheduler.lr_final = _of(RATES[name].last, device)


def _group(rates: Rates) -> dict[str, Any]:
    scheduler = None
    if rates.last is not None:
        scheduler = DecayConfig(lr_final=_or_auto(rates.last), warmup=rates.warmup)
    return {"optimizer": FusedAdamConfig(lr=_or_auto(rates.first)), "scheduler": scheduler}


def _or_auto(rate: float | ByDevice) -> float | Auto:
    return "auto" if isinstance(rate, ByDevice) else rate


def _of(rate: float | ByDevice | None, device: Device) -> float:
    assert rate is not None, "a group that decays has a last rate"
    return rate.value(device) if isinstance(rate, ByDevice) else rate
