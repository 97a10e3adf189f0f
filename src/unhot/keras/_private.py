"""What `unhot.keras` needs of Keras and of its backends and they do not publish, each as a function that says what it needs.

Each has a fallback, for a version that has it no more: the results stay the same, at a cost that the function names.
`UNHOT_PRIVATE=off` in the environment turns to the fallbacks of scopes and traces.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import keras

ON = os.environ.get("UNHOT_PRIVATE", "on") != "off"
"""Whether to use what is not published."""


def compiled_by_xla(graph: Any) -> bool:
    """Whether this graph of TensorFlow becomes part of a function with `jit_compile=True`, where asserts are dropped.

    Needs: the marker that `tf.function` sets around its trace, and that TensorFlow's control flow looks at.
    Fallback: True. An id out of range then stops no graph, but makes the result NaN, and the optimizer makes no step.
    """
    try:
        from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
    except ImportError:
        return True
    return not ON or bool(GraphOrParentsInXlaContext(graph))


def being_saved() -> bool:
    """Whether the present graph of TensorFlow is made to be written into a SavedModel.

    Needs: the marker that `tf.saved_model.save` sets, under which it traces functions anew.
    Fallback: False. TensorFlow then refuses to save a model while an optimizer of `unhot.keras` owns its tables; `release` lets
    go of them.
    """
    try:
        from tensorflow.python.saved_model.save_context import in_save_context
    except ImportError:
        return False
    return ON and bool(in_save_context())


def call_before_runs(graph: Any, key: Any, act: Callable[[], None]) -> None:
    """Have `act` called from Python whenever the function with this graph is about to run, also within another one.

    Needs: values that a function of TensorFlow captures when it is called (`FuncGraph.capture_call_time_value`). The value is
    used nowhere, and is a constant in what is saved. `key` is what it is known by in the graph.
    Fallback: nothing; see `can_call_before_runs`.
    """
    import tensorflow as tf

    nothing = tf.TensorSpec((), tf.bool)

    def value() -> Any:
        act()
        return tf.constant(False)

    if can_call_before_runs():
        graph.capture_call_time_value(value, nothing, key=key, default_value=False)


def can_call_before_runs() -> bool:
    """Whether TensorFlow can do what `call_before_runs` asks for.

    Fallback: False. All tables are then trained densely, with a warning: nobody sees deferred steps, since there are none.
    """
    import tensorflow as tf

    return hasattr(getattr(tf.__internal__, "FuncGraph", None), "capture_call_time_value")


def is_graph_of_function(graph: Any) -> bool:
    """Whether a graph of TensorFlow is that of a function, and not of a branch or a loop's body in one.

    Needs: the class of such graphs.
    Fallback: whether it belongs to a function at all. All tables are trained densely then (`can_call_before_runs`).
    """
    import tensorflow as tf

    kind = getattr(tf.__internal__, "FuncGraph", None)
    return bool(graph.building_function) if kind is None else type(graph) is kind


def made_by_trainer(graph: Any) -> bool:
    """Whether a graph is that of a function which `fit`, `evaluate` or `predict` makes.

    Needs: the names of these functions.
    Fallback: False. If such a function was made before the optimizer, the table is trained densely, with a warning.
    """
    return ON and str(graph.name).startswith(("one_step_on_", "multi_step_on_"))


def in_training() -> bool:
    """Whether a layer is being called with training=True.

    Needs: what Keras keeps on the call of the outermost layer.
    Fallback: False. On TensorFlow, lookups are then not compiled by XLA, and take longer.
    """
    try:
        from keras.src.backend.common.global_state import get_global_attribute
    except ImportError:
        return False
    context = get_global_attribute("current_call_ctx")
    return ON and bool(context is not None and context.get_value("training"))


def entry_layer() -> keras.Layer | None:
    """The outermost layer of those that are being called, mostly a model.

    Needs: what Keras keeps on its call.
    Fallback: None. When a table grows on TensorFlow, the functions that `fit` has compiled then have to be made anew by the
    user, and an error says so. On JAX, rows that are frozen after a dense step was compiled go on to train: freeze them before.
    See also `knows_entry_layers`.
    """
    try:
        from keras.src.backend.common.global_state import get_global_attribute
    except ImportError:
        return None
    context = get_global_attribute("current_call_ctx")
    return getattr(context, "entry_layer", None) if ON else None


def knows_entry_layers() -> bool:
    """Whether `entry_layer` can tell a layer.

    Needs: the same.
    Fallback: False. On JAX, tables under `keras.distribution` are then trained densely, with a warning: functions that were
    made for the layout of a dense table cannot be made anew.
    """
    try:
        from keras.src.backend.common.global_state import get_global_attribute  # noqa: F401
    except ImportError:
        return False
    return ON


# ---------------------------------------------------------------- graphs of functional models, and layers in layers

Node: TypeAlias = Any
"""A call in a graph: it has `operation`, `arguments`, `input_tensors` and `outputs`."""


def graph_of(model: keras.Model) -> keras.Model | None:
    """The functional model that knows the calls of a model: itself, or the one in a Sequential model that has been called.

    Needs: the class of functional models; where Sequential keeps the graph of its calls.
    Fallback: None. `convert` then copies models as a whole, by their configuration, and leaves Dense layers alone.
    """
    try:
        from keras.src.models.functional import Functional
    except ImportError:
        return None
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None)
    return model if isinstance(model, Functional) and hasattr(model, "_run_through_graph") else None


def made_of_inputs_and_outputs(kind: type) -> bool:
    """Whether a class of functional models is constructed from inputs and outputs, as `keras.Model` is.

    Needs: what Keras's own `clone_model` asks.
    Fallback: only of `keras.Model`'s own class. Other classes are copied as a whole.
    """
    try:
        from keras.src.models.functional import functional_like_constructor
    except ImportError:
        return kind.__module__.startswith("keras.")
    return bool(functional_like_constructor(kind))


def calls(graph: keras.Model) -> Iterator[Node]:
    """The calls that a graph makes, inputs first: each with `operation`, `arguments`, `input_tensors` and `outputs`.

    Needs: the nodes of the graph. There is no graph without them (`graph_of`).
    """
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        yield from (node for node in graph._nodes_by_depth[depth] if not node.is_input)


def origin(tensor: keras.KerasTensor) -> tuple[keras.Operation, Any]:
    """The operation that gave a tensor of a graph, and the arguments of that call.

    Needs: the history of the tensor. There is no graph without it (`graph_of`).
    """
    operation, index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[index].arguments


def run_through(
    graph: keras.Model, inputs: Any, operation_of: Callable[[keras.Operation], keras.Operation], call: Callable[..., Any]
) -> Any:
    """The outputs of a graph made anew from these inputs, with other operations in place of its own.

    Needs: what Keras's own `clone_model` does. Without it there is no graph (`graph_of`).
    """
    return graph._run_through_graph(inputs, operation_fn=operation_of, call_fn=call)


def hot_encoder(operation: keras.Operation) -> str | None:
    """Gives "one_hot" or "multi_hot" for the operations of a graph that `keras.ops` makes under these names, or None.

    Needs: the classes of these operations.
    Fallback: None. Dense layers on what they give are then left alone.
    """
    try:
        from keras.src.ops.nn import MultiHot, OneHot
    except ImportError:
        return None
    return "one_hot" if isinstance(operation, OneHot) else "multi_hot" if isinstance(operation, MultiHot) else None


def layers_in(layer: keras.Layer, recursive: bool = True) -> list[keras.Layer]:
    """The layers that a layer holds, outer ones first; without those that these hold, unless `recursive`.

    Needs: what Keras tracks of a layer's attributes.
    Fallback: the layers of models only. Layers inside others keep the kind they have.
    """
    if hasattr(layer, "_flatten_layers"):
        found: list[keras.Layer] = layer._flatten_layers(include_self=False, recursive=recursive)
        return found
    own = list(getattr(layer, "layers", ()))
    return [each for held in own for each in (held, *layers_in(held))] if recursive else own


def builds_something(layer: keras.Layer) -> bool:
    """Whether a layer has a `build` of its own, which makes its weights.

    Needs: Keras's mark at the `build` that layers inherit.
    Fallback: True. Keras's own `build` then warns of models that it cannot build.
    """
    return not getattr(layer.build, "_is_default", False)


def seed_generators(layer: keras.Layer) -> list[keras.random.SeedGenerator]:
    """The generators of random numbers that a layer itself holds.

    Needs: what Keras tracks of a layer's attributes.
    Fallback: none. A copy of a Dropout layer then begins with its seed.
    """
    return list(getattr(layer, "_seed_generators", ()))


# ---------------------------------------------------------------- scopes


def stateless_scope() -> Any:
    """The `keras.StatelessScope` in which this is called, or None.

    Needs: where Keras keeps it.
    Fallback: a scope knows the one that it is entered in.
    """
    try:
        if ON:
            from keras.src.backend.common.stateless_scope import get_stateless_scope

            return get_stateless_scope()
    except ImportError:
        pass
    with keras.StatelessScope(initialize_variables=False) as scope:
        return scope.original_scope


def nnx_enabled() -> bool:
    """Whether Keras's variables on JAX are flax's.

    Needs: Keras's configuration.
    Fallback: False.
    """
    try:
        from keras.src.backend.config import is_nnx_enabled
    except ImportError:
        return False
    return ON and bool(is_nnx_enabled())


# ---------------------------------------------------------------- JAX


def tell_trainer(model: keras.Model, values: Callable[[Iterable[Any]], list[Any]]) -> None:
    """Have Keras's trainer on JAX take the values of a model's variables, which have changed between two steps, for the latest.

    `values` gives them for variables.
    Needs: where `fit` keeps the values of the last step, which it goes back to if an error comes before the next.
    Fallback: nothing. After such an error, the values from before the change do not fit the variables: another error hides it,
    and what the variables held is lost.
    """
    state = getattr(model, "_jax_state", None)
    if not (ON and state and getattr(model, "_jax_state_synced", False)):
        return
    for name in state:
        held = model.optimizer.variables if name == "optimizer_variables" else getattr(model, name)
        state[name] = values(held)


def have_trainer_fetch(within: Callable[[], AbstractContextManager[None]]) -> None:
    """Have Keras's trainer on JAX fetch the values of variables for its steps, and their shardings, in such a context.

    Needs: the trainer's methods that do it. Functions that enter the context and call them take their places, since nothing
    else tells the trainer, which puts values into its functions, from everyone else who reads a variable's value.
    Fallback: nothing; see `trainer_fetches`.
    """
    for name, kind in _fetching_methods().items():
        if kind is not None:
            setattr(kind, name, _called_within(within, vars(kind)[name]))


def trainer_fetches() -> bool:
    """Whether Keras's trainer does what `have_trainer_fetch` asks for.

    Fallback: False. All tables on JAX are then trained densely, with a warning.
    """
    return None not in _fetching_methods().values()


def _fetching_methods() -> dict[str, type | None]:
    """The names of the trainer's methods that fetch values, and the classes that have them."""
    names = ("_get_jax_state", "_get_state_sharding_spec")
    return {name: next((kind for kind in keras.Model.__mro__ if name in vars(kind)), None) for name in names}


