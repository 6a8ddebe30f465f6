"""What threads hold of a budget at a time never exceeds it, except for a single larger amount."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from nope_splat.utils.budget import Budget


def test_the_sum_stays_within_the_budget() -> None:
    budget, lock, held = Budget(10), threading.Lock(), []
    sums = []

    def work(amount: int) -> None:
        with budget.hold(amount):
            with lock:
                held.append(amount)
                sums.append((sum(held), len(held)))
            time.sleep(0.002)
            with lock:
                held.remove(amount)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, [1, 4, 7, 30, 2, 10, 3, 3, 3, 11, 0, 5] * 5))
    assert len(sums) == 60
    assert all(total <= 10 or count == 1 for total, count in sums if total not in (30, 11))
    assert max(count for _, count in sums) > 1


def test_a_failed_block_returns_its_share() -> None:
    budget = Budget(1)
    for _ in range(3):
        try:
            with budget.hold(1):
                raise ValueError
        except ValueError:
            pass
    with budget.hold(1):
        pass
