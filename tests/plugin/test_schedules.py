"""Test that learning rates scale with the training length, and that schedules load without pickle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nope_splat.plugin.schedulers import DecayConfig


def rates(config: DecayConfig, steps: int) -> list[float]:
    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    scheduler = config.setup().get_scheduler(adam, 1e-2)
    values = []
    for _ in range(steps + 1):
        values.append(scheduler.get_last_lr()[0])
        adam.step()
        scheduler.step()
    return values


@pytest.mark.parametrize("length", [10, 1000])
def test_decay_from_start_to_end(length: int) -> None:
    values = rates(DecayConfig(lr_final=1e-4, num_iterations=length), 2 * length)
    assert values[0] == pytest.approx(1e-2)
    assert values[length // 2] == pytest.approx(1e-3)
    assert values[length] == pytest.approx(1e-4)
    assert values[-1] == pytest.approx(1e-4)


def test_warm_up_rises_from_zero_without_a_jump() -> None:
    values = rates(DecayConfig(lr_final=1e-4, warmup=0.1, num_iterations=1000), 1000)
    assert values[0] == 0.0
    assert values[:100] == sorted(values[:100])
    assert values[100] == pytest.approx(1e-2)
    assert values[99] == pytest.approx(1e-2, rel=1e-3)


def test_state_loads_without_pickle(tmp_path: Path) -> None:
    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    scheduler = DecayConfig(warmup=0.1).setup().get_scheduler(adam, 1e-2)
    adam.step()
    scheduler.step()
    torch.save({"adam": adam.state_dict(), "schedule": scheduler.state_dict()}, tmp_path / "state")
    torch.load(tmp_path / "state", weights_only=True)
