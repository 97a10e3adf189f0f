"""What trains the rows of a table parameter for an optimizer: the engine on its memory and on the optimizer's slots."""

from __future__ import annotations

import functools
import re
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from unhot.atomic import Call, Lock, together
from unhot.clock import Clock
from unhot.engine import Engine
from unhot.kernels.structs import MODES, Bags, Segment
from unhot.optimizers import Optimizer
from unhot.settling import clock_of
from unhot.torch._private import unseen, version_of, without_torch_functions
from unhot.torch.aliases import ALIASED, is_aliased
from unhot.torch.gradient import RowGradient
from unhot.torch.held_state import Owner, Start, StateHolder, require_shape
from unhot.torch.placement import Host, Placement, counter, placement
from unhot.torch.renorm import trained_among
from unhot.torch.replay import NotedSteps
from unhot.torch.rooms import Rooms, dtype_of
from unhot.training import Backend, Ownership

DTYPES = (torch.float32, torch.float64)
"""Those of tables whose rows can be trained apart; others take torch's own way."""

STRUCTURE = ("momentum", "amsgrad", "centered")
"""Hyperparameters by which an optimizer has one slot more."""

OF_NEW_ROWS = ("kept_of_weight", "momentum_of_weight")
"""What a clock knows of rows that had no gradient yet, for rows that are added."""

SHARED = (
    "it lies in memory that other processes share, which would read rows with deferred steps. Share a copy of the model, and"
    " copy the weights into it from time to time"
)
DIFFERENTIABLE = "its optimizer was made with differentiable=True. Leave that out"


