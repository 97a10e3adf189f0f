"""Keras's Embedding with Adam, in the least training loop that each of its backends allows.

The driver sets KERAS_BACKEND to the variant.
"""

from __future__ import annotations

from typing import Any

import measure
import numpy as np
import replay
from cases import Case


class OnTorch:
    def __init__(self, case: Case) -> None:
        import torch

        torch.set_num_threads(case.threads)
        self.torch = torch
        self.layer, self.optimizer = _layer(case)

    def preload(self) -> None:
        pass

    def tensor(self, array: Any) -> Any:
        return self.torch.from_numpy(array)

    def step(self, ids: Any, gradients: Any) -> None:
        # As keras/src/backend/torch/trainer.py does.
        out = self.layer(ids)
        self.layer.zero_grad()
        out.backward(gradients)
        variables = self.layer.trainable_variables
        with self.torch.no_grad():
            self.optimizer.apply([variable.value.grad for variable in variables], variables)

    def weights(self, rows: Any) -> Any:
        return self.layer.embeddings.value.detach().numpy()[rows]


class OnJax:
    """One jitted function whose table and slots are donated, so that they are updated in place."""

    def __init__(self, case: Case) -> None:
        import jax

        self.jax = jax
        layer, optimizer = _layer(case)
        self.trainable = [variable.value for variable in layer.trainable_variables]
        self.state = [variable.value for variable in optimizer.variables]

        def step(trainable: Any, state: Any, ids: Any, gradients: Any) -> Any:
            out, pull = jax.vjp(lambda values: layer.stateless_call(values, [], ids)[0], trainable)
            return out, *optimizer.stateless_apply(state, pull(gradients)[0], trainable)

        self._step = jax.jit(step, donate_argnums=(0, 1))

    def preload(self) -> None:
        pass

    def tensor(self, array: Any) -> Any:
        return self.jax.numpy.asarray(array)

    def step(self, ids: Any, gradients: Any) -> None:
        out, self.trainable, self.state = self._step(self.trainable, self.state, ids, gradients)
        self.jax.block_until_ready((out, self.trainable, self.state))

    def weights(self, rows: Any) -> Any:
        return np.asarray(self.trainable[0])[rows]


class OnTensorFlow:
    def __init__(self, case: Case) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(case.threads)
        tf.config.threading.set_inter_op_parallelism_threads(case.threads)
        self.tf = tf
        layer, optimizer = self.layer, _ = _layer(case)
        variables = layer.trainable_variables

        # Compiled by XLA, as keras/src/trainers/trainer.py chooses by default.
        @tf.function(jit_compile=True)
        def step(ids: Any, gradients: Any) -> Any:
            with tf.GradientTape() as tape:
                out = layer(ids)
            optimizer.apply(tape.gradient(out, variables, output_gradients=gradients), variables)
            return out

        self._step = step

    def preload(self) -> None:
        pass

    def tensor(self, array: Any) -> Any:
        return self.tf.constant(array)

    def step(self, ids: Any, gradients: Any) -> None:
        self._step(ids, gradients)

    def weights(self, rows: Any) -> Any:
        return self.tf.gather(self.layer.embeddings.value, rows).numpy()


def _layer(case: Case) -> tuple[Any, Any]:
    import keras

    keras.utils.set_random_seed(0)
    layer = keras.layers.Embedding(case.rows, case.dim)
    layer.build()
    optimizer = keras.optimizers.Adam(replay.ADAM_RATE, epsilon=replay.EPSILON["adam_keras"])
    optimizer.build(layer.trainable_variables)
    return layer, optimizer


def make(case: Case) -> Any:
    return {"torch": OnTorch, "jax": OnJax, "tensorflow": OnTensorFlow}[case.variant](case)


def versions() -> dict[str, str]:
    from importlib.metadata import version

    import keras

    backend = keras.backend.backend()
    package = {"tensorflow": "tensorflow-cpu"}.get(backend, backend)
    return {"keras": keras.__version__, backend: version(package)}


if __name__ == "__main__":
    measure.main(make, versions)
