"""Settings of the conformance suite.  A framework that is missing is an error, never a skipped test."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import torch

# The tests run two at a time, on small arrays: more threads would only wait for each other.
torch.set_num_threads(1)