def _called_within(within: Callable[[], AbstractContextManager[None]], method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def called(self: keras.Model, *args: Any, **options: Any) -> Any:
        with within():
            return method(self, *args, **options)

    return called


def same_trace(array: Any, other: Any) -> bool:
    """Whether both are JAX's stand-ins for arrays, in the same of its traces.

    Needs: the trace that a stand-in knows.
    Fallback: False. A table that is looked up several times in a step is then trained densely, and a `train_step` or `apply` of
    the user's own cannot read the slots of tables: an error says so.
    """
    import jax

    if not (ON and isinstance(array, jax.core.Tracer) and isinstance(other, jax.core.Tracer)):
        return False
    trace = getattr(array, "_trace", None)
    return trace is not None and trace is getattr(other, "_trace", None)


def anywhere_like(sharding: Any) -> Any:
    """What `jax.jit` takes to leave arrays where they are; whoever asks it is told what the sharding would tell.

    But it passes for any other one: Keras asks before it lays out what its variables are assigned, array by array.
    Needs: the class of what `jax.jit` takes for that, and takes by default.
    Fallback: for what each device has all of, the sharding that says so of any array; else None, which `jax.jit` takes, too,
    but which nobody can ask. Then a table that is spread over devices cannot be assigned to a variable of Keras's: assign
    `keras.ops.convert_to_numpy(table)`.
    """
    import jax

    kind: Any = type(inspect.signature(jax.jit).parameters["out_shardings"].default)
    if not ON or kind is type(None):
        everywhere = jax.sharding.PartitionSpec()  # type: ignore[no-untyped-call]
        return jax.sharding.NamedSharding(sharding.mesh, everywhere) if sharding.is_fully_replicated else None

    class Anywhere(kind):  # type: ignore[misc]
        def __getattr__(self, name: str) -> Any:
            return getattr(sharding, name)

        def is_equivalent_to(self, other: Any, ndim: int) -> bool:
            return True

    return Anywhere()


# ------------------------------------------------------------------ what subclasses use
#
# Without fallbacks: these attributes are what Keras's own variables and optimizers of each backend are written with.


def raw(variable: Any) -> Any:
    """What a variable holds. Its `value` would settle the rows of a table, and is cast where Keras autocasts."""
    return variable._value


def set_raw(variable: Any, value: Any) -> None:
    """Let a variable hold something else, without a check of its shape: JAX's arrays are written so by Keras's trainer, too."""
    variable._value = value


def own_dtype(variable: Any) -> str:
    """The dtype of what a variable holds. Its `dtype` is another where Keras autocasts."""
    found: str = variable._dtype
    return found


def layout_of(variable: Any) -> Any:
    """How `keras.distribution` spreads a variable over devices, or None, also in a version whose variables do not say it."""
    return getattr(variable, "_layout", None)


def rate_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """The learning rate: a variable, or a schedule, of which `learning_rate` shows only the number."""
    return optimizer._learning_rate


def batches_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """The variable that counts batches. `iterations` is that of steps, where gradients of several batches are accumulated."""
    return optimizer._iterations


def trained_by(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """The variables that an optimizer was built for."""
    found: list[Any] = optimizer._trainable_variables
    return found
