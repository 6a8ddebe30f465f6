"""Test the curves of a training: bounded length, complete range, stored in checkpoints."""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from nope_splat.plugin.history import MAX_ROWS, History


def recorded(num_iterations: int, history: History | None = None, start: int = 0) -> History:
    history = history or History()
    for step in range(start, num_iterations):
        if history.due(step):
            history.record(step, {"loss": torch.tensor(1 / (step + 1)), "count": step})
    return history


@pytest.mark.parametrize("num_iterations", [25, 2_000, 30_000, 100_000])
def test_a_training_of_any_length_keeps_enough_rows(num_iterations: int) -> None:
    history = recorded(num_iterations)
    assert min(num_iterations // 10, MAX_ROWS // 2) <= len(history) <= MAX_ROWS
    steps, values = history.curve("loss")
    assert steps[0] == 0
    gaps = {second - first for first, second in pairwise(steps)}
    assert len(gaps) == 1
    assert num_iterations - steps[-1] <= gaps.pop()
    assert values == pytest.approx([1 / (step + 1) for step in steps])


def test_checkpoints_restore_curves(tmp_path: Path) -> None:
    first = recorded(12_345)
    torch.save(first.state_dict(), tmp_path / "state")
    second = recorded(777)
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    both = [recorded(20_000, history, start=12_345).curve("count") for history in (first, second)]
    assert both[0] == both[1] == recorded(20_000).curve("count")


def test_sparsely_recorded_values_have_a_separate_curve() -> None:
    history = History()
    history.record(0, {"a": 1.0})
    history.record(10, {"a": 2.0, "b": 3.0})
    assert history.names() == ["a", "b"]
    assert history.curve("b") == ([10], [3.0])
    assert history.curve("c") == ([], [])


def test_values_with_gradients_are_recorded_without_a_warning() -> None:
    history = History()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history.record(0, {"focal_px": 2 * torch.ones((), requires_grad=True)})
    assert history.curve("focal_px") == ([0], [2.0])
