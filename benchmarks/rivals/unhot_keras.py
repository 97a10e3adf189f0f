"""`unhot.keras` in an unmodified `model.fit`; Keras's own Embedding and Adam in the same; and a fit that trains one weight.

The driver sets KERAS_BACKEND to the variant.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import measure
import numpy as np
import numpy.typing as npt
import replay
from cases import KINDS, Case
from workloads import Workload

from rivals import keras_

STEPS, LEAST_STEPS = 100, 4
"""Of one timed fit, at most and at least."""

SECONDS = 0.25
"""What a fit is to take, if so many steps do."""

FITS = 12
BESIDE_STEPS, BESIDE_SECONDS = 15, 100.0
"""Of a fit that takes turns with another, and of all of them."""

Vector = npt.NDArray[np.float32]


class Fitted:
    """ids -> vectors, with a loss whose gradient in a vector is the id's target times `direction`."""

    def __init__(self, case: Case, direction: Vector) -> None:
        import keras

        _hold_to(case.threads)
        keras.utils.set_random_seed(0)
        self.case, self.keras = case, keras
        self.layer, optimizer = _layer_and_optimizer(case)
        ids = keras.Input((), dtype="int32")
        self.model = keras.Model(ids, self.layer(ids))
        self.model.compile(optimizer=optimizer, loss=_loss(direction))
        self.clock = _clock()

    def preload(self) -> None:
        """Called after the first fit: bring every page of the state into memory, as a long training would have."""
        if self.case.rival == "unhot_keras" and self.case.variant == "torch":
            for slots in (self.model.optimizer._momentums, self.model.optimizer._velocities):
                slots[0]._value.detach().add_(0)

    def fit(self, ids: Any, targets: Any) -> float:
        """One epoch; the seconds of a step, from the end of the first, which waits for the data, to that of the last."""
        given: dict[str, Any] = {"x": ids, "y": targets, "batch_size": self.case.ids}
        if self.case.variant == "torch" and self.case.task != "arrays":
            given = {"x": _batches(ids, targets, self.case.ids)}
        self.clock.last = len(ids) // self.case.ids - 1
        self.model.fit(**given, shuffle=False, verbose=0, callbacks=[self.clock])
        return (self.clock.ended - self.clock.begun) / max(1, self.clock.last)

    def steps(self) -> int:
        return int(self.keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    @property
    def exact(self) -> bool:
        """Whether unhot trains the table.  Small ones it leaves to Keras's dense step, whose rounding is then Keras's."""
        if self.case.rival not in measure.EXACT:
            return False
        return self.model.optimizer.table(self.layer._embeddings) is not None

    def weights(self, rows: Any) -> Any:
        return np.array(self.keras.ops.convert_to_numpy(self.layer(rows.astype(np.int32))))


def _hold_to(threads: int) -> None:
    import keras

    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(threads)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def _layer_and_optimizer(case: Case) -> tuple[Any, Any]:
    import keras

    settings: dict[str, Any] = {"learning_rate": replay.ADAM_RATE, "epsilon": replay.EPSILON["adam_keras"]}
    if case.rival == "keras_empty":
        return _one_weight(case.dim), keras.optimizers.Adam(**settings)
    if case.rival == "keras_fit":
        return keras.layers.Embedding(case.rows, case.dim), keras.optimizers.Adam(**settings)
    import unhot
    import unhot.keras

    unhot.set_num_threads(case.threads)
    return unhot.keras.Embedding(case.rows, case.dim), unhot.keras.Adam(**settings)


def _one_weight(dim: int) -> Any:
    """A layer that makes vectors of ids with one weight."""
    import keras

    class OneWeight(keras.layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.weight = self.add_weight(shape=(1,), initializer="ones")

        def call(self, ids: Any) -> Any:
            numbers = keras.ops.cast(ids, "float32")[:, None]
            return keras.ops.repeat(numbers, dim, axis=1) * self.weight

    return OneWeight()


def _loss(direction: Vector) -> Any:
    import keras

    towards = keras.ops.convert_to_tensor(direction)

    class Given(keras.losses.Loss):  # type: ignore[misc]
        def call(self, targets: Any, vectors: Any) -> Any:
            return targets * keras.ops.matmul(vectors, towards)

    return Given(reduction="sum")


def _batches(ids: Any, targets: Any, size: int) -> Any:
    """Arrays cut into batches, by torch's loader: out of arrays, Keras's torch backend picks a batch element by element."""
    import torch

    cut = torch.utils.data.TensorDataset(*(torch.from_numpy(array).view(-1, size) for array in (ids, targets)))
    return torch.utils.data.DataLoader(cut, batch_size=None)


def _clock() -> Any:
    import keras

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        """From the end of the first step to that of the last."""

        begun = ended = 0.0
        last = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch in (0, self.last):
                float(logs["loss"])  # JAX returns before it has computed
                self.ended = time.perf_counter()
                if batch == 0:
                    self.begun = self.ended

    return Clock()


class Training:
    """A model, fitted to what a workload draws; with the log by which its result is checked."""

    def __init__(self, case: Case, workload: Workload, batches: list[Any], make: Any) -> None:
        self.case, self.workload = case, workload
        self.sample = workload.sample(batches[:LEAST_STEPS])
        self.log = replay.Log(case.rows, self.sample, case.dim)
        several = workload.gradients()
        direction = several[0][0] * np.float32(100)
        self.targets = [np.ascontiguousarray(gradients[:, 1]) for gradients in several]
        self.gradients = [np.outer(target, direction) for target in self.targets]
        self.rival = make(case, direction)
        self.empty = case.rival == "keras_empty"
        self.start = None if self.empty else self.rival.weights(self.sample)

    def fit(self, steps: list[Any]) -> float:
        """One fit of these steps; the seconds of each."""
        turns = [(self.log.steps + i) % len(self.targets) for i in range(len(steps))]
        given = np.concatenate(steps).astype(np.int32), np.concatenate([self.targets[turn] for turn in turns])
        taken: float = self.rival.fit(*given)
        for ids, turn in zip(steps, turns, strict=True):
            self.log.add(ids, self.gradients[turn])
        return taken

    def warm(self) -> int:
        """Bring the table to its steady state; how many steps a timed fit is to have."""
        self._warm(measure.WARM_DENSE)
        self.rival.preload()
        while self.log.steps < measure.warm_steps(self.case):
            self._warm(min(STEPS, measure.warm_steps(self.case) - self.log.steps))
        return int(np.clip(SECONDS / self._warm(LEAST_STEPS), LEAST_STEPS, STEPS))

    def _warm(self, steps: int) -> float:
        return self.fit([self.workload.warm() for _ in range(steps)])

    def check(self) -> dict[str, Any]:
        """What was compared with a replay in NumPy; AssertionError if the weights are not what they should be."""
        if self.rival.steps() != self.log.steps:
            raise AssertionError(f"the optimizer counts {self.rival.steps()} steps, not {self.log.steps}.")
        if self.empty:
            return {}
        kind = KINDS[self.case.rival, self.case.variant]
        got, exact = self.rival.weights(self.sample), self.rival.exact
        return {"check": replay.check(self.log, kind.rule, self.start, got, exact=exact, dense=kind.dense or not exact)}


def fit_times(case: Case, round_: int, seconds: float, make: Any) -> dict[str, Any]:
    """Time fits and divide by their steps; check the result."""
    workload = Workload(case, round_)
    batches = [workload.timed() for _ in range(STEPS * FITS)]
    training = Training(case, workload, batches, make)
    length = training.warm()
    warmed, times = training.log.steps, []
    _, busy = measure.timed(lambda i: times.append(training.fit(batches[i * length : (i + 1) * length])), FITS, seconds)
    result = {**measure.summary(times), "others_busy": busy, "warm_steps": warmed, "steps_of_a_fit": length}
    return {**result, **training.check()}


def beside(case: Case, round_: int, seconds: float, make: Any) -> dict[str, Any]:
    """Ours and the stock layer in one process, by turns, for a difference that is smaller than the machine's own.

    The ratio is the median over pairs of fits, one right after the other, on the same ids. Any fit comes out some 30 % off,
    however long it is, so they are short and many; `error` is the standard error of the median.
    """
    workload = Workload(case, round_)
    batches = [workload.timed() for _ in range(BESIDE_STEPS)]
    rivals = ("unhot_keras", "keras_fit")
    made = {r: Training(replace(case, rival=r), workload, batches, make) for r in rivals[:: -1 if round_ % 2 else 1]}
    trainings = [made[rival] for rival in rivals]
    for training in trainings:
        training.warm()
    times: list[list[float]] = [[], []]
    end = time.monotonic() + BESIDE_SECONDS
    while time.monotonic() < end:
        for i in (0, 1) if len(times[0]) % 2 else (1, 0):
            times[i].append(trainings[i].fit(batches))
    for training in trainings:
        training.check()
    ratio, error = measure.median_and_error(np.divide(times[1], times[0]))
    return {
        **measure.summary(times[0]),
        "stock_seconds": float(np.median(times[1])),
        "ratio": ratio,
        "error": error,
        "others_busy": 0.0,
    }


def versions() -> dict[str, str]:
    import unhot

    return {**keras_.versions(), "unhot": unhot.__version__, "kernels": unhot.kernels.name}


if __name__ == "__main__":
    measure.main(Fitted, versions, {"fit": fit_times, "arrays": fit_times, "beside": beside})
