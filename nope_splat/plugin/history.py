"""Training history: losses, camera metrics, reprojection error and PSNR over the iterations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

MAX_ROWS = 512
"""Maximum number of recorded iterations. Beyond this number, every second record is removed, and the interval
between records is doubled."""


class History(nn.Module):
    """Metrics of the training run, recorded every 10 iterations, or less often in long training runs.

    `History` is a torch module, so that checkpoints contain the records and a resumed training run adds to
    them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[dict[str, float]] = []
        self._interval = 10

    def __len__(self) -> int:
        return len(self._rows)

    def due(self, step: int) -> bool:
        """Check whether an iteration should be recorded.

        Args:
            step: Iteration.
        """
        return step % self._interval == 0

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Record the metrics of an iteration.

        Args:
            step: Iteration for which `due` is True.
            values: Metrics by name: numbers, or tensors with a single element.
        """
        tensors = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
        row = {name: value for name, value in values.items() if name not in tensors}
        if tensors:  # transfer all values at once, because each transfer synchronizes with the GPU
            numbers = torch.stack([value.double().reshape(()) for value in tensors.values()]).tolist()
            row |= dict(zip(tensors, numbers, strict=True))
        self._rows.append({"step": step, **{name: float(row[name]) for name in values}})
        if len(self._rows) > MAX_ROWS:
            self._interval *= 2
            self._rows = [row for row in self._rows if self.due(int(row["step"]))]

    def names(self) -> list[str]:
        """List the names of all recorded metrics, in the order of their first record."""
        return [name for name in dict.fromkeys(name for row in self._rows for name in row) if name != "step"]

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Return the recorded values of a metric.

        Args:
            name: Name of the metric.

        Returns:
            Iterations in which the metric was recorded, and its values in these iterations. Both lists are
            empty if the metric was never recorded.
        """
        rows = [row for row in self._rows if name in row]
        return [int(row["step"]) for row in rows], [row[name] for row in rows]

    def curves(self, name: str) -> dict[str, tuple[list[int], list[float]]]:
        """Return the recorded values of a metric for each camera.

        With several cameras, the metrics of intrinsics are recorded as `name/1`, `name/2` and so on.

        Args:
            name: Name of the metric, without a camera number.

        Returns:
            Iterations and values of each curve, by label. Labels are "camera 1" and so on; the label of a
            metric without camera numbers is "".
        """
        prefix = f"{name}/"
        numbered = [recorded for recorded in self.names() if recorded.startswith(prefix)]
        if not numbered:
            return {"": self.curve(name)}
        return {f"camera {recorded.removeprefix(prefix)}": self.curve(recorded) for recorded in numbered}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the records in plain containers, for the checkpoint."""
        return {"interval": self._interval, "rows": [dict(row) for row in self._rows]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the records from a checkpoint.

        Args:
            state: Result of `get_extra_state`.

        Raises:
            ValueError: If `state` is damaged.
        """
        rows = [{str(name): float(value) for name, value in row.items()} for row in state["rows"]]
        interval = int(state["interval"])
        if interval < 1 or any("step" not in row for row in rows):
            raise ValueError("the history is damaged")
        self._interval, self._rows = interval, [{**row, "step": int(row["step"])} for row in rows]
