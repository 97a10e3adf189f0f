"""A table as the Dense layer that it equals: with a bias, an activation, and several ids per sample, trained together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from unhot import arrays
from unhot.activations import Elementwise, as_activation
from unhot.arraylike import IdsLike, RealsLike
from unhot.bags import as_bags, as_sparse
from unhot.engine import Batch, Engine
from unhot.gradients import as_gradients
from unhot.ids import as_ids, as_plain, in_range
from unhot.kernels import active as kernels
from unhot.kernels.structs import MODES, Bags, Segment
from unhot.outputs import new_output
from unhot.table import Table

Array = npt.NDArray[Any]

PLACE = 1
"""The bias's place among the stores of the table's engine: a row for each element, so that no slot is shared by them."""


class Samples(NamedTuple):
    """The checked ids of some samples."""

    ids: Array
    """Flat, each within the table."""
    zero: Array | None
    """Which of them stand for a zero vector, or None."""
    starts: Array | None = None
    """Where each bag starts among the ids, with their number at the end; None if each id is a sample."""
    factors: Array | None = None
    """What each id's vector is multiplied by, float64; None for 1."""
    mode: Literal["sum", "mean", "max"] = "sum"

    @property
    def number(self) -> int:
        return len(self.ids) if self.starts is None else len(self.starts) - 1


