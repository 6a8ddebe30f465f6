"""Levenberg-Marquardt: one loop for all damped least-squares problems of the package.

Marquardt (1963) adds a multiple of the diagonal, the damping, to the normal equations: large damping gives
short steps of gradient descent, small damping gives Gauss-Newton steps. A step is accepted if it lowers the
cost, and the damping is decreased; otherwise the damping is increased and a shorter step is tried.

The loop depends neither on numpy nor on torch: a problem defines its states and steps. Costs are Python
floats, and so each trial step waits for the GPU once.
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
    """Damping schedule and stopping criteria."""

    initial_damping: float = 1e-4
    """Damping of the first step, as a multiple of the diagonal of the normal equations."""
    increase: float = 10.0
    """Factor on the damping after a step that is rejected or has no solution."""
    decrease: float = 10.0
    """Divisor of the damping after an accepted step."""
    min_damping: float = 1e-9
    """Smallest damping after an accepted step."""
    max_trials: int = 8
    """Maximum number of trial steps from one state."""
    max_iterations: int = 25
    """Maximum number of accepted steps."""
    max_evaluations: int | None = None
    """Maximum number of steps whose cost is evaluated, accepted or not; None for no limit."""
    tolerance: float = 1e-5
    """Relative decrease of the cost in one step below which the loop stops."""


class Linearization(Protocol[StateIn, StepOut]):
    """Normal equations at a state, and the cost that they approximate."""

    @property
    def cost(self) -> float:
        """Cost at this state."""
        ...

    def solve(self, damping: float) -> StepOut | None:
        """Solve the damped normal equations.

        Args:
            damping: Multiple of the diagonal that is added to it.

        Returns:
            The step; None if the damped equations have no solution.
        """
        ...

    def evaluate(self, candidate: StateIn) -> float:
        """Evaluate the cost at another state, with the noise and weights of this linearization."""
        ...


class Problem(Protocol[State, Step]):
    """Least-squares problem."""

    def linearize(self, state: State) -> Linearization[State, Step]:
        """Set up the normal equations at a state."""
        ...

    def retract(self, state: State, step: Step) -> State:
        """Apply a step to a state and return the new state."""
        ...


@dataclass(frozen=True)
class Result(Generic[State]):
    """Outcome of a minimization."""

    state: State
    """State after the last accepted step."""
    costs: tuple[tuple[float, float], ...]
    """Cost before and after each accepted step. If linearizations re-estimate the noise or the weights, only
    the two costs of the same step are comparable."""
    damping: float
    """Damping of the next trial step."""

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
        problem: The least-squares problem.
        state: Initial state.
        config: Damping schedule and stopping criteria.
        stop: Additional stopping criterion on a step, accepted or not, for example its length.

    Returns:
        The final state, whose cost is at most the initial cost, and the costs of all accepted steps.
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
