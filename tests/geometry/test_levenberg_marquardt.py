"""Levenberg-Marquardt: known minima, monotonic costs, and stopping criteria.

- The Rosenbrock function and a linear problem, with arrays and with tensors.
- Rejected and unsolvable steps increase the damping, accepted steps decrease it.
- Tolerance, iterations, trials, evaluations and the caller's criterion stop the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from nope_splat.geometry.levenberg_marquardt import (
    LevenbergMarquardtConfig,
    Linearization,
    levenberg_marquardt,
)

CONFIG = LevenbergMarquardtConfig(max_iterations=200, tolerance=0.0)
START = (-1.2, 1.0)


@dataclass(frozen=True)
class _Rosenbrock:
    """Problem with residuals 10 (y - x^2) and 1 - x, which are zero at (1, 1)."""

    library: Any
    """numpy or torch."""

    def residuals(self, state: Any) -> Any:
        x, y = state
        return self.library.stack([10 * (y - x * x), 1 - x])

    def linearize(self, state: Any) -> _RosenbrockEquations:
        x, zero, stack = state[0], 0 * state[0], self.library.stack
        jacobian = stack([stack([-20 * x, zero + 10]), stack([zero - 1, zero])])
        residuals = self.residuals(state)
        cost = float(residuals @ residuals)
        return _RosenbrockEquations(self, jacobian.T @ jacobian, jacobian.T @ residuals, cost)

    def retract(self, state: Any, step: Any) -> Any:
        return state + step


@dataclass(frozen=True)
class _RosenbrockEquations:
    problem: _Rosenbrock
    matrix: Any
    gradient: Any
    cost: float

    def solve(self, damping: float) -> Any:
        library, diagonal = self.problem.library, self.matrix.diagonal()
        return library.linalg.solve(self.matrix + damping * library.diag(diagonal), -self.gradient)

    def evaluate(self, candidate: Any) -> float:
        residuals = self.problem.residuals(candidate)
        return float(residuals @ residuals)


class _Line:
    """Problem with the scalar cost (a x - 1)^2 that can make steps fail, and records the dampings."""

    def __init__(self, slope: float = 2.0, solvable_from: float = 0.0, reach: float = 1.0) -> None:
        self.slope, self.solvable_from, self.reach = slope, solvable_from, reach
        self.dampings: list[float] = []
        self.linearizations = 0

    def linearize(self, state: float) -> Linearization[float, float]:
        self.linearizations += 1
        return _LineEquations(self, state)

    def retract(self, state: float, step: float) -> float:
        return state + step


@dataclass(frozen=True)
class _LineEquations:
    line: _Line
    state: float

    @property
    def cost(self) -> float:
        return self.evaluate(self.state)

    def solve(self, damping: float) -> float | None:
        self.line.dampings.append(damping)
        if damping < self.line.solvable_from:
            return None
        slope = self.line.slope
        return -self.line.reach * slope * (slope * self.state - 1) / (slope**2 * (1 + damping))

    def evaluate(self, candidate: float) -> float:
        return (self.line.slope * candidate - 1) ** 2


@pytest.mark.parametrize("library", [np, torch])
def test_reaches_the_minimum_of_rosenbrock(library: Any) -> None:
    result = levenberg_marquardt(_Rosenbrock(library), library.asarray(START, dtype=library.float64), CONFIG)
    np.testing.assert_allclose(np.asarray(result.state), [1.0, 1.0], rtol=0, atol=1e-12)
    assert 5 < result.iterations < 100


def test_arrays_and_tensors_take_the_same_steps() -> None:
    config = replace(CONFIG, max_iterations=8)
    first = levenberg_marquardt(_Rosenbrock(np), np.array(START), config)
    second = levenberg_marquardt(_Rosenbrock(torch), torch.tensor(START, dtype=torch.float64), config)
    np.testing.assert_allclose(first.costs, second.costs, rtol=1e-9)
    np.testing.assert_allclose(first.state, second.state.numpy(), rtol=1e-9)
    assert first.damping == second.damping


def test_cost_never_increases() -> None:
    costs = levenberg_marquardt(_Rosenbrock(np), np.array(START), CONFIG).costs
    assert all(after < before for before, after in costs)
    assert all(after == before for (_, after), (before, _) in pairwise(costs))


def test_a_linear_problem_takes_one_step_without_damping() -> None:
    config = replace(CONFIG, initial_damping=0.0, min_damping=0.0, max_iterations=1)
    assert levenberg_marquardt(_Line(), 3.0, config).state == pytest.approx(0.5, abs=1e-15)


def test_unsolvable_equations_increase_the_damping() -> None:
    line = _Line(solvable_from=1e-2)
    result = levenberg_marquardt(line, 3.0, replace(CONFIG, initial_damping=1e-4, max_iterations=1))
    assert line.dampings == pytest.approx([1e-4, 1e-3, 1e-2])
    assert line.linearizations == 1
    assert result.iterations == 1
    assert result.damping == pytest.approx(1e-3)


def test_rejected_steps_are_shortened() -> None:
    line = _Line(reach=5.0)  # steps overshoot by more than twice until the damping reaches 1.5
    result = levenberg_marquardt(
        line, 3.0, replace(CONFIG, initial_damping=0.1, increase=4.0, max_iterations=1)
    )
    assert line.dampings == pytest.approx([0.1, 0.4, 1.6])
    assert result.costs[0][1] < result.costs[0][0]


def test_state_stays_if_all_steps_are_rejected() -> None:
    line = _Line(reach=-1.0)  # every step goes uphill
    result = levenberg_marquardt(line, 3.0, replace(CONFIG, max_trials=4))
    assert (result.state, result.iterations, len(line.dampings)) == (3.0, 0, 4)
    assert result.damping == pytest.approx(1e4 * CONFIG.initial_damping)
    undefined = levenberg_marquardt(_Line(slope=float("nan")), 3.0, CONFIG)
    assert (undefined.state, undefined.iterations) == (3.0, 0)


def test_accepted_steps_decrease_the_damping_to_its_minimum() -> None:
    config = LevenbergMarquardtConfig(initial_damping=0.4, decrease=4.0, min_damping=0.05, tolerance=0.0)
    line = _Line(reach=0.5)
    levenberg_marquardt(line, 3.0, replace(config, max_iterations=4))
    assert line.dampings == pytest.approx([0.4, 0.1, 0.05, 0.05])


def test_tolerance_and_iterations_stop_the_loop() -> None:
    # Each step leaves a quarter of the cost, so that a tolerance of 0.8 is missed by the first.
    halving = _Line(reach=0.5)
    undamped = replace(CONFIG, initial_damping=0.0, min_damping=0.0)
    assert levenberg_marquardt(halving, 3.0, replace(undamped, tolerance=0.8)).iterations == 1
    assert (
        levenberg_marquardt(halving, 3.0, replace(undamped, tolerance=0.7, max_iterations=6)).iterations == 6
    )
    nothing = levenberg_marquardt(halving, 3.0, replace(undamped, max_iterations=0))
    assert (nothing.state, nothing.costs) == (3.0, ())


def test_a_clearly_larger_cost_stops_the_loop() -> None:
    full = levenberg_marquardt(_Rosenbrock(np), np.array(START), CONFIG)
    before, after = full.costs[0]
    limit = after - 5 * (before - after)
    above, below = (
        levenberg_marquardt(_Rosenbrock(np), np.array(START), replace(CONFIG, clear_cost=cost))
        for cost in (limit - 0.1, before)
    )
    assert above.costs == full.costs[:1]
    assert below.costs == full.costs


def test_evaluations_and_the_caller_stop_the_loop() -> None:
    uphill = _Line(reach=-1.0)
    assert levenberg_marquardt(uphill, 3.0, replace(CONFIG, max_evaluations=3)).state == 3.0
    assert len(uphill.dampings) == 3
    halving = _Line(reach=0.5)
    assert levenberg_marquardt(halving, 3.0, replace(CONFIG, max_evaluations=3)).iterations == 3
    result = levenberg_marquardt(_Line(reach=0.5), 2.5, CONFIG, stop=lambda step: abs(step) < 0.3)
    # Steps of about 1, 0.5 and 0.25: the last is short enough, and accepted.
    assert result.iterations == 3
    rejected = levenberg_marquardt(uphill, 3.0, CONFIG, stop=lambda step: True)
    assert (rejected.state, rejected.iterations) == (3.0, 0)
