"""The weights of the trust score are fitted to results, and are never negative."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from nope_splat.errors import NopeSplatError
from scripts.reliability.calibrate import NAMES, fit, main, predict, predict_held_out

DOUBTS = np.random.default_rng(0).random((3000, 3))
RIGHT = np.random.default_rng(1).random(3000) < expit(3 - 6 * DOUBTS[:, 0] - 2 * DOUBTS[:, 1])


def test_weights_are_recovered() -> None:
    """The third doubt has no effect."""
    intercept, weights = fit(DOUBTS, RIGHT, 1e-6)
    assert intercept == pytest.approx(-3, abs=0.4)
    np.testing.assert_allclose(weights, [6, 2, 0], atol=0.6)


def test_doubts_do_not_raise_the_trust() -> None:
    _, weights = fit(DOUBTS, ~RIGHT, 1e-3)
    assert (weights >= 0).all()


def test_families_are_predicted_from_the_others() -> None:
    families = np.where(DOUBTS[:, 2] < 0.5, "a", "b")
    predicted = predict_held_out(DOUBTS, RIGHT, families, 1e-4)
    inside = families == "a"
    expected = predict(DOUBTS[inside], *fit(DOUBTS[~inside], RIGHT[~inside], 1e-4))
    np.testing.assert_allclose(predicted[inside], expected)
    assert np.mean((predicted > 0.5) == RIGHT) > 0.75


def test_the_weights_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for number in range(20):
        doubts = dict.fromkeys(NAMES, 0.0) | {"planar": float(number % 2)}
        rows.append(
            {"name": str(number), "family": "ab"[number // 10], "right": number % 2 == 0, "verdict": "right"}
            | {"trust_details": {"doubts": doubts}}
        )
    results = tmp_path / "results.jsonl"
    results.write_text("\n".join(map(json.dumps, rows)))
    main((results,), tmp_path / "diagram.png")
    printed = capsys.readouterr().out
    assert "20 results, 10 right" in printed
    assert "disagreement=0.0," in printed
    assert (tmp_path / "diagram.png").stat().st_size > 0
    results.write_text("")
    with pytest.raises(NopeSplatError, match="no usable results"):
        main((results,))
