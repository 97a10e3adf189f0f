"""What `unhot.torch` needs of PyTorch and PyTorch does not publish, each as a function that says what it needs.

Each has a fallback of published names, for a PyTorch that no longer has the name. `UNHOT_PRIVATE=off` in the environment turns
the fallbacks on, which is how they are tested; they are slower.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from unhot.atomic import within

T = TypeVar("T")

_TORCH_FUNCTION: Any = Tensor.__torch_function__
"""What calls a function without asking classes for `__torch_function__`, and leaves the classes of its results as they are."""
G = TypeVar("G", bound=Tensor)

ON = os.environ.get("UNHOT_PRIVATE", "on") != "off"
"""Whether names that PyTorch does not publish are used."""

if ON:
    import torch.optim.optimizer as _optimizers
    from torch._C import DisableTorchFunction, DisableTorchFunctionSubclass
    from torch.utils._python_dispatch import _disable_current_modes


def without_torch_functions(function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)`, in which tensors of a class with `__torch_function__` are treated as any others.

    Without `DisableTorchFunctionSubclass`, by the published method that PyTorch's own subclasses call for this.
    """
    if not ON:
        return cast(T, _TORCH_FUNCTION(function, (), arguments, {}))
    if torch.compiler.is_compiling():
        with DisableTorchFunctionSubclass():
            return function(*arguments)
    return _inside(DisableTorchFunctionSubclass(), partial(function, *arguments))


def without_modes(function: Callable[[], T]) -> T:
    """`function()`, in which no mode (`torch.set_default_device`, say) is told of operations: that would be Python code.

    Without a way to turn modes off they are told; an exception of a signal's handler in the midst of their code may then tear
    a change apart.
    """
    if not ON:
        return function()
    return _inside(DisableTorchFunction(), partial(_inside, _disable_current_modes(), function))


def _inside(manager: Any, function: Callable[[], T]) -> T:
    """`with manager: return function()`, whatever exception comes when (see `atomic.within`)."""
    return within(manager.__enter__, function, partial(manager.__exit__, None, None, None))


# ---------------------------------------------------------------- tensors without memory


def without_memory(kind: type[G], shape: Sequence[int], like: Tensor) -> G:
    """A tensor of a class with `__torch_dispatch__` that has the given shape, and dtype and device as `like`, and no memory.

    Without `_make_wrapper_subclass`, one with memory that nothing touches, which costs address space on the CPU.
    """
    if not ON:
        return torch.empty(tuple(shape), dtype=like.dtype, device=like.device).as_subclass(kind)
    make: Any = Tensor._make_wrapper_subclass
    made: G = make(kind, shape, dtype=like.dtype, device=like.device)
    return made


