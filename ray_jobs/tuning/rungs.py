"""Successive halving whose verdicts do not depend on which trial was quicker.

ASHA (Li et al., 2020) compares a trial at a rung with all that have reached it so far. Here it is
compared with the trials whose results its proposal knew, so that what it has to reach is known
before it starts, and a sweep that was killed and restarted cuts the same trials short.
"""

from __future__ import annotations

from collections.abc import Sequence

Curve = Sequence[float]


def rungs(validations: int, reduction: int) -> list[int]:
    """Validations at which trials are compared, counted from 1: 1, eta, eta squared, ..."""
    found, rung = [], 1
    while rung <= validations:
        found.append(rung)
        rung *= reduction
    return found


def bars(earlier: Sequence[Curve], reduction: int) -> tuple[float | None, ...]:
    """Least score of a new trial at each of its validations.

    Args:
        earlier: scores at each validation of the trials that are known, larger being better; those
            that were cut short end early.
        reduction: eta: about one of so many trials goes on at a rung.

    Returns:
        One entry a validation, None where nothing is asked: a trial passes a rung if it is among
        the best 1/eta of those that have reached it, itself included.
    """
    longest = max(map(len, earlier), default=0)
    found: list[float | None] = [None] * longest
    for rung in rungs(longest, reduction):
        best = [max(curve[:rung]) for curve in earlier if len(curve) >= rung]
        pass_on = (len(best) + 1) // reduction
        if pass_on:
            found[rung - 1] = sorted(best, reverse=True)[pass_on - 1]
    return tuple(found)
