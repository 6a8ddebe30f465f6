"""Fit the weights of the trust score to benchmark results, and draw its reliability diagram.

    python -m scripts.reliability.calibrate OUT/after.jsonl --output docs/images/reliability.png

The trust score is a logistic regression of the doubts (`nope_splat.scene.trust.Doubts`). It predicts the
probability that a reconstruction is correct, that is, that the AUC@5 of its registered images exceeds 90. No
doubt may increase the trust, so the weights are positive or zero. The diagram shows predictions for families
of image sets that were excluded from the fit. The printed weights are those for
`nope_splat/sfm/reliability/trust.py`.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from scipy.optimize import minimize
from scipy.special import expit

from nope_splat.errors import NopeSplatError
from nope_splat.scene.trust import Doubts
from nope_splat.utils.terminal import set_up_terminal
from nope_splat.utils.typing import Array, Mask
from scripts.reliability.diagram import calibration, draw, markdown
from scripts.reliability.results import Row, read_rows

NAMES = tuple(field.name for field in fields(Doubts))
"""Names of the doubts, in the order of the weights."""


def main(
    results: Annotated[tuple[Path, ...], tyro.conf.Positional],
    output: Path | None = None,
    ridge: float = 0.001,
    num_bins: int = 5,
) -> None:
    """Fit the weights, and print the weights and the calibration of excluded families.

    Args:
        results: Files of results.
        output: Path of the reliability diagram, an image file; None to draw no diagram.
        ridge: Factor on the penalty of squared weights; larger values give smaller weights.
        num_bins: Number of intervals of trust in the diagram.
    """
    rows = [row for path in results for row in read_rows(path) if is_usable(row)]
    if not rows:
        raise NopeSplatError("invalid-option", f"{', '.join(map(str, results))} has no usable results")
    doubts = np.array([[row["trust_details"]["doubts"][name] for name in NAMES] for row in rows])
    right = np.array([row["right"] is not False for row in rows])
    families = np.array([row["family"] for row in rows])
    intercept, weights = fit(doubts, right, ridge)
    print(f"{len(rows)} results, {int(right.sum())} right. Weights:")
    for name, weight in zip(NAMES, weights.tolist(), strict=True):
        print(f"    {name}={weight:.1f},")
    print(f"INTERCEPT = {intercept:.1f}\n")
    print("Fitted to all results:\n")
    print(markdown(calibration(predict(doubts, intercept, weights), right, num_bins)))
    held_out = predict_held_out(doubts, right, families, ridge)
    result = calibration(held_out, right, num_bins)
    print("\nEach family predicted from the others:\n")
    print(markdown(result))
    print("\nWorst predictions:")
    for index in np.argsort(-np.abs(held_out - right))[:12].tolist():
        row = rows[index]
        print(f"    {row['name']:40} {'right' if right[index] else 'wrong'}, trust {held_out[index]:.2f}")
    if output is not None:
        draw(result, output)


def is_usable(row: Row) -> bool:
    """Check whether a result is known to be correct or wrong, and has doubts.

    Complete reconstructions of honest photos without true cameras count as correct.

    Args:
        row: Result of an image set.
    """
    is_known = row["right"] is not None or row["verdict"] in ("complete", "false notice")
    return is_known and row["trust_details"] is not None


def fit(doubts: Array, right: Mask, ridge: float) -> tuple[float, Array]:
    """Fit a logistic regression whose weights are not negative.

    Args:
        doubts: Doubts of each result, from 0 to 1. (N, D).
        right: True for correct results. (N,).
        ridge: Factor on the penalty of squared weights.

    Returns:
        Intercept and weights (D,) of the logit of the probability that a result is wrong.
    """
    features = np.column_stack([np.ones(len(doubts)), doubts])
    sign = np.where(right, 1.0, -1.0)

    def loss(parameters: Array) -> tuple[float, Array]:
        margin = sign * (features @ parameters)
        penalty = ridge * np.concatenate([[0.0], parameters[1:]])
        value = np.logaddexp(0, margin).mean() + 0.5 * float(penalty @ parameters)
        return value, features.T @ (sign * expit(margin)) / len(sign) + penalty

    bounds = [(None, None)] + [(0.0, None)] * doubts.shape[1]
    parameters = minimize(loss, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(parameters[0]), parameters[1:]


def predict(doubts: Array, intercept: float, weights: Array) -> Array:
    """Compute the probability that each result is correct.

    Args:
        doubts: Doubts of each result, from 0 to 1. (N, D).
        intercept: Logit of the probability that a result without doubts is wrong.
        weights: Weights of the doubts. (D,).

    Returns:
        Probabilities. (N,).
    """
    return expit(-(intercept + doubts @ weights))


def predict_held_out(doubts: Array, right: Mask, families: Array, ridge: float) -> Array:
    """Predict the results of each family with weights that are fitted to all other families.

    Args:
        doubts: Doubts of each result, from 0 to 1. (N, D).
        right: True for correct results. (N,).
        families: Name of the family of each result. (N,).
        ridge: Factor on the penalty of squared weights.

    Returns:
        Probability that each result is correct. (N,).
    """
    predicted = np.zeros(len(right))
    for family in np.unique(families):
        inside = families == family
        predicted[inside] = predict(doubts[inside], *fit(doubts[~inside], right[~inside], ridge))
    return predicted


if __name__ == "__main__":
    set_up_terminal()
    tyro.cli(main)
