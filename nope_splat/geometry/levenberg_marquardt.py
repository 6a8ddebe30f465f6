"""Levenberg-Marquardt: one loop for all damped least-squares problems of the package.

Marquardt (1963) multiplies each diagonal entry of the normal matrix by (1 + damping): large damping gives
short steps of gradient descent, small damping gives Gauss-Newton steps. A step is accepted if it lowers the
cost, and the damping is decreased; otherwise the damping is increased and a shorter step is tried.

The loop depends neither on numpy nor on torch: each problem defines the types of its states and steps. Costs
are Python floats, so the loop waits for the GPU once per trial step.
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
    """Damping schedule and stopping criteria of `levenberg_marquardt`."""

    initial_damping: float = 1e-4
    """Damping of the first step: each diagonal entry of the normal matrix is multiplied by (1 + damping).
    Larger values start with shorter steps."""
    increase: float = 10.0
    """Factor by which the damping is multiplied after a step that does not lower the cost or cannot be
    computed."""
    decrease: float = 10.0
    """Factor by which the damping is divided after an accepted step."""
    min_damping: float = 1e-9
    """Lower limit of the damping; accepted steps do not reduce the damping below this value."""
    max_trials: int = 8
    """Maximum number of trial steps from one state. The loop stops if none of them lowers the cost."""
    max_iterations: int = 25
    """Maximum number of accepted steps, after which the loop stops."""
    max_evaluations: int | None = None
    """Maximum number of cost evaluations at trial steps, accepted or rejected; None means no limit."""
    tolerance: float = 1e-5
    """Minimum decrease of the cost by an accepted step, as a fraction of the cost; after a smaller decrease,
    the loop stops."""
    clear_cost: float = math.inf
    """The loop stops if the cost would stay above this value even after `clear_steps` more decreases like the
    last one. It is used to test whether the minimum is below the value."""
    clear_steps: float = 5.0
    """Number of decreases in the test with `clear_cost`."""


class Linearization(Protocol[StateIn, StepOut]):
    """Normal equations of a least-squares problem at one state, together with the cost at that state."""

    @property
    def cost(self) -> float:
        """Cost at the state of this linearization."""
        ...

    def solve(self, damping: float) -> StepOut | None:
        """Solve the damped normal equations.

        Args:
            damping: Damping; each diagonal entry of the normal matrix is multiplied by (1 + damping).

        Returns:
            The step, to be passed to `Problem.retract`; None if the damped equations have no solution.
        """
        ...

    def evaluate(self, candidate: StateIn) -> float:
        """Evaluate the cost at another state, with the noise estimate and the weights of this linearization.

        Args:
            candidate: State after a trial step.

        Returns:
            The cost at `candidate`, comparable to `cost`.
        """
        ...


class Problem(Protocol[State, Step]):
    """Interface of a least-squares problem that `levenberg_marquardt` can minimize."""

    def linearize(self, state: State) -> Linearization[State, Step]:
        """Set up the normal equations at a state.

        Args:
            state: Current values of all unknowns.
        """
        ...

    def retract(self, state: State, step: Step) -> State:
        """Apply a step to a state.

        Args:
            state: Current values of all unknowns.
            step: Increment of the unknowns, from `Linearization.solve`.

        Returns:
            The new state.
        """
        ...


@dataclass(frozen=True)
class Result(Generic[State]):
    """Outcome of `levenberg_marquardt`."""

    state: State
    """State (values of all unknowns) after the last accepted step."""
    costs: tuple[tuple[float, float], ...]
    """Cost before and after each accepted step. If the problem re-estimates noise or weights at each
    linearization, only the two costs of the same step are comparable."""
    damping: float
    """Damping for a next step; pass it as `initial_damping` to continue the minimization."""

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
    """Minimize the cost of a least-squares problem.

    Args:
        problem: The least-squares problem.
        state: Initial state.
        config: Damping schedule and stopping criteria.
        stop: Additional stopping criterion. The function is called with each trial step, accepted or
            rejected, and returns True to stop, for example because the step is short. None for no additional
            criterion.

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
        decrease = before - after
        if decrease < config.tolerance * before or after - config.clear_steps * decrease > config.clear_cost:
            break
    return Result(state, tuple(costs), damping)
