"""The base class of what trains the rows of a table in a framework: what its ownership asks for."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Backend(ABC):
    """What trains the rows of one table for one owner, on the arrays of one framework.

    The owner's state (momenta, counts of steps) is kept in the framework under the framework's own names. A backend may hold
    more while it trains, such as a history of the steps; `hand_over` leaves everything in the framework, and `resume` goes on
    from there.

    What concerns the tables of a framework rather than one owner's training (how a table is made and looked up, and the reason
    why one has to be trained densely) are class methods and static methods of the framework's subclass.
    """

    @abstractmethod
    def has_deferred_steps(self) -> bool:
        """Whether rows may have steps that are not applied yet."""

    @abstractmethod
    def settle(self) -> None:
        """Apply all deferred steps to the rows, in place."""

    def hand_over(self) -> None:
        """Settle, and leave the table and the owner's state in the framework's names, where others may write them.

        Afterwards the backend relies on nothing that it has kept: it may be asked to `resume` at any time, or never.
        """
        self.settle()

    def resume(self) -> None:  # noqa: B027  (a default: most backends look at what the framework holds when they step)
        """Go on from what the framework holds now, whatever has been written there since `hand_over`."""
