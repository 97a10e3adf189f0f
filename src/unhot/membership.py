"""Which stores an engine has, and which rows: stores that leave, rows that are added, begin anew, or are frozen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from functools import partial
from operator import setitem
from typing import Any, Self

import numpy as np

from unhot import arrays
from unhot.atomic import Call, Version
from unhot.optimizers import Optimizer
from unhot.settling import Array, Settling, clock_of, planned_for
from unhot.store import Store, numbered, renumbered

MOST_GROWTH = 4
"""How many times the rows that a history was made for it is used for; each row more costs a sweep a little more."""


class Membership(Settling):
    """An engine's stores and rows, and what changes them other than steps."""

    @classmethod
    def of(cls, weights: Sequence[Array], optimizer: Optimizer | None, spare: int = 0) -> Self:
        """The engine of new tables with these weights, and with slots of their own.

        The weights of a table alone may have `spare` rows at the end, for rows to come.
        """
        if optimizer is None:
            return cls(numbered([(array, ()) for array in weights])).shortened(spare)
        numbers = sum(map(len, weights))
        planned = planned_for(numbers - spare, numbers)
        snapshot, clock = clock_of(optimizer, weights[0].dtype, planned)
        dtype = weights[0].dtype
        shapes = [(len(array), clock.law.slot_width(name, array.shape[1])) for array in weights for name in clock.slots]
        slots = iter([arrays.reserved(shape, dtype) for shape in shapes] if spare else arrays.side_by_side(shapes, dtype))
        states = [(array, [next(slots) for _ in clock.slots]) for array in weights]
        for _, own in states:
            for slot, start in zip(own, clock.slots.values(), strict=True):
                if start:
                    slot[: len(slot) - spare] = start
        return cls(numbered(states), snapshot, clock, planned=planned).shortened(spare)

    def shortened(self, spare: int) -> Self:
        """This engine, new and with one store, after the last `spare` rows have become room."""
        if spare:
            (store,) = self.stores
            self.stores = (store.within(store.state, store.rows - spare),)
            self._rows = self._made()
        return self

    def join(self, weights: Array, place: int) -> None:
        """Make a store of these weights, with new slots, that makes the same steps from now on.

        Nothing is done if there is a store at its place, which is after the others.
        """

        def joining() -> list[Call]:
            if len(self.stores) > place:  # of a signal's handler
                return []
            slots: list[Array] = []
            if self.clock is not None:
                shapes = {name: (len(weights), self.clock.law.slot_width(name, weights.shape[1])) for name in self.clock.slots}
                slots = [arrays.full(shapes[name], weights.dtype, start) for name, start in self.clock.slots.items()]
            stores = (*self.stores, Store(weights, tuple(slots), self.numbers, self.numbers))
            calls: list[Call] = [partial(setattr, self, "numbers", stores[-1].stop)]
            last = None
            if self.last is not None:
                last = self.kernels.steps_of(stores[-1].stop)
                for store in stores:
                    last[store.first : store.stop] = self.now
                calls += [*self._marked(last), partial(setattr, self, "last", last)]
            return [*calls, *self._having(stores, last)]

        self._settle_and(joining)

    def leave(self, places: Collection[int]) -> list[Call]:
        """What takes the stores at these places out. The others keep their places and numbers."""
        left = [self._emptied(store) if place in places else store for place, store in enumerate(self.stores)]
        return [partial(setattr, self, "stores", tuple(left)), partial(setattr, self, "_rows", self._made(left))]

    def _emptied(self, store: Store) -> Store:
        """What stands in the place of a store that has left: no rows, and no view that keeps those in memory."""
        weights, *slots = (self.kernels.copied(array[:0]) for array in store.state)
        return store._replace(weights=weights, slots=tuple(slots), shard=None, room=())

    def apart(self, places: Sequence[int]) -> Self:
        """An engine for the stores at these places, with a copy of the clock: they go on from where they are on their own.

        This engine is unchanged: make the calls of `leave` together with those that put the other in its place.
        """
        self._whole()
        assert self.optimizer is not None
        memo: dict[int, Any] = {}
        optimizer, clock = copy.deepcopy((self.optimizer, self.clock), memo)
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.stores = renumbered([self.stores[place] for place in places])
        made.__dict__.update(self._noted_of(made.stores, places))
        made.optimizer, made.clock = optimizer, clock
        made._version, made._known, made._begun, made._settled_at = Version(), None, None, {}
        made._rows = made._made()
        return made

    def frozen_in(self, place: int) -> Array:
        """The frozen rows of the store at this place, as numbers of its own."""
        store = self.stores[place]
        frozen = self.kernels.span(0, 0) if self.frozen is None else self.frozen
        return frozen[(frozen >= store.first) & (frozen < store.stop)] - store.first

    # ------------------------------------------------------------------ rows that are added, begin anew, or are frozen

    def change_rows(self, prepare: Callable[[], list[Call]]) -> None:
        """Make the changes of rows that `prepare` gives, of the methods below. Nothing is changed if it raises an error."""
        self._change(prepare)

    def adding(
        self,
        place: int,
        again: Array,
        rows: Sequence[Array],
        larger: Callable[[Store, int], Sequence[Array]] | None = None,
    ) -> list[Call]:
        """What adds rows, whose weights and slots are given, to the store at this place.

        The first of them take the places of its rows `again`, by numbers of its own; the others come after those that it has.
        Where there is no room for so many, `larger` gives arrays with room that hold the store's rows.
        """
        store = self.stores[place]
        stop = store.rows + len(rows[0]) - len(again)
        room = store.room if stop <= store.capacity else tuple((larger or with_room)(store, stop))
        stores = list(self.stores)
        stores[place] = store.within(room, stop) if room else store
        numbers = [*(other.first for other in stores[1:]), self.numbers][place] - store.first
        made, last, calls = self._renumbering(stores) if stop > numbers else (stores, self.last, [])
        # Not written here: a signal's handler may add rows of its own before the change is made.
        span, first = slice(store.rows, stop), made[place].first
        for array, part in zip(room or store.state, rows, strict=True):
            calls += [partial(setitem, array, again, part[: len(again)]), partial(setitem, array, span, part[len(again) :])]
        if last is not None:
            touched = again + first, slice(first + store.rows, first + stop)
            calls += [partial(setitem, last, part, self.now) for part in touched]
        return [*calls, *self._having(made, last)]

    def _renumbering(self, stores: Sequence[Store]) -> tuple[Sequence[Store], Array | None, list[Call]]:
        """The stores with new numbers, where those of one do not suffice; the steps of last touches; what notes both."""
        made = renumbered(stores)
        noted = self._noted_of(made, range(len(made)))
        return made, noted["last"], [partial(setattr, self, name, value) for name, value in noted.items()]

    def _noted_of(self, made: Sequence[Store], places: Sequence[int]) -> dict[str, Any]:
        """What is noted of the rows of the stores at these places, which have other numbers there."""
        numbers, last, frozen = made[-1].first + made[-1].capacity, None, None
        if self.frozen is not None:
            moved = [self.frozen_in(place) + store.first for place, store in zip(places, made, strict=True)]
            frozen = self.kernels.joined(moved)
        if self.last is not None:
            last = self.kernels.steps_of(numbers)
            for place, new in zip(places, made, strict=True):
                old = self.stores[place]
                last[new.first : new.first + old.rows] = self.last[old.first : old.stop]
        return {"numbers": numbers, "last": last, "frozen": frozen}

    def _having(self, stores: Sequence[Store], last: Array | None) -> list[Call]:
        """What puts these in the place of the stores."""
        return [partial(setattr, self, "stores", tuple(stores)), partial(setattr, self, "_rows", self._made(stores, last))]

    def assigning(self, rows: Array, weights: Array) -> list[Call]:
        """What lets the distinct `rows` of the first store have these weights; their slots stay, settled."""
        store = self.stores[0]
        return [*self._settling(rows), partial(setitem, store.weights, rows, weights)]

    def untouched(self, weights: Array) -> list[Array]:
        """Weights and slots of rows that began with these weights, and have had no gradient in the steps made so far."""
        if self.clock is None:
            return [weights]
        wide = self.clock.untouched(weights.astype(np.float64))
        return [array.astype(weights.dtype) for array in wide]

    def new(self, weights: Array) -> list[Array]:
        """These weights, and slots of rows that begin."""
        if self.clock is None:
            return [weights]
        return [weights, *(array.astype(weights.dtype) for array in self.clock.new_slots(weights))]

    def freezing(self, frozen: Array) -> list[Call]:
        """What does as `freeze`, of rows among which some are frozen already."""
        if self.frozen is None and not len(frozen):
            return []
        calls = self._settling(frozen)
        if self.frozen is not None:
            calls.append(partial(setitem, self.last, self.frozen, self.now))
        return [
            *calls,
            partial(setitem, self.last, frozen, self.kernels.frozen),
            partial(setattr, self, "frozen", frozen if len(frozen) else None),
        ]

    def freeze(self, frozen: Array, also: Sequence[Call] = ()) -> None:
        """Leave the given rows as they are from now on, and train all others; their numbers rise. `also` is made with it."""
        if self.last is None and len(frozen):
            self._change(self._noting)
        self._change(lambda: [*self.freezing(frozen), *also])

    def replan(self) -> None:
        """Begin a history that is made for as many rows as there are by now, if they are many more."""
        rows = sum(store.rows for store in self.stores)
        if self.clock is None or self.optimizer is None or rows <= MOST_GROWTH * self.planned:
            return
        snapshot, clock = clock_of(self.optimizer, self.clock.dtype, 2 * rows, self.clock.slots)
        clock.load_state(self.clock.state())
        swap: list[Call] = [partial(setattr, self, "clock", clock), partial(setattr, self, "optimizer", snapshot)]
        self._settle_and(lambda: [*clock.restart(self.now), *swap, partial(setattr, self, "planned", 2 * rows)])

    # ------------------------------------------------------------------ copies

    def __getstate__(self) -> dict[str, Any]:
        """Without the room for more rows, which may be larger than the memory."""
        state = {**self.__dict__, "_known": None, "_rows": None}
        if any(store.room for store in self.stores):
            stores = renumbered([store._replace(room=()) for store in self.stores])
            state |= {"stores": stores, **self._noted_of(stores, range(len(stores)))}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # What was unpickled may be read-only, and lies anywhere.
        self.stores = tuple(_own(store) for store in self.stores)
        self.last = None if self.last is None else self.last.copy()
        self._rows = self._made()


def _own(store: Store) -> Store:
    """The store with its arrays copied, and without room for more rows."""
    weights, *slots = (arrays.copied(array, array.dtype) for array in store.state)
    return store._replace(weights=weights, slots=tuple(slots), room=())


def with_room(store: Store, rows: int) -> list[Array]:
    """The store's arrays with room for these rows, and for as many more that copying them costs little for each."""
    capacity = max(rows, 2 * store.rows)
    room = [arrays.reserved((capacity, *array.shape[1:]), array.dtype) for array in store.state]
    for array, given in zip(room, store.state, strict=True):
        array[: store.rows] = given
    return room
