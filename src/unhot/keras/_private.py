"""What `unhot.keras` needs of Keras and of its backends and they do not publish, each as a function that says what it needs.

Each has a fallback, for a version that has it no more: the results stay the same, at a cost that the function names.
"""

from __future__ import annotations

from typing import Any


def compiled_by_xla(graph: Any) -> bool:
    """Whether this graph of TensorFlow becomes part of a function with `jit_compile=True`, where asserts are dropped.

    Needs: the marker that `tf.function` sets around its trace, and that TensorFlow's control flow looks at.
    Fallback: False. An id out of range then only makes the result NaN in graphs that XLA compiles, as on JAX.
    """
    try:
        from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
    except ImportError:
        return False
    return bool(GraphOrParentsInXlaContext(graph))


def being_saved() -> bool:
    """Whether the present graph of TensorFlow is made to be written into a SavedModel.

    Needs: the marker that `tf.saved_model.save` sets, under which it traces functions anew.
    Fallback: False. A SavedModel then contains the state of the optimizer, and all that brings rows up to date.
    """
    try:
        from tensorflow.python.saved_model.save_context import in_save_context
    except ImportError:
        return False
    return bool(in_save_context())
