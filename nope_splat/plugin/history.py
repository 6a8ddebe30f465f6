"""Training history: losses, focal length, reprojection error and other metrics over the iterations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

MAX_ROWS = 512
"""Maximum number of rows. When it is exceeded, every second row is dropped."""


class History(nn.Module):
    """Rows of metrics at equal intervals of the training.

    It is a module, so that checkpoints contain the rows, and a resumed training appends to them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[dict[str, float]] = []
        self._interval = 10

    def __len__(self) -> int:
        return len(self._rows)

    def due(self, step: int) -> bool:
        """Check whether an iteration is to be recorded.

        Args:
            step: Iteration.
        """
        return step % self._interval == 0

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a row.

        Args:
            step: Iteration that is `due`.
            values: Metrics by name; numbers or tensors with a single element.
        """
        tensors = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
        row = {name: value for name, value in values.items() if name not in tensors}
        if tensors:  # transfer all together, because each transfer synchronizes with the GPU
            numbers = torch.stack([value.double().reshape(()) for value in tensors.values()]).tolist()
            row |= dict(zip(tensors, numbers, strict=True))
        self._rows.append({"step": step, **{name: float(row[name]) for name in values}})
        if len(self._rows) > MAX_ROWS:
            self._interval *= 2
            self._rows = [row for row in self._rows if self.due(int(row["step"]))]

    def names(self) -> list[str]:
        """List the names of the recorded metrics, in the order of their first appearance."""
        return [name for name in dict.fromkeys(name for row in self._rows for name in row) if name != "step"]

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Return the values of a metric over the training.

        Args:
            name: Name of the metric.

        Returns:
            Iterations and values, from the rows that contain the metric.
        """
        rows = [row for row in self._rows if name in row]
        return [int(row["step"]) for row in rows], [row[name] for row in rows]

    def curves(self, name: str) -> dict[str, tuple[list[int], list[float]]]:
        """Return the curves of a metric that may be recorded per camera, as `name/1`, `name/2` and so on.

        Args:
            name: Name of the metric.

        Returns:
            Iterations and values by label: "camera 1" and so on, or "" for a single curve.
        """
        prefix = f"{name}/"
        numbered = [recorded for recorded in self.names() if recorded.startswith(prefix)]
        if not numbered:
            return {"": self.curve(name)}
        return {f"camera {recorded.removeprefix(prefix)}": self.curve(recorded) for recorded in numbered}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state for the checkpoint, in plain containers."""
        return {"interval": self._interval, "rows": [dict(row) for row in self._rows]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint.

        Raises:
            ValueError: If the state has another layout.
        """
        rows = [{str(name): float(value) for name, value in row.items()} for row in state["rows"]]
        interval = int(state["interval"])
        if interval < 1 or any("step" not in row for row in rows):
            raise ValueError("the history is damaged")
        self._interval, self._rows = interval, [{**row, "step": int(row["step"])} for row in rows]
