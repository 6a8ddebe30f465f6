"""Levenberg-Marquardt: the loop that every damped least-squares problem of the package shares.

Marquardt (1963) adds a share of the diagonal, the damping, to the normal equations: with much of it steps are
short and go downhill, with little of it they are those of Gauss and Newton. A step is accepted if it lowers
the cost, after which the damping falls; otherwise the damping rises and a shorter step is tried.

The loop knows neither numpy nor torch. A problem says what a state and a step are; costs are floats, so that
on a GPU each tried step waits for one number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

State = TypeVar("State")
Step = TypeVar("Step")
StateIn = TypeVar("StateIn", contravariant=True)
StepOut = TypeVar("StepOut", covariant=True)


@dataclass(frozen=True)
class LevenbergMarquardtConfig:
    """How the damping changes, and when the loop ends."""

    initial_damping: float = 1e-4
    """Damping of the first step, as a share of the diagonal of the normal equations."""
    increase: float = 10.0
    """Factor on the damping after a step that does not lower the cost or cannot be solved for."""
    decrease: float = 10.0
    """Divisor of the damping after a step that lowers the cost."""
    min_damping: float = 1e-9
    """Smallest damping that accepted steps lead to."""
    max_trials: int = 8
    """Largest number of steps tried from one state, after which no step is believed to lower the cost."""
    max_iterations: int = 25
    """Largest number of accepted steps."""
    max_evaluations: int | None = None
    """Largest number of steps whose cost is evaluated, accepted or not; None for no limit."""
    tolerance: float = 1e-5
    """The loop ends after a step that lowers the cost by less than this share of it."""


class Linearization(Protocol[StateIn, StepOut]):
    """The normal equations at a state, and the cost that they approximate."""

    @property
    def cost(self) -> float:
        """Cost at this state."""
        ...

    def solve(self, damping: float) -> StepOut | None:
        """Solve the damped normal equations.

        Args:
            damping: Share of the diagonal that is added to it.

        Returns:
            The step; None where the damped equations have no solution.
        """
        ...

    def evaluate(self, candidate: StateIn) -> float:
        """Evaluate the cost at another state, with the noise and weights of this linearization."""
        ...


class Problem(Protocol[State, Step]):
    """What is minimized."""

    def linearize(self, state: State) -> Linearization[State, Step]:
        """Set up the normal equations at a state."""
        ...

    def retract(self, state: State, step: Step) -> State:
        """Apply a step to a state, which itself stays as it is."""
        ...


@dataclass(frozen=True)
class Result(Generic[State]):
    """Outcome of a minimization."""

    state: State
    """The state after the last accepted step."""
    costs: tuple[tuple[float, float], ...]
    """Cost before and after each accepted step. Only the two of one step compare where a linearization
    estimates the noise or the weights anew."""
    damping: float
    """Damping of the step that would be tried next."""

    @property
    def iterations(self) -> int:
        """Number of accepted steps."""
        return len(self.costs)


def levenberg_marquardt(
    problem: Problem[State, Step],
    state: State,
    config: LevenbergMarquardtConfig,
    stop: Callable[[Step], bool] | None = None,
) -> Result[State]:
    """Minimize the cost of a problem.

    Args:
        problem: What is minimized.
        state: Where to start.
        config: How the damping changes, and when the loop ends.
        stop: Whether to end the loop after a step, accepted or not, such as one that is too short to matter.

    Returns:
        The last state, whose cost is never above that of the first, and how the cost fell.
    """
    damping, evaluations, stopped = config.initial_damping, 0, False
    costs: list[tuple[float, float]] = []
    while len(costs) < config.max_iterations and not stopped:
        linearization = problem.linearize(state)
        before, after, candidate = linearization.cost, math.inf, state
        for _ in range(config.max_trials):
            step = linearization.solve(damping)
            if step is not None:
                candidate = problem.retract(state, step)
                after = linearization.evaluate(candidate)
                evaluations += 1
                stopped = evaluations == config.max_evaluations or (stop is not None and stop(step))
                if after < before or stopped:
                    break
            damping *= config.increase
        if not after < before:
            break
        state = candidate
        costs.append((before, after))
        damping = max(damping / config.decrease, config.min_damping)
        if before - after < config.tolerance * before:
            break
    return Result(state, tuple(costs), damping)
