"""`keras.layers.Embedding` with a table that trains at the cost of the touched rows."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from unhot.ids import OutOfRange, check_policy
from unhot.keras.backends import backend
from unhot.keras.callers import note_caller
from unhot.keras.combiners import COMBINERS, Bags, Wanted, bags_of, check_weights, combined, is_ragged
from unhot.keras.growing import Growing
from unhot.keras.input_ids import as_tensor, checked, representable, require_exact
from unhot.keras.kinds import Option, Shape, Tensor, Variable
from unhot.optimizers.base import flag

TABLES = ("embeddings", "lora_embeddings_a")
"""The names of the weights that have a row for each id."""


@keras.saving.register_keras_serializable("unhot")
class Embedding(Growing, keras.layers.Embedding):  # type: ignore[misc]
    """`keras.layers.Embedding` whose rows an optimizer of `unhot.keras` trains exactly, at the cost of the touched rows.

    Args: those of `keras.layers.Embedding`, with its defaults, and
        use_bias: whether to add a trained vector, as a Dense layer on one-hot vectors would.
        bias_initializer: the initializer of this vector.
        activation: a function applied to the result.
        combiner: how to combine the vectors along the last axis of the ids: "sum" (the result of Dense on a multi-hot vector),
            "mean", "max" or "sqrtn" (the sum divided by the root of the sum of the squared weights). None does not combine
            them. With `mask_zero`, ids of 0 are left out. A bag is 0 if nothing is left in it or all of its weights are 0.
        out_of_range: what happens to an id outside [0, input_dim), or to a fraction: "raise" (an IndexError; in a graph
            of TensorFlow an InvalidArgumentError; what XLA compiles cannot raise, so there the result for that id or bag is
            NaN, and no row gets a gradient from it), "zero" (a zero vector without a gradient, which counts in a mean or
            maximum) or the number of the row that stands for all unknown ids.
        frozen: rows that do not train: their numbers, or a boolean mask of shape (input_dim,). See the property `frozen`.

    Call: `layer(ids, weights=None)`. The ids have any shape (..., n). They are integers, or floats whose dtype has an exact
        number for every row (float32: 2**24 rows). `weights` have the same shape, can be trained, and need a combiner other
        than "max". Ragged and sparse ids work as in `keras.layers.Embedding`, where absent ids are 0. A
        combiner takes those that are there, with weights in an array of the same kind.

    Returns: vectors of shape ids.shape + (output_dim,). A combiner removes the last axis of the ids.

    Raises: what `keras.layers.Embedding` raises; ValueError for arguments that do not go together; IndexError for an id out
        of range; TypeError for booleans, and for floats that cannot hold every row's number.

    A layer called eagerly sees the ids before they are converted, so it never mistakes one id for another. `fit`, `evaluate`
    and `predict` convert arrays before any layer sees them. Floats become `keras.config.floatx()`, which rounds fractions such
    as 3 + 1e-9. On JAX without x64, int64 and uint64 keep only their last 32 bits: 2**32 + 5 becomes 5. `keras.Input` casts to
    its dtype, float32 by default. Check such ids beforehand, or convert them to int32.

    Example:
        >>> import numpy as np, unhot.keras
        >>> layer = unhot.keras.Embedding(1000, 4, combiner="sum", use_bias=True, activation="relu")
        >>> tuple(layer(np.array([[3, 7, 7], [3, 5, 0]])).shape)
        (2, 4)

    References: keras/src/layers/core/embedding.py.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *args: Option,
        use_bias: bool = False,
        bias_initializer: Option = "zeros",
        activation: Option = None,
        combiner: str | None = None,
        out_of_range: OutOfRange = "raise",
        frozen: Option = None,
        **kwargs: Option,
    ) -> None:
        if combiner is not None and combiner not in COMBINERS:
            raise ValueError(f"`combiner` must be one of {', '.join(map(repr, COMBINERS))} or None. Received: {combiner!r}.")
        # What `call` goes by has names of its own: a subclass that combines or activates by itself sets the public ones.
        self.use_bias = self._adds_bias = flag(type(self).__name__, "use_bias", use_bias)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.activation = self._activates = None if activation is None else keras.activations.get(activation)
        self.combiner = self._combines = combiner
        self.bias: Variable | None = None
        super().__init__(input_dim, output_dim, *args, **kwargs)
        if frozen is not None:
            self.frozen = frozen
        self._convert_input_args = False  # `__call__` does that, as Keras's other layers of integers do
        self.out_of_range = check_policy(out_of_range, input_dim)

    # ------------------------------------------------------------------ variables

    def build(self, input_shape: Shape = None) -> None:
        """Keras's `build`, and the bias."""
        if self.built:
            return
        super().build(input_shape)
        self._tracker.unlock()  # LoRA has locked it, as Keras does by itself after `build`
        if self._adds_bias:
            self.bias = self.add_weight(shape=(self.output_dim,), initializer=self.bias_initializer, name="bias")

    def add_weight(self, *args: Option, **options: Option) -> Variable:
        """Keras's `add_weight`. The variables of tables are of their own kind."""
        if args or options.get("name") not in TABLES:
            made: Variable = super().add_weight(*args, **options)
            return made
        initializer, dtype = options.get("initializer"), options.get("dtype")
        with keras.name_scope(self.name, caller=self):
            variable = backend.TABLE_VARIABLE(
                initializer=keras.initializers.get("glorot_uniform" if initializer is None else initializer),
                shape=options["shape"],
                dtype=self.variable_dtype if dtype is None else dtype,
                trainable=options.get("trainable", True),
                name=options["name"],
            )
        variable.regularizer = keras.regularizers.get(options.get("regularizer"))
        variable.constraint = keras.constraints.get(options.get("constraint"))
        variable.frozen_rows = self.frozen
        self._track_variable(variable)
        return variable

    def quantize(self, mode: Option = None, type_check: bool = True, config: Option = None) -> None:
        """Keras's `quantize`. It refuses subclasses of Keras's layer, except this one, and subclasses of this one."""
        if type_check and type(self) is not Embedding:
            raise self._not_implemented_error(self.quantize)
        super().quantize(mode, type_check=False, config=config)

    # ------------------------------------------------------------------ the call

    def __call__(self, inputs: Tensor, *args: Option, **kwargs: Option) -> Tensor:
        """Keras's `__call__`. It checks ids before they are converted, because the conversion may shorten them."""
        ids = as_tensor(representable(inputs, self.input_dim, self.out_of_range))
        result = super().__call__(ids, *map(as_tensor, args), **{name: as_tensor(value) for name, value in kwargs.items()})
        self._note_reads()
        return result

    def _note_reads(self) -> None:
        """Note that the tables have been read."""
        note_caller()
        backend.note_read(self._embeddings)
        if self.lora_enabled:
            backend.note_read(self.lora_embeddings_a)

    def call(self, inputs: Tensor, weights: Tensor = None) -> Tensor:
        """The vectors of the ids. See the class."""
        return self._vectors(self._rows, inputs, weights)

    def _int8_call(self, inputs: Tensor, weights: Tensor = None, training: Tensor = None) -> Tensor:
        return self._vectors(super()._int8_call, inputs, weights)

    def _int4_call(self, inputs: Tensor, weights: Tensor = None, training: Tensor = None) -> Tensor:
        return self._vectors(super()._int4_call, inputs, weights)

    def _rows(self, ids: Tensor) -> Tensor:
        """The vectors of ids within the table."""
        low_rank = backend.look_up(self.lora_embeddings_a, ids) if self.lora_enabled else None
        if low_rank is not None:
            more = ops.matmul(low_rank, self.lora_embeddings_b)
            return ops.add(self._base_rows(ids), (self.lora_alpha / self.lora_rank) * more)
        return super().call(ids) if self.lora_enabled else self._base_rows(ids)

    def _base_rows(self, ids: Tensor) -> Tensor:
        found = backend.look_up(self._embeddings, ids)
        return ops.take(self._embeddings, ids, axis=0) if found is None else found

    def _combined_rows(self, bags: Bags, ids: Tensor) -> Tensor | None:
        """The vectors of bags without weights, combined where the rows are; None where they have to be looked up first."""
        look_up = backend.joint_lookup([self._embeddings])
        wanted = None if look_up is None else self._wanted(bags, ids)
        return None if look_up is None or wanted is None else look_up([wanted])

    def _wanted(self, bags: Bags, ids: Tensor) -> Wanted | None:
        """What a call without weights looks up, where that is all: the bags' ids are `ids` once they are checked."""
        if self.lora_enabled or self._combines not in (None, "sum", "mean"):
            return None
        return Wanted(ids, self._combines, None if self._combines is None else self._present(bags))

    def _present(self, bags: Bags) -> Tensor:
        """Which ids of bags take part, or None for all."""
        present = bags.present()
        if not self.mask_zero:
            return present
        other = ops.not_equal(bags.ids, 0)
        return other if present is None else ops.logical_and(present, other)

    def _vectors(self, rows_of: Callable[[Tensor], Tensor], inputs: Tensor, weights: Tensor) -> Tensor:
        """What the layer gives for ids, where `rows_of` gives the vectors of those within the table."""
        weights = None if weights is None else ops.convert_to_tensor(weights)
        self._check_call(inputs, weights)
        combines = self._combines
        if is_ragged(inputs) and (combines is None or len(inputs.flat_values.shape) > 1):
            flat = None if weights is None else weights.flat_values
            return inputs.with_flat_values(self._vectors(rows_of, inputs.flat_values, flat))
        bags = bags_of(inputs if combines is not None else ops.convert_to_tensor(inputs, sparse=False), weights)
        ids, bad = checked(bags.ids, self.input_dim, self.out_of_range, backend.concrete)
        if bad is not None and self.out_of_range == "raise":
            ids, bad = backend.refuse_later(ids, bad, bags.ids, self.name, self.input_dim)
        only_combined = combines is not None and bad is None and weights is None and rows_of == self._rows
        found = self._combined_rows(bags, ids) if only_combined else None
        if found is None:
            found = rows_of(ids)
            if bad is not None and self.out_of_range == "zero":
                found = _where(bad, 0.0, found)
            if combines is not None:
                found = combined(combines, bags, found, self._present(bags))
        found = ops.cast(found, dtype=self.compute_dtype)
        if self._adds_bias:
            found = ops.add(found, ops.cast(self.bias, self.compute_dtype))
        if self._activates is not None:
            found = self._activates(found)
        if bad is not None and self.out_of_range == "raise":  # last, since a maximum need not pass on a NaN
            found = _where(bad if combines is None else bags.any(bad), float("nan"), found)
        return found if combines is None else bags.shaped(found)

    def _check_call(self, inputs: Tensor, weights: Tensor) -> None:
        require_exact(inputs, self)
        if self._combines in (None, "max") and weights is not None:
            raise ValueError(f"`weights` go with combiner 'sum', 'mean' or 'sqrtn'. Received: combiner={self._combines!r}.")
        if self._combines is not None and not len(inputs.shape):
            raise ValueError(f"combiner={self._combines!r} combines along the last axis of the ids. Received: {inputs}.")
        if weights is not None:
            check_weights(inputs, weights, backend.concrete)

    def compute_mask(self, inputs: Tensor, mask: Tensor = None) -> Tensor:
        """Keras's `compute_mask`. A combiner leaves nothing to mask."""
        return None if self._combines is not None else super().compute_mask(inputs, mask)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Keras's `compute_output_shape`. A combiner removes the last axis of the ids."""
        return super().compute_output_shape(input_shape[:-1] if self._combines is not None else input_shape)

    def compute_output_spec(self, inputs: Tensor, weights: Tensor = None) -> Tensor:
        """Keras's `compute_output_spec`."""
        self._check_call(inputs, weights)
        spec = super().compute_output_spec(inputs)
        if self._combines is not None and getattr(inputs, "ragged", False) and len(inputs.shape) <= 2:
            return keras.KerasTensor(spec.shape, dtype=spec.dtype)
        return spec

    # ------------------------------------------------------------------ saving

    def get_config(self) -> dict[str, Option]:
        """Keras's `get_config`, with unhot's arguments only if they are not the default, so Keras can read the rest."""
        config: dict[str, Option] = super().get_config()
        if self._adds_bias:
            config |= {"use_bias": True, "bias_initializer": keras.initializers.serialize(self.bias_initializer)}
        if self._activates is not None:
            config["activation"] = keras.activations.serialize(self._activates)
        if self._combines is not None:
            config["combiner"] = self._combines
        if self.out_of_range != "raise":
            config["out_of_range"] = self.out_of_range
        if len(self.frozen):
            config["frozen"] = self.frozen.tolist()
        return config

    @property
    def variable_serialization_spec(self) -> dict[str | None, list[str]]:
        """Keras's `variable_serialization_spec`, with the bias last."""
        spec = super().variable_serialization_spec
        return {mode: [*names, "bias"] for mode, names in spec.items()} if self._adds_bias else spec


def _where(bad: Tensor, value: float, vectors: Tensor) -> Tensor:
    """The vectors, with `value` in all elements of those that are bad, and no gradient."""
    return ops.where(ops.expand_dims(bad, -1), ops.cast(value, vectors.dtype), vectors)