class TorchBackend(Backend):
    """What trains the rows of one table parameter for one optimizer.

    The engine exists from the first row-sparse step on, until something else writes weights or slots: a dense step, a
    loaded state, a parameter moved elsewhere, another owner.  It is then made anew from what torch holds.
    """

    tie: Callable[[], Ownership[TorchBackend] | None]
    """A reference to the tie that this is the backend of."""

    def __init__(self, owner: StateHolder, lock: Lock) -> None:
        hide_from_compiler(TorchBackend, "outside_graph", "settle", "settle_rows", "hand_over")
        self.lock = lock
        """Held by whatever reads, settles or steps the rows."""
        self._owner = weakref.ref(owner)
        self.engine: Engine | None = None
        self.place = 0
        """Which of the engine's stores is this table's."""
        self._pointer = -1  # no tensor's, also not that of one without elements
        self.memory: Placement
        """Where the table lies, and so what works on it."""
        self._weights: Tensor
        self._shared = False
        """Whether other processes have the memory, too."""
        self.aliased = False
        """Whether another parameter lies in the same memory."""
        self._kept: dict[str, tuple[Tensor, int]] = {}
        """What the engine keeps in the optimizer's state, and the versions of those tensors."""
        self.dense_steps = 0
        """How many of the last steps in a row were dense."""
        self.kept: dict[str, float] = {}
        """Numbers of the clock of the last engine that torch's state has no place for, if rows were trained by it alone."""
        self.steps: NotedSteps | None = None
        """The steps to make again for rows that are added, if there were such of which the clock knows nothing."""

    @property
    def owner(self) -> StateHolder | None:
        """The optimizer, or None once it is gone."""
        return self._owner()

    @property
    def parameter(self) -> nn.Parameter | None:
        """The table, or None once it is gone."""
        tie = self.tie()
        return None if tie is None else cast("nn.Parameter | None", tie.table)

    def has_deferred_steps(self) -> bool:
        return self.engine is not None and self.engine.is_deferred(self.place)

    def _current(self) -> Engine | None:
        """The engine, if there is one that works on the memory that the parameter has now.

        To be called where torch functions of subclasses are disabled, or a look at the parameter would settle it.
        """
        parameter = self.parameter
        assert parameter is not None
        if parameter.data_ptr() != self._pointer:
            self.lock.holding(partial(self._begin_in, parameter))
        return self.engine

    def _begin_in(self, parameter: nn.Parameter) -> None:
        """Work on the memory that the parameter has now."""
        if parameter.data_ptr() == self._pointer:  # another thread was first, and may have trained rows in it
            return
        self.hand_over()
        if not parameter.is_contiguous():
            with torch.inference_mode(False):
                parameter.data = parameter.detach().contiguous()
        memory = placement(parameter)
        shared, aliased = is_shared(parameter), self._is_aliased(parameter)
        weights = parameter.detach()
        self.__dict__.update(_pointer=parameter.data_ptr(), _weights=weights, memory=memory, _shared=shared, aliased=aliased)

    def _is_aliased(self, parameter: nn.Parameter) -> bool:
        """Whether another parameter lies in the table's memory."""
        return is_aliased(self, parameter, getattr(self.owner, "param_groups", ()))

    def follow_memory(self) -> None:
        """Begin anew if the parameter has got another shape or other strides, be it in the same memory."""
        self.lock.holding(self._follow_memory)

    def _follow_memory(self) -> None:
        parameter = self.parameter
        assert parameter is not None
        if self._pointer == -1:
            return
        if (parameter.shape, parameter.stride()) != (self._weights.shape, self._weights.stride()):
            self.hand_over()
            self._pointer = -1

    # ------------------------------------------------------------------ reading

    def renorm(self, ids: Tensor, max_norm: float, norm_type: float) -> None:
        """Settle the rows `ids`, and scale those down whose norm is larger, unless they are frozen."""
        renorm = torch.no_grad()(self._renorm)  # no `with`: see `without_torch_functions`
        self.lock.holding(partial(renorm, ids, max_norm, norm_type))

    def _renorm(self, ids: Tensor, max_norm: float, norm_type: float) -> None:
        self.settle_rows(ids)
        trained = trained_among(ids, self.parameter)
        if trained.numel():  # torch's kernel for GPUs refuses none
            torch.embedding_renorm_(self._weights, trained.contiguous(), max_norm, norm_type)

    def in_host_memory(self) -> bool:
        """Whether the table lies where the native kernels work."""
        self._current()
        return isinstance(self.memory, Host)

    def outside_graph(self, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """`function(*arguments)`, where `torch.compile` traces."""
        return without_torch_functions(function, *arguments)

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The ids as a flat copy, whatever becomes of the given ones, and their settled rows: ids.shape + (dim,)."""
        require_indices(ids)
        return self.lock.holding(partial(self._read, ids))

    def _read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        engine = self._current()
        memory, weights = self.memory, self._weights
        rows, dim = weights.shape
        own, flat = memory.copied(ids)
        memory.require_rows(flat, rows, ids.shape)
        out = weights.new_empty((*ids.shape, dim))  # no view of it, which in-place operations could not follow
        rows_out = memory.view(out).reshape(len(flat), dim)
        if engine is None:
            memory.gather(weights, flat, rows_out)
        else:
            engine.read(self.numbered(flat), [Segment(self.place, rows_out)])
        return own, out

    def numbered(self, flat: Any) -> Any:
        """The ids as numbers among the rows of all tables that make the same steps."""
        assert self.engine is not None
        first = self.engine.stores[self.place].first
        return flat + first if first else flat

    def require_rows(self, ids: Tensor) -> None:
        """Raise IndexError for an id out of range."""
        _, flat = self.memory.copied(ids)
        self.memory.require_rows(flat, self._weights.size(0), ids.shape)

    def read_bags(self, ids: Tensor, starts: Tensor, factors: Tensor | None, mode: str) -> tuple[Tensor, Tensor]:
        """The ids as a flat copy, and the pooled settled rows of bags of them: (bags, dim). In host memory only."""
        return self.lock.holding(partial(self._read_bags, ids, starts, factors, mode))

    def _read_bags(self, ids: Tensor, starts: Tensor, factors: Tensor | None, mode: str) -> tuple[Tensor, Tensor]:
        engine = self._current()
        memory, weights = self.memory, self._weights
        own, flat = memory.copied(ids)
        memory.require_rows(flat, len(weights), ids.shape)
        out = weights.new_empty((len(starts) - 1, weights.size(1)))
        by = None if factors is None else memory.view(factors)
        bags = Bags(self.place, memory.view(out), memory.view(starts), by, MODES[mode])
        if engine is None:
            memory.kernels.stores([[memory.view(weights)]], [0], None).pool(flat, [bags._replace(store=0)])
        else:
            engine.pool(self.numbered(flat), [bags])
        return own, out

    # ------------------------------------------------------------------ settling

    def settle(self) -> None:
        """Apply all deferred steps."""
        self.lock.holding(self._settle)

    def _settle(self) -> None:
        if self.engine is not None:
            with unseen():
                self.memory.alone(partial(self.engine.settle_store, self.place))

    def settle_rows(self, ids: Tensor) -> None:
        """Apply the deferred steps of the rows `ids`."""
        require_indices(ids)
        self.lock.holding(partial(self._settle_rows, ids))

    def _settle_rows(self, ids: Tensor) -> None:
        engine = self._current()
        _, flat = self.memory.copied(ids)
        self.memory.require_rows(flat, len(self._weights), ids.shape)
        if engine is not None:
            self.memory.alone(partial(engine.settle, engine.kernels.group(self.numbered(flat)).rows))

    def hand_over(self) -> None:
        """Settle, leave all that was trained in torch's state, and let go of it, for something else to write it.

        Raises: RuntimeError for a state that was written in place while rows had deferred steps, which needed what was there.
        """
        self.lock.holding(partial(without_torch_functions, self._hand_over))

    def _hand_over(self) -> None:
        self.require_intact()
        self._settle()
        parameter, owner, engine = self.parameter, self.owner, self.engine
        if parameter is not None and owner is not None and engine is not None and engine.clock is not None:
            state, numbers = owner.held_state.get(parameter, {}), engine.clock.state()
            calls: list[Call] = []
            for name, number in (("step", engine.now), ("mu_product", numbers.get("momentum_product"))):
                if name in self._kept and state.get(name) is self._kept[name][0]:
                    calls.append(partial(state[name].data.fill_, number))  # `data`, whose versions are its own
            if numbers.get("momentum_begun") == 0.0:  # a step was refused: torch takes a buffer for one that has begun
                calls.append(partial(state.pop, "momentum_buffer", None))
            kept = {name: number for name, number in numbers.items() if name in OF_NEW_ROWS}
            calls.append(partial(setattr, self, "kept", kept))
            with unseen():
                self.memory.alone(partial(together, [*calls, *self._leaving(engine)]))
        self.engine = None

    def _leaving(self, engine: Engine) -> list[Call]:
        """What takes the table out of the engine."""
        left = engine.leave([self.place]) if len(engine.stores) > 1 else []
        return [*left, partial(setattr, self, "engine", None)]

    def forget(self) -> None:
        """Settle the weights, and let go of a state that is to be replaced as a whole, whatever it holds."""
        self.lock.holding(partial(without_torch_functions, self._forget))

    def _forget(self) -> None:
        engine = self.engine
        if engine is not None and (self._written() or engine.version < 0):
            together(self._leaving(engine))
        self._hand_over()
        self.kept, self.steps = {}, None

    def resume(self) -> None:
        """Go on from what torch holds now, which may be other memory."""
        self.hand_over()

    # ------------------------------------------------------------------ training

    @staticmethod
    def reason_for_dense(table: nn.Parameter, owner: Owner, group: Mapping[str, Any]) -> str:
        """Why the rows of a table cannot be trained apart with the hyperparameters of the group, and what to do; or nothing."""
        if table.dtype not in DTYPES:
            return wrong_dtype(table.dtype)
        if is_shared(table):
            return SHARED
        if group.get("differentiable"):
            return DIFFERENTIABLE
        try:
            core = owner.core(**owner.hyperparameters(group))
            _, clock = clock_of(core, dtype_of(table), len(table))
            core.require_range(core.read(1), clock.dtype)
        except (TypeError, ValueError) as error:
            return why_dense(error, owner.core)
        return ""

    def prepare(self, group: Mapping[str, Any], core: Optimizer, state: dict[str, Any]) -> str:
        """Get ready for a step with the hyperparameters of the group, or say why the rows cannot be trained apart."""
        if group.get("differentiable"):
            return DIFFERENTIABLE
        engine = self._current()
        if self._shared:
            return SHARED
        if self.aliased:  # the other may be gone by now
            parameter = self.parameter
            assert parameter is not None
            self.aliased = self._is_aliased(parameter)
            if self.aliased:
                return ALIASED
        if engine is None:
            return ""
        if self._written():
            self.require_intact()
            self.hand_over()
        elif self._replaced(state) or any(
            bool(getattr(core, name, 0)) != bool(getattr(engine.optimizer, name, 0)) for name in STRUCTURE
        ):
            self.hand_over()
        return ""

    def gradients(self, gradient: Tensor, maximize: bool) -> tuple[Any, Segment]:
        """The ids of a row-sparse gradient, as numbers of the engine's rows, and their vectors."""
        bags = factors = None
        source = gradient.content.source if isinstance(gradient, RowGradient) else None
        bagged = None if source is None or not isinstance(self.memory, Host) else source.bagged()
        if bagged is not None:
            named, values, bags, factors = bagged
        elif isinstance(gradient, RowGradient):
            assert gradient.content.rows is not None
            named, values, *_ = gradient.content.rows
        else:
            named, values = gradient._indices()[0], gradient._values()
        if values.requires_grad:  # of a backward pass that was asked for a graph
            values = values.detach()
        self.memory.require_rows(self.memory.view(named), len(self._weights), named.shape)
        ids, vectors = self.in_memory(named, -values if maximize else values)
        of_bags = (None if given is None else self.memory.view(given) for given in (bags, factors))
        return self.numbered(ids), Segment(self.place, vectors, *of_bags)

    def in_memory(self, ids: Tensor, values: Tensor) -> tuple[Any, Any]:
        """Ids and values as the kernels take them."""
        values = values.to(self._weights.dtype)
        if values.size(1) > 1 and values.stride(1) != 1:
            values = values.contiguous()
        return self.memory.view(ids), self.memory.view(values)

    def start(self, state: Mapping[str, Any], owner: Owner) -> Start:
        """From where the table goes on: what torch's state says, in our words."""
        return Start.of(state, owner, self.kept, dtype_of(self._weights), self.memory.kernels)

    def slots_for(
        self, clock: Clock, owner: Owner, group: Mapping[str, Any], state: Mapping[str, Any], held: frozenset[str]
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """The tensors of torch's state by torch's names, those that it lacks made anew; and the slots among them, as arrays."""
        weights = self._weights
        bound: dict[str, Tensor] = {}
        slots = []
        for name, start in clock.slots.items():
            theirs, shape = owner.slots[name], (len(weights), clock.law.slot_width(name, weights.size(1)))
            if name not in held:
                bound[theirs] = self._new_slot(theirs, shape, start)
                slots.append(self.memory.view(bound[theirs]))
            else:
                require_shape(theirs, state[theirs], shape)
                bound[theirs] = state[theirs].to(weights).contiguous()
                slots.append(self.memory.row_view(bound[theirs]))
        if "largest_velocity" in held and "largest_velocity" in clock.slots:
            largest, velocity = (bound[owner.slots[name]] for name in ("largest_velocity", "velocity"))
            beta_2 = owner.hyperparameters(group)["beta_2"]  # by which torch's next step finds the larger, at rest too
            torch.maximum(largest, beta_2 * velocity, out=largest)
        for name in owner.counters:
            bound[name] = state[name] if name in state else counter(1.0 if name == "mu_product" else 0.0, weights, group)
        order = (*owner.counters, *owner.slots.values())  # torch's
        return {name: bound[name] for name in order if name in bound}, slots

    def _new_slot(self, name: str, shape: tuple[int, int], start: float) -> Tensor:
        """A slot that begins with this number, in memory with room for the rows that the table has room for."""
        rooms: Rooms | None = getattr(getattr(self.parameter, "notes", None), "rooms", None)
        if rooms is None or rooms.capacity <= shape[0] or not isinstance(self.memory, Host):
            return self.memory.full(shape, self._weights, start)
        slot = rooms.begun(name, shape, self._weights)
        return slot.fill_(start) if start else slot

    def weights_array(self) -> Any:
        """The weights, to be read and written row by row from now on."""
        return self.memory.row_view(self._weights)

    def bound(self, engine: Engine, place: int, state: dict[str, Any], bound: dict[str, Tensor]) -> list[Call]:
        """What puts the table into an engine, whose slots lie in these tensors of torch's state."""
        kept = {name: (tensor, version_of(tensor)) for name, tensor in bound.items()}
        return [partial(state.update, bound), partial(self.__dict__.update, engine=engine, place=place, _kept=kept)]

    def tell_written(self) -> None:
        """Tell PyTorch that the parameter was written, as of a step."""
        self.dense_steps = 0
        parameter = self.parameter
        assert parameter is not None
        torch.autograd.graph.increment_version(parameter)

    def _replaced(self, state: Mapping[str, Any]) -> bool:
        """Whether someone has put other tensors into the optimizer's state."""
        return self.engine is not None and any(state.get(name) is not tensor for name, (tensor, _) in self._kept.items())

    def _written(self) -> bool:
        """Whether someone has changed what is in the tensors of the optimizer's state."""
        return self.engine is not None and any(version_of(tensor) != version for tensor, version in self._kept.values())

    def require_intact(self) -> None:
        """Raise RuntimeError for a state that was changed in place while rows had deferred steps."""
        if self.has_deferred_steps() and self._written():
            raise RuntimeError(
                "a tensor of `optimizer.state` that was taken out before a step was written in place after it, while rows of"
                " the table had deferred steps, which needed what was there. Take it from `optimizer.state` again before you"
                " write; now, load a state by `optimizer.load_state_dict()`."
            )


def wrong_dtype(dtype: torch.dtype) -> str:
    """Why the rows of a table of a dtype that is none of `DTYPES` cannot be trained apart."""
    return f"its dtype is {dtype}. Rows are trained apart in torch.float32 and torch.float64"


def is_shared(tensor: Any) -> bool:
    """Whether the tensor lies in memory that other processes share (as all of a GPU's may)."""
    return bool(tensor.is_cpu and tensor.is_shared())


def why_dense(error: Exception, core: type[Optimizer]) -> str:
    """What an error of the core says, in PyTorch's names, and what to do; `convention` is not a choice of the user's."""
    said = str(error).rstrip(".").replace("with convention='torch', ", "")
    for remedy, instead in REMEDIES.items():
        said = said.replace(remedy, instead)
    for ours, theirs in (core.TORCH.hyperparameters if core.TORCH else {}).items():
        said = re.sub(rf"\b{ours}\b", theirs if isinstance(theirs, str) else f"{theirs[0]}[{theirs[1]}]", said)
    _, found, last = said.rpartition(". ")
    return said if found and not last.startswith("Received") else f"{said}. Change this hyperparameter to train by rows"


DECOUPLED = "Use weight_decay=0, or an optimizer whose decay is decoupled, such as AdamW"
REMEDIES = {
    "Use weight_decay=0, or convention='keras', whose decay is decoupled": DECOUPLED,
    "Use unhot.AdamW, or decoupled_weight_decay=True, or convention='keras': their decay is decoupled": DECOUPLED,
    ", or convention='keras', whose decay is decoupled": ", which decouples the decay",
    "Use convention='keras', which has no such bound": "Use a lower beta_1",
    ", or convention='keras', which has no such bound": "",
}
"""What the core's errors advise, and what to do with an optimizer of PyTorch, which has no conventions."""


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
