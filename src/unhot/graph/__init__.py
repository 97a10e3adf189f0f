"""The engine inside a graph: for JAX and TensorFlow, whose compilers own the arrays."""
