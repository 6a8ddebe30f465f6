"""The curves of a training: losses, focal length, reprojection error and so on, over the iterations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

MAX_ROWS = 512
"""From this number of rows on every other one is dropped, so that a training of any length has between half
of it and all of it."""


class History(nn.Module):
    """Rows of numbers at equal intervals of the training, kept in its checkpoints.

    A module, so that a checkpoint holds the rows up to its iteration, and a training that goes on from there
    goes on with them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[dict[str, float]] = []
        self._interval = 10

    def __len__(self) -> int:
        return len(self._rows)

    def due(self, step: int) -> bool:
        """Whether this iteration is one of those that are recorded.

        Args:
            step: Iteration.
        """
        return step % self._interval == 0

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a row.

        Args:
            step: Iteration, one that is `due`.
            values: Name to number, or to tensor of one number.
        """
        tensors = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
        row = {name: value for name, value in values.items() if name not in tensors}
        if tensors:  # all at once: each transfer waits for the GPU
            numbers = torch.stack([value.double().reshape(()) for value in tensors.values()]).tolist()
            row |= dict(zip(tensors, numbers, strict=True))
        self._rows.append({"step": step, **{name: float(row[name]) for name in values}})
        if len(self._rows) > MAX_ROWS:
            self._interval *= 2
            self._rows = [row for row in self._rows if self.due(int(row["step"]))]

    def names(self) -> list[str]:
        """What has been recorded, in the order of its first appearance."""
        return [name for name in dict.fromkeys(name for row in self._rows for name in row) if name != "step"]

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """One quantity over the training.

        Args:
            name: What to return.

        Returns:
            Iterations and values, of the rows that have it.
        """
        rows = [row for row in self._rows if name in row]
        return [int(row["step"]) for row in rows], [row[name] for row in rows]

    def curves(self, name: str) -> dict[str, tuple[list[int], list[float]]]:
        """The same where there may be one for each camera, recorded as `name/1`, `name/2` and so on.

        Args:
            name: What to return.

        Returns:
            What tells the curves apart (nothing where there is but one), to iterations and values.
        """
        numbered = [each for each in self.names() if each.startswith(f"{name}/")]
        if not numbered:
            return {"": self.curve(name)}
        return {f"camera {each.removeprefix(f'{name}/')}": self.curve(each) for each in numbered}

    def get_extra_state(self) -> dict[str, Any]:
        """For the checkpoint, in plain containers."""
        return {"interval": self._interval, "rows": [dict(row) for row in self._rows]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self._interval, self._rows = state["interval"], [dict(row) for row in state["rows"]]