def called_plainly(kind: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    """`__torch_function__` of a class for which only `__torch_dispatch__` counts.

    `torch._C._disabled_torch_function_impl` does the same, and PyTorch then does not come to Python at all.
    """
    return _TORCH_FUNCTION(func, (), args, kwargs or {})


not_a_torch_function: Any = torch._C._disabled_torch_function_impl if ON else classmethod(called_plainly)


# ---------------------------------------------------------------- what an operator does


class Effects(NamedTuple):
    """What an operator does to its arguments.

    Args:
        writes: the positions and names of the arguments that it writes.
        views: whether its results share memory with an argument that it does not write.
    """

    writes: frozenset[int | str]
    views: bool


VIEWS = frozenset(
    {
        "_conj", "_neg_view", "_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk", "diagonal", "expand",
        "lift_fresh", "movedim", "narrow", "permute", "real", "select", "slice", "split", "split_with_sizes", "squeeze",
        "swapaxes", "swapdims", "t", "transpose", "unbind", "unfold", "unsafe_chunk", "unsafe_split",
        "unsafe_split_with_sizes", "unsqueeze", "view", "view_as_complex", "view_as_real", "view_copy",
    }
)  # fmt: skip
"""The operators whose results share memory with their argument, by name."""


@functools.cache
def effects(operator: Any) -> Effects:
    """What an operator of PyTorch (an `OpOverload`) does, as its schema says.

    Without the schema, as its name says: those that end with an underscore write their first argument, and the fused and
    scaling ones all lists of tensors.
    """
    if ON:
        arguments, writes = operator._schema.arguments, set()
        for position, argument in enumerate(arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                writes.add(argument.name if argument.kwarg_only else position)
        returned = any(r.alias_info is not None and not r.alias_info.is_write for r in operator._schema.returns)
        return Effects(frozenset(writes), returned)
    name, _, overload = str(operator).removeprefix("aten.").partition(".")
    written: set[int | str] = {0} if name.endswith("_") and not name.endswith("__") else set()
    if name.startswith("_fused_"):
        written |= set(range(6))
    return Effects(frozenset(written | {"out", "grad_input"} if "out" in overload else written), name in VIEWS)


# ---------------------------------------------------------------- what looks at the operations that run now

if ON:
    _PROXY, _FAKE, _FUNCTIONAL = (getattr(torch._C._TorchDispatchModeKey, name) for name in ("PROXY", "FAKE", "FUNCTIONAL"))


def is_exporting() -> bool:
    """Whether `torch.export` records the operations that run now.

    Without its flag, as published, which the compiler of PyTorch 2.8 takes to be true in every graph.
    """
    return torch.compiler._is_exporting_flag if ON else torch.compiler.is_exporting()


def is_traced_by_proxies() -> bool:
    """Whether `make_fx` or `torch.export` records the operations that run now.

    Without the list of modes, only `torch.export` is known.
    """
    if torch.compiler.is_dynamo_compiling():
        return False
    if not ON:
        return torch.compiler.is_exporting()
    if torch._C._len_torch_dispatch_stack() and torch._C._get_dispatch_mode(_PROXY) is not None:
        return True
    before = torch._C._dispatch_tls_is_dispatch_key_included(torch._C.DispatchKey.PreDispatch)  # where torch.export traces
    return bool(before)


class _Untransformable(torch.autograd.Function):
    """A function that `torch.func` does not take, since its context is set up in its forward pass."""

    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:
        return given.clone()


def _refuses_functions() -> bool:
    """Whether a transform of `torch.func` is active."""
    apply: Any = _Untransformable.apply
    try:
        apply(torch.zeros(()))
    except RuntimeError:
        return True
    return False


def is_transformed() -> bool:
    """Whether torch.jit, `torch.func`, `make_fx` or fake tensors look at what runs now.

    Without the list of modes and transforms, torch.jit and `torch.export` are known, and `torch.func` by what it does not take.
    """
    if torch.compiler.is_dynamo_compiling():
        return False
    if not ON:
        jit: Any = torch.jit
        return jit.is_tracing() or torch.compiler.is_exporting() or _refuses_functions()
    modes = torch._C._len_torch_dispatch_stack() and any(
        torch._C._get_dispatch_mode(mode) is not None for mode in (_FAKE, _FUNCTIONAL)
    )
    if modes or is_traced_by_proxies():
        return True
    return torch._C._get_tracing_state() is not None or torch._C._are_functorch_transforms_active()


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor has no numbers, since what is done with it is only recorded.

    Without the class, only `torch.export` is known.
    """
    return isinstance(tensor, torch._subclasses.FakeTensor) if ON else torch.compiler.is_exporting()


@contextmanager
def unseen() -> Iterator[None]:
    """Where no tracer notes what settling writes, and no transform of `torch.func` forbids it.

    Without these switches it is noted, and forbidden within `torch.func.functionalize` and `torch.func.grad`.
    """
    if not ON:
        yield
        return
    internals: Any = torch._C
    tracing = internals._get_tracing_state()
    internals._set_tracing_state(None)
    try:
        with internals._DisableFuncTorch(), _disable_current_modes():
            yield
    finally:
        internals._set_tracing_state(tracing)


def without_tracers(function: Callable[[], T]) -> T:
    """`function()`, of which `make_fx` and `torch.export` record nothing. Without a switch, they do."""
    if not ON:
        return function()
    with _disable_current_modes():
        return function()


def in_tracing() -> bool:
    """Whether `torch.compile` or `torch.export` is tracing, and looks at tensors to learn what they are.

    Without its name for that, False: a gradient that it looks at becomes dense, for one step.
    """
    if not ON:
        return False
    from torch._guards import TracingContext

    return TracingContext.try_get() is not None


def beneath_transforms(tensor: Tensor) -> Tensor:
    """The tensor that `torch.func` has wrapped into this one.

    Without the names for that, the wrapper: a table has to be settled before it is given to a function of `torch.func`.
    """
    if ON:
        while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


# ---------------------------------------------------------------- tensors and optimizers


def version_of(tensor: Tensor) -> int:
    """How often the tensor was written in place. Without `_version`, 0: a write that is not allowed is then not noticed."""
    return tensor._version if ON else 0


def was_written(tensor: Tensor, version: int) -> bool:
    """Whether a parameter was written since it had this version.

    Without `_version`, whether it has no gradient, as after a step and `zero_grad`.
    """
    return tensor._version != version if ON else tensor.grad is None


def in_data_parallel() -> bool:
    """Whether a model wrapped in DistributedDataParallel is computing. Without its name for that, whether there is a group."""
    if not ON:
        return torch.distributed.is_available() and torch.distributed.is_initialized()
    module: Any = torch.nn.parallel.DistributedDataParallel
    return module._get_active_ddp_module() is not None


def timeout_of(group: Any) -> timedelta | None:
    """The timeout of a process group. Without the names of its backends, None, which stands for PyTorch's default."""
    if not ON:
        return None
    backend = group._get_backend(group._device_types[0] if len(group._device_types) == 1 else torch.device("cpu"))
    found: timedelta | None = getattr(backend.options, "_timeout", None)
    return found


def ignored_in_data_parallel(module: torch.nn.Module, names: Sequence[str]) -> None:
    """Let `DistributedDataParallel(module)` leave the parameters of these names alone.

    Without its name for that, it would send rows of one process to others, or stop at rows of different numbers.
    """
    if ON:
        kind: Any = torch.nn.parallel.DistributedDataParallel
        kind._set_params_and_buffers_to_ignore_for_model(module, [*getattr(module, _IGNORED, ()), *names])


_IGNORED = "_ddp_params_and_buffers_to_ignore"


def constructs_parameter() -> bool:
    """Whether `nn.Parameter(data)` calls `detach` of `data`, of which the caller of this, a `__torch_function__`, is told.

    It requires that `detach` give a tensor of the class of `data`, as it does for no other caller. Nothing that a tensor's
    class is told makes a difference between them, so the frame is looked at. Without it, `nn.Parameter(table)` is refused by
    torch, and `nn.Parameter(table.detach())` is what to write.
    """
    frame = sys._getframe(1) if ON else None
    while frame is not None and frame.f_code.co_name == "__torch_function__":  # also those of modes, as of a default device
        frame = frame.f_back
    return frame is not None and frame.f_code is torch.nn.Parameter.__new__.__code__


def is_hooked(module: torch.nn.Module) -> bool:
    """Whether calls of this module run hooks of its own.

    Without one of the names of hooks, True: it is called then. `UNHOT_PRIVATE` does not turn that on, because errors of layers
    that a collection calls have PyTorch's words.
    """
    own = vars(module)
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(own.get(name, True) for name in names)


def is_watched(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a hook or a profiler wants to know of this optimizer's steps: only then torch's wrapper is needed around them.

    It costs as much as a step of few rows. Without the names of hooks, it is always needed.
    """
    if not ON:
        return True
    everywhere = (_optimizers._global_optimizer_pre_hooks, _optimizers._global_optimizer_post_hooks)
    own = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    return torch._C._autograd._profiler_enabled() or any(own) or any(everywhere)