class DenseView:
    """A table as the Dense layer that it equals: activation(one_hot(ids) @ weights + bias).

    The view holds nothing of its own. It reads and trains the table, and the bias belongs to the table: views of one table
    share it, one step of the optimizer moves both, and the table's `state_dict` holds both. A step that does not go through a
    view with the bias is one in which the bias has a gradient of 0.

    The bias is trained as frameworks train a dense parameter: each of its elements has slots of its own, also with
    `RowwiseAdagrad`, and a weight decay of the optimizer applies to it, too.

    Args:
        table: the table. Its `out_of_range` says what happens to ids outside of it; an id that gives a zero vector gives
            activation(bias), as a one-hot row of zeros does.
        bias: True for a bias of zeros, or the one that the table has already; an array of shape (dim,) for a first one with
            these values; False for none.
        activation: None, a name as in Keras ("linear", "relu", "relu6", "leaky_relu" (slope 0.2), "elu", "selu", "gelu",
            "silu" or "swish", "mish", "sigmoid", "hard_sigmoid", "log_sigmoid", "softplus", "softsign", "tanh", "exponential"),
            or a pair of callables that map an array to one of its shape, elementwise: the function and its derivative.

    Raises: TypeError or ValueError for unusable arguments, and for the values of a bias if the table has one already.

    Example:
        >>> import unhot
        >>> table = unhot.Table.from_array([[1.0, -1.0], [2.0, 3.0]], optimizer=unhot.SGD(1.0))
        >>> layer = unhot.DenseView(table, bias=[0.0, 0.5], activation="relu")
        >>> layer.lookup([0, 1])
        array([[1. , 0. ],
               [2. , 3.5]])
        >>> layer.step([0, 1], [[0.5, 9.0], [0.5, 0.25]])  # relu stops the 9
        >>> table.array, layer.bias
        (array([[ 0.5 , -1.  ],
               [ 1.5 ,  2.75]]), array([-1.  ,  0.25]))

    References: keras/src/layers/core/dense.py; docs/mathematics.md for what "exactly" means.
    """

    def __init__(
        self,
        table: Table,
        *,
        bias: bool | RealsLike = True,
        activation: str | tuple[Elementwise, Elementwise] | None = None,
    ) -> None:
        if not isinstance(table, Table):
            raise TypeError(f"`table` must be an unhot.Table. Received: {type(table).__name__}.")
        self._table = table
        self._activation = as_activation(activation)
        self._biased = bias is not False
        if self._biased:
            start = arrays.zeros((table.dim, 1), table.dtype) if bias is True else self._as_bias(bias)
            table._lock.holding(partial(self._add_bias, start, bias is not True))

    def _as_bias(self, bias: RealsLike | bool) -> Array:
        given = as_plain(bias, "bias")
        if given.shape != (self._table.dim,) or given.dtype.kind not in "fiu":
            raise ValueError(
                f"`bias` must be True, False or real numbers of shape ({self._table.dim},). Received: shape {given.shape},"
                f" dtype {given.dtype}."
            )
        return arrays.copied(given.reshape(-1, 1), self._table.dtype)

    def _add_bias(self, start: Array, given: bool) -> None:
        while len(self._table._engine.stores) == PLACE:  # a signal's handler may load a state into the table meanwhile
            self._table._engine.join(start, PLACE)
        if given and self._table._engine.stores[PLACE].weights is not start:
            raise ValueError("the table has a bias already: use bias=True for a view that shares it.")

    @property
    def table(self) -> Table:
        """The table."""
        return self._table

    @property
    def bias(self) -> Array | None:
        """A copy of the bias, settled, of shape (dim,); None without one."""
        if not self._biased:
            return None
        nothing = Samples(np.empty(0, np.int64), None)
        return self._table._read(lambda engine: self._found(engine, nothing)[1])

    @property
    def activation(self) -> str | None:
        """The name of the activation, or None."""
        return None if self._activation is None else self._activation.name

    # ------------------------------------------------------------------ lookups

    def lookup(self, ids: IdsLike) -> Array:
        """activation(one_hot(ids) @ weights + bias): shape ids.shape + (dim,).

        Args:
            ids: as for `Table.lookup`.

        Raises: as for `Table.lookup`.

        Example:
            >>> import unhot
            >>> table = unhot.Table.from_array([[0.0], [1.0]])
            >>> unhot.DenseView(table, bias=[2.0], activation="softsign").lookup([0, 1])
            array([[0.66666667],
                   [0.75      ]])
        """
        array = as_ids(ids)
        return self._output(self._samples(array)).reshape(*array.shape, self._table.dim)

    __getitem__ = lookup

    def bag(
        self,
        ids: IdsLike,
        offsets: IdsLike | None = None,
        weights: RealsLike | None = None,
        mode: Literal["sum", "mean", "max"] = "sum",
    ) -> Array:
        """activation(pooled + bias), where pooled is what `Table.bag` gives: shape (bags, dim).

        With "sum", that is the Dense layer on multi-hot rows. An empty bag gives activation(bias).

        Args:
            ids, offsets, weights, mode: as for `Table.bag`. A zero vector of an id out of range counts in a mean or maximum.

        Raises: as for `Table.bag`.

        Example:
            >>> import unhot
            >>> table = unhot.Table.from_array([[1.0, 2.0], [3.0, 4.0]])
            >>> unhot.DenseView(table, bias=[-5.0, 0.0], activation="relu").bag([[0, 1], [1, 1]])
            array([[0., 6.],
                   [1., 8.]])
        """
        return self._output(self._bags(as_ids(ids), offsets, weights, mode))

    def matmul(self, x: Any) -> Array:
        """activation(x @ weights + bias), for one-hot, multi-hot or soft rows: shape (n, dim).

        Args:
            x: as for `Table.matmul`.

        Raises: as for `Table.matmul`.

        Example:
            >>> import unhot
            >>> table = unhot.Table.from_array([[1.0, 2.0], [3.0, 4.0]])
            >>> unhot.DenseView(table, bias=[10.0, 20.0]).matmul([[0.5, 0.5]])
            array([[12., 23.]])
        """
        starts, columns, values = as_sparse(x, self._table.rows, self._table.dtype)
        return self._output(Samples(columns, None, starts, values))

    def _samples(self, ids: Array) -> Samples:
        return Samples(*in_range(ids, self._table.rows, self._table.out_of_range))

    def _bags(self, ids: Array, offsets: IdsLike | None, weights: RealsLike | None, mode: Any) -> Samples:
        starts, factors = as_bags(ids, offsets, weights, mode, self._table.dtype)
        return self._samples(ids)._replace(starts=starts, factors=factors, mode=mode)

    @np.errstate(all="ignore")
    def _output(self, samples: Samples) -> Array:
        """The view's vectors, (samples, dim)."""
        z, bias = self._table._read(lambda engine: self._found(engine, samples))
        if bias is not None:
            z += bias
        if self._activation is None:
            return z
        found: Array = self._activation.function(z)
        return found

    def _found(self, engine: Engine, samples: Samples) -> tuple[Array, Array | None]:
        """What the samples are pooled to, (samples, dim), and the bias, (dim,), both at one moment."""
        table, (ids, zero, starts, factors, mode) = self._table, samples
        z = new_output((samples.number, table.dim), table.dtype)
        values = z if starts is None else np.empty((len(ids), table.dim), table.dtype)
        bias = np.empty((table.dim if self._biased else 0, 1), table.dtype)
        if starts is None or zero is not None:
            parts = [Segment(0, values), *([Segment(PLACE, bias)] if self._biased else [])]
            engine.read(self._with_bias(engine, ids), parts)
            if zero is not None:
                values[zero] = 0
            if starts is not None:
                kernels.pool(values, np.arange(len(ids)), starts, factors, mode, z)
        else:
            bags = [Bags(0, z, starts, self._for_all(factors), MODES[mode])]
            if self._biased:
                bags.append(Bags(PLACE, bias, np.arange(len(ids), len(ids) + table.dim + 1), None, MODES["sum"]))
            engine.pool(self._with_bias(engine, ids), bags)
        return z, bias.reshape(-1) if self._biased else None

    def _with_bias(self, engine: Engine, ids: Array) -> Array:
        """The row numbers of the ids, and those of the bias after them."""
        if not self._biased:
            return ids
        store = engine.stores[PLACE]
        return np.concatenate([ids, np.arange(store.first, store.stop)])

    def _for_all(self, factors: Array | None) -> Array | None:
        """The factors of the ids, and of the bias after them."""
        return factors if factors is None or not self._biased else np.concatenate([factors, np.ones(self._table.dim)])

    # ------------------------------------------------------------------ training

    def accumulate(
        self,
        ids: IdsLike,
        grads: RealsLike,
        offsets: IdsLike | None = None,
        weights: RealsLike | None = None,
        mode: Literal["sum", "mean"] | None = None,
    ) -> None:
        """Add gradients to those of the next `step` of the view or its table, for several lookups in one step.

        Args: as for `step`.

        Raises: as for `step`.

        Example:
            >>> import unhot
            >>> layer = unhot.DenseView(unhot.Table(4, 1, optimizer=unhot.SGD(1.0), init="zeros"))
            >>> layer.accumulate([0], [[1.0]])
            >>> layer.accumulate([[0, 3]], [[1.0]], mode="sum")
            >>> layer.step()
            >>> layer.table[[0, 3]].ravel(), layer.bias
            (array([-2., -1.], dtype=float32), array([-2.], dtype=float32))
        """
        self._table._trained()
        made = self._backward(ids, grads, offsets, weights, mode)
        self._table._lock.holding(lambda: self._table._pending.append(_own(made(self._table._engine))))

    def step(
        self,
        ids: IdsLike | None = None,
        grads: RealsLike | None = None,
        offsets: IdsLike | None = None,
        weights: RealsLike | None = None,
        mode: Literal["sum", "mean"] | None = None,
    ) -> None:
        """Make one optimizer step of the table and the bias, with gradients of the view's vectors.

        The gradients go back through the activation, as it is at the table's present weights. The bias gets their sum, and each
        row the sum of those that it took part in. The step also uses the gradients given to `accumulate`.

        Args:
            ids: as for `lookup`; with a `mode`, as for `bag`.
            grads: floats of the shape of what `lookup` or `bag` returns for these arguments.
            offsets, weights: as for `bag`; they need a `mode`.
            mode: None for the gradients of `lookup`; "sum" or "mean" for those of `bag`.

        Raises: as for `bag` and `Table.step`. An error leaves the table and the bias unchanged.

        Example:
            >>> import unhot
            >>> layer = unhot.DenseView(unhot.Table(4, 1, optimizer=unhot.SGD(1.0), init="zeros"))
            >>> layer.step([[1, 3], [3, 3]], [[1.0], [2.0]], weights=[[1.0, 2.0], [1.0, 0.0]], mode="sum")
            >>> layer.table.array.ravel(), layer.bias
            (array([ 0., -1.,  0., -4.], dtype=float32), array([-3.], dtype=float32))
        """
        table = self._table
        optimizer = table._trained()
        if (ids is None) != (grads is None):
            raise TypeError("`step` takes both ids and grads, or neither (then it uses what `accumulate` was given).")
        made = None if ids is None or grads is None else self._backward(ids, grads, offsets, weights, mode)
        batch = lambda: table._batch([] if made is None else [made(table._engine)])  # noqa: E731
        table._lock.holding(partial(table._make_step, optimizer, batch))

    def _backward(
        self, ids: IdsLike, grads: RealsLike, offsets: IdsLike | None, weights: RealsLike | None, mode: Any
    ) -> Callable[[Engine], Batch]:
        """What makes the gradients of rows and bias of those of the view's vectors, checked, at an engine's weights."""
        table, array = self._table, as_ids(ids)
        if mode is None:
            if offsets is not None or weights is not None:
                raise ValueError("`offsets` and `weights` are those of bags: give mode='sum' or 'mean', too.")
            wanted: tuple[int, ...] = (*array.shape, table.dim)
            gradients = as_gradients(grads, wanted, table.dtype, "ids.shape + (dim,) = ").reshape(-1, table.dim)
            return partial(self._batch, self._samples(array), gradients)
        if mode == "max":
            raise ValueError("a step takes the gradients of bags with mode 'sum' or 'mean'. Received: mode='max'.")
        samples = self._bags(array, offsets, weights, mode)
        gradients = as_gradients(grads, (samples.number, table.dim), table.dtype, "(bags, dim) = ").reshape(-1, table.dim)
        return partial(self._batch, samples, gradients)

    @np.errstate(all="ignore")
    def _batch(self, samples: Samples, gradients: Array, engine: Engine) -> Batch:
        """Rows and bias with their gradients, where those of the view's vectors are `gradients`, (samples, dim)."""
        if self._activation is not None:
            z, bias = self._found(engine, samples)
            if bias is not None:
                z += bias
            gradients = np.ascontiguousarray(gradients * self._activation.derivative(z), self._table.dtype)
        ids, zero, *_ = samples
        kept = slice(None) if zero is None else ~zero
        if samples.starts is None:
            parts = [Segment(0, gradients if zero is None else gradients[kept])]
        else:
            bags, factors = _shares(samples)
            parts = [Segment(0, gradients, bags[kept], None if factors is None else factors[kept])]
        if self._biased:
            total = gradients.sum(axis=0, dtype=np.float64).astype(self._table.dtype)
            parts.append(Segment(PLACE, total.reshape(-1, 1)))
        return Batch(self._with_bias(engine, ids[kept]), parts)

    # ------------------------------------------------------------------ what it holds

    def state_dict(self) -> dict[str, Any]:
        """The table's `state_dict`, which holds the bias and its slots, too ("bias.weights", "bias.slot.momentum").

        Raises: as for `Table.state_dict`.

        Example:
            >>> import unhot
            >>> layer = unhot.DenseView(unhot.Table(2, 3, optimizer=unhot.Adagrad(0.1)))
            >>> [name for name in layer.state_dict() if name.startswith("bias")]
            ['bias.weights', 'bias.slot.sum']
        """
        return self._table.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned into the table and the bias. Training resumes from there, bit for bit.

        Args:
            state: as for `Table.load_state_dict`, of a table with a bias if this one has one.

        Raises: as for `Table.load_state_dict`. The table and the bias are then unchanged.

        Example:
            >>> import unhot
            >>> layer, other = (unhot.DenseView(unhot.Table(2, 3, optimizer=unhot.SGD(0.1))) for _ in range(2))
            >>> other.load_state_dict(layer.state_dict())
        """
        self._table.load_state_dict(state)

    def __repr__(self) -> str:
        return f"DenseView({self._table!r}, bias={self._biased}, activation={self.activation!r})"


def _own(batch: Batch) -> Batch:
    """The batch without what belongs to the caller, who may change it before the step; the ids are copies already."""
    copies = [
        part._replace(vectors=part.vectors.copy(), factors=None if part.factors is None else part.factors.copy())
        for part in batch.gradients
    ]
    return batch._replace(gradients=copies)


def _shares(samples: Samples) -> tuple[Array, Array | None]:
    """The bag of each id, and what the id gets of its bag's gradient, float64; None for all of it."""
    assert samples.starts is not None
    counts = np.diff(samples.starts)
    bags = np.repeat(np.arange(len(counts)), counts)
    if samples.mode == "sum":
        return bags, samples.factors
    if samples.factors is None:
        return bags, 1 / counts[bags]
    return bags, samples.factors / np.bincount(bags, samples.factors, len(counts))[bags]
