"""What an optimizer owns of a table parameter: the engine that works on its memory and on the optimizer's slots."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from unhot.atomic import Call, Lock, together
from unhot.engine import Engine, recurrence
from unhot.rules import Hyper, Optimizer
from unhot.state import whole
from unhot.torch._private import without_torch_functions
from unhot.torch.gradient import RowGradient
from unhot.torch.lookup import RowLookup
from unhot.torch.placement import Placement, placement

if TYPE_CHECKING:
    from unhot.torch.parameter import TableParameter
    from unhot.torch.stepping import RowSparse

STRUCTURE = ("momentum", "amsgrad", "centered")
"""Hyperparameters by which a rule has one slot more."""

REMEDY = (
    "(These are the rule's own names for what this optimizer was given; `convention` is always 'torch' here. A layer made with"
    " sparse=False takes torch's dense path, which has no such bound.)"
)


@contextmanager
def unseen() -> Iterator[None]:
    """Where no tracer notes what settling writes, and no transform of `torch.func` forbids it."""
    internals: Any = torch._C
    tracing = internals._get_tracing_state()
    internals._set_tracing_state(None)
    try:
        with internals._DisableFuncTorch(), _disable_current_modes():
            yield
    finally:
        internals._set_tracing_state(tracing)


class RowTraining:
    """The tie between a table parameter and the one optimizer that owns it.

    The engine exists from the first row-sparse step on, until something else writes weights or slots: a dense step, a
    loaded state, a parameter moved elsewhere.  It is then made anew from what torch holds.
    """

    def __init__(self, parameter: TableParameter, owner: RowSparse) -> None:
        hide_from_compiler(RowTraining, "outside_graph", "settle", "settle_rows", "release")
        self._parameter = weakref.ref(parameter)
        self._owner = weakref.ref(owner)
        self.lock: Lock = getattr(owner, "lock", None) or Lock()
        """Held by whatever reads, settles or steps the rows."""
        self.engine: Engine | None = None
        self._pointer = -1  # no tensor's, also not that of one without elements
        self._place: Placement
        self._weights: Tensor
        self._rule: Optimizer | None = None
        self._given: dict[str, Any] = {}
        """The hyperparameters of the last step that was prepared, or none."""
        self._hyper: Hyper
        self._kept: dict[str, tuple[Tensor, int]] = {}
        """What the engine keeps in the optimizer's state, and the versions of those tensors."""
        self._exported = -1
        """The engine's clock when the state was last brought up to date."""

    @property
    def owner(self) -> RowSparse | None:
        """The optimizer, or None once it is gone."""
        return self._owner()

    def _current(self) -> Engine | None:
        """The engine, if there is one that works on the memory that the parameter has now.

        To be called where torch functions of subclasses are disabled, or a look at the parameter would settle it.
        """
        parameter = self._parameter()
        assert parameter is not None
        if parameter.data_ptr() != self._pointer:
            self.release()
            if not parameter.is_contiguous():
                with torch.inference_mode(False):
                    parameter.data = parameter.detach().contiguous()
            place = placement(parameter)
            self.__dict__.update(_pointer=parameter.data_ptr(), _weights=parameter.detach(), _place=place)
        return self.engine

    def follow_memory(self) -> None:
        """Begin anew if the parameter has got another shape or other strides, be it in the same memory."""
        self.lock.holding(self._follow_memory)

    def _follow_memory(self) -> None:
        parameter = self._parameter()
        assert parameter is not None
        if self._pointer == -1:
            return
        if (parameter.shape, parameter.stride()) != (self._weights.shape, self._weights.stride()):
            self.release()
            self._pointer = -1

    # ------------------------------------------------------------------ reading

    def lookup(
        self,
        ids: Tensor,
        padding_idx: int,
        max_norm: float | None,
        norm_type: float,
        scale_grad_by_freq: bool,
        sparse: bool = False,
    ) -> Tensor:
        """The settled rows of `ids`, renormed before if so asked, with a row-sparse gradient; `sparse`: as PyTorch's own."""
        if max_norm is not None:
            renorm = torch.no_grad()(self._renorm)  # no `with`: see `without_torch_functions`
            self.lock.holding(partial(renorm, ids, max_norm, norm_type))
        found: Tensor = RowLookup.apply(self._parameter(), ids, self, padding_idx, scale_grad_by_freq, sparse)  # type: ignore[no-untyped-call]
        return found

    def _renorm(self, ids: Tensor, max_norm: float, norm_type: float) -> None:
        self.settle_rows(ids)
        torch.embedding_renorm_(self._weights, ids.contiguous(), max_norm, norm_type)

    def outside_graph(self, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """`function(*arguments)`, where `torch.compile` traces."""
        return without_torch_functions(function, *arguments)

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The ids as a flat copy, whatever becomes of the given ones, and their settled rows: ids.shape + (dim,)."""
        require_indices(ids)
        return self.lock.holding(partial(self._read, ids))

    def _read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        engine = self._current()
        place, weights = self._place, self._weights
        rows, dim = weights.shape
        own, flat = place.copied(ids)
        place.require_rows(flat, rows, ids.shape)
        out = weights.new_empty((*ids.shape, dim))  # no view of it, which in-place operations could not follow
        rows_out = place.view(out).reshape(len(flat), dim)
        if engine is None:
            place.kernels.gather(place.view(weights), flat, rows_out)
        else:
            engine.read(flat, rows_out)
        return own, out

    # ------------------------------------------------------------------ settling

    def settle(self) -> None:
        """Apply all deferred steps."""
        self.lock.holding(self._settle)

    def _settle(self) -> None:
        if self.engine is not None:
            with unseen():
                self._place.alone(self.engine.settle_all)

    def settle_rows(self, ids: Tensor) -> None:
        """Apply the deferred steps of the rows `ids`."""
        require_indices(ids)
        self.lock.holding(partial(self._settle_rows, ids))

    def _settle_rows(self, ids: Tensor) -> None:
        engine = self._current()
        _, flat = self._place.copied(ids)
        self._place.require_rows(flat, len(self._weights), ids.shape)
        if engine is not None:
            self._place.alone(partial(engine.settle, engine.kernels.group(flat).rows))

    def release(self) -> None:
        """Settle, leave all that was trained in torch's state, and let go of it, for something else to write it."""
        self.lock.holding(partial(without_torch_functions, self._release))

    def _release(self) -> None:
        parameter, owner = self._parameter(), self.owner
        with unseen():
            if parameter is None or owner is None:
                self._settle()
            else:
                self._export(owner.state.get(parameter, {}))
            self.engine = None

    def export(self, state: dict[str, Any]) -> None:
        """Settle, and bring the numbers of `state` that are no slots up to date."""
        self.lock.holding(partial(self._export, state))

    def _export(self, state: dict[str, Any]) -> None:
        written = self._written()
        self._settle()
        engine = self.engine
        if engine is None or engine.rule is None:
            return
        numbers = engine.rule.state()
        calls: list[Call] = []
        for name, number in (("step", engine.clock), ("mu_product", numbers.get("momentum_product"))):
            if name in self._kept and state.get(name) is self._kept[name][0]:
                calls.append(partial(state[name].data.fill_, number))  # `data`, whose versions are its own
        if not written:
            calls.append(partial(setattr, self, "_exported", engine.clock))
        self._place.alone(partial(together, calls))
        if numbers.get("momentum_begun") == 0.0:  # a step was refused: torch takes a buffer for one that has begun
            state.pop("momentum_buffer", None)
            self.engine = None

    # ------------------------------------------------------------------ training

    def prepare(self, group: Mapping[str, Any], state: dict[str, Any]) -> None:
        """Get ready for a step with the hyperparameters of the group; what can go wrong goes wrong here."""
        owner = self.owner
        assert owner is not None
        if group.get("differentiable"):
            raise ValueError(
                "a row-sparse step cannot be differentiated. Received: differentiable=True and a row-sparse gradient. Make"
                " the layer with sparse=False, or leave `differentiable` out."
            )
        given = owner.hyperparameters(group)
        if given == self._given and self._goes_on(state):
            assert self.engine is not None
            assert self._rule is not None
            self._hyper = self.engine.follow(self._rule, unchanged=True)
            return
        try:
            if self._rule is None:
                self._rule = owner.rule(**given)
            elif given != self._given:
                before = self._given
                if not before or any(bool(given.get(name)) != bool(before.get(name)) for name in STRUCTURE):
                    self.release()  # the engine has other slots
                self._given = {}  # which no refused ones equal
                for name, value in given.items():
                    setattr(self._rule, name, value)
                self._rule.check()
            if self.engine is not None:
                self._follow_state(state)
            if self._current() is None:
                self._bind(self._weights, owner, state, given)
            assert self.engine is not None
            self._hyper = self.engine.follow(self._rule)
            self._given = given
        except StateError:
            raise
        except ValueError as error:
            raise ValueError(f"{error} {REMEDY}") from None

    def step(self, gradient: Tensor, maximize: bool) -> None:
        """Make the step that was prepared, whose gradient is row-sparse."""
        engine, place, parameter = self.engine, self._place, self._parameter()
        assert engine is not None
        assert parameter is not None
        if isinstance(gradient, RowGradient):
            assert gradient.content.rows is not None
            named, values, *_ = gradient.content.rows
        else:
            named, values = gradient._indices()[0], gradient._values()
        if values.requires_grad:  # of a backward pass that was asked for a graph
            values = values.detach()
        ids = place.view(named)
        place.require_rows(ids, len(engine.weights), ids.shape)
        rows = place.view((-values if maximize else values).contiguous())
        place.alone(partial(engine.step, lambda: (ids, rows, ()), lambda: self._hyper))
        torch.autograd.graph.increment_version(parameter)

    def _bind(self, weights: Tensor, owner: RowSparse, state: dict[str, Any], given: Mapping[str, Any]) -> None:
        """Make an engine on torch's memory, that goes on from `state`, which is given the slots that it lacks."""
        assert self._rule is not None
        clock = steps_made(state.get("step", 0), "the 'step' in `optimizer.state` of a table")
        held = {name for name, theirs in owner.slots.items() if isinstance(state.get(theirs), Tensor)}
        snapshot, rule = recurrence(self._rule, np.dtype(str(weights.dtype).removeprefix("torch.")), len(weights), held)
        begun = {"momentum_begun": float("momentum" in held), "largest_beta": 0.0}
        rule.load_state({**begun, "momentum_product": float(state.get("mu_product", 1.0))})
        bound: dict[str, Tensor] = {}
        slots = []
        for name, start in rule.slots.items():
            theirs = owner.slots[name]
            if name not in held:
                bound[theirs] = self._place.full(weights, start)
                slots.append(self._place.view(bound[theirs]))
            else:
                bound[theirs] = state[theirs].to(weights).contiguous()
                slots.append(self._place.take_over(bound[theirs]))
        if "largest_velocity" in held and "largest_velocity" in rule.slots:  # torch's next step finds the larger, at rest too
            largest, velocity = (bound[owner.slots[name]] for name in ("largest_velocity", "velocity"))
            torch.maximum(largest, given["beta_2"] * velocity, out=largest)
        for name in owner.counters:
            bound[name] = state[name] if name in state else torch.tensor(1.0 if name == "mu_product" else 0.0)
        engine = Engine.resumed(self._place.take_over(weights), slots, clock, snapshot, rule, self._place.kernels)
        kept = {name: (tensor, tensor._version) for name, tensor in bound.items()}
        together([partial(state.update, bound), partial(self.__dict__.update, engine=engine, _kept=kept)])

    def _goes_on(self, state: Mapping[str, Any]) -> bool:
        """Whether weights and state are as the last step has left them, in the same memory."""
        parameter = self._parameter()
        in_place = self.engine is not None and parameter is not None and parameter.data_ptr() == self._pointer
        return in_place and not self._replaced(state) and not self._written()

    def _replaced(self, state: Mapping[str, Any]) -> bool:
        """Whether someone has put other tensors into the optimizer's state."""
        return any(state.get(name) is not tensor for name, (tensor, _) in self._kept.items())

    def _follow_state(self, state: Mapping[str, Any]) -> None:
        """Begin anew if the user has written the optimizer's state: replaced its tensors, or changed what they hold.

        Raises: RuntimeError for tensors that were changed while rows had deferred steps, which can no longer be made.
        """
        if self._replaced(state):
            self.release()
        elif self._written():
            self.require_intact()
            self.engine = None

    def _written(self) -> bool:
        """Whether someone has changed what is in the tensors of the optimizer's state."""
        return self.engine is not None and any(tensor._version != version for tensor, version in self._kept.values())

    def require_intact(self) -> None:
        """Raise RuntimeError for a state that was changed in place while rows had deferred steps."""
        if self.engine is not None and self._written() and self._exported != self.engine.clock:
            raise RuntimeError(
                "`optimizer.state` of a table was written in place while its rows had deferred steps, which needed what was"
                " there. Call `optimizer.state_dict()` before you write, which settles them; now, load a state by"
                " `optimizer.load_state_dict()`."
            )


class StateError(ValueError):
    """A loaded state from which no training can go on."""


def steps_made(count: Any, what: str) -> int:
    """The number of steps that a state counts; StateError for one that is no such number."""
    try:
        return whole(float(count), what)
    except ValueError as error:
        raise StateError(f"{error} Load a state that an optimizer has saved.") from None


def require_indices(ids: Any) -> None:
    """Raise torch's own error for what is no tensor of indices."""
    if getattr(ids, "dtype", None) in (torch.int64, torch.int32):
        return
    if not isinstance(ids, Tensor):
        raise TypeError(f"embedding(): argument 'indices' (position 2) must be Tensor, not {type(ids).__name__}")
    raise RuntimeError(
        "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; but got"
        f" {ids.type()} instead (while checking arguments for embedding)"
    )


@functools.cache
def hide_from_compiler(kind: type, *names: str) -> None:
    """Let `torch.compile` break its graph at methods that read, settle or step rows, which it cannot trace.

    Not at import, since `torch.compiler.disable` imports half of the compiler; an optimizer, which comes first, has done so.
    """
    disable: Any = torch.compiler.disable
    for name in names:
        hidden: Any = disable(getattr(kind, name), reason="unhot reads, settles and steps rows outside graphs")
        setattr(kind, name, staticmethod(hidden) if isinstance(vars(kind).get(name), staticmethod) else hidden)
