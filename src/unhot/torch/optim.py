"""The optimizers of `torch.optim`, each with the rule that it applies to the rows of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

import unhot
from unhot.torch.stepping import RowOptimizer


class SGD(RowOptimizer, torch.optim.SGD):
    """`torch.optim.SGD`, exact for row-sparse gradients, including momentum, Nesterov, dampening and weight decay.

    Args: those of `torch.optim.SGD`.

    Raises: what `torch.optim.SGD` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/sgd.py.
    """

    rule = unhot.SGD
    slots = {"momentum": "momentum_buffer"}
    counters = ()

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "learning_rate": float(group["lr"]), "momentum": group["momentum"], "nesterov": bool(group["nesterov"]),
            "dampening": group["dampening"], "weight_decay": float(group["weight_decay"]), "convention": "torch",
        }  # fmt: skip


class Adagrad(RowOptimizer, torch.optim.Adagrad):
    """`torch.optim.Adagrad`, exact for row-sparse gradients. With a `weight_decay`, tables are trained densely.

    Args: those of `torch.optim.Adagrad`.

    Raises: what `torch.optim.Adagrad` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adagrad(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/adagrad.py.
    """

    rule = unhot.Adagrad
    slots = {"sum": "sum"}

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "learning_rate": float(group["lr"]), "lr_decay": group["lr_decay"], "epsilon": group["eps"],
            "weight_decay": float(group["weight_decay"]), "convention": "torch",
        }  # fmt: skip


class RMSprop(RowOptimizer, torch.optim.RMSprop):
    """`torch.optim.RMSprop`, exact for row-sparse gradients, including `centered` and momentum.

    Args: those of `torch.optim.RMSprop`.

    Raises: what `torch.optim.RMSprop` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.RMSprop(layer.parameters(), lr=0.1, centered=True)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/rmsprop.py.
    """

    rule = unhot.RMSprop
    slots = {"velocity": "square_avg", "momentum": "momentum_buffer", "average_gradient": "grad_avg"}

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "learning_rate": float(group["lr"]), "rho": group["alpha"], "epsilon": group["eps"],
            "momentum": group["momentum"], "centered": bool(group["centered"]), "weight_decay": float(group["weight_decay"]),
            "convention": "torch",
        }  # fmt: skip


class Adadelta(RowOptimizer, torch.optim.Adadelta):
    """`torch.optim.Adadelta`, exact for row-sparse gradients. With a `weight_decay`, tables are trained densely.

    Args: those of `torch.optim.Adadelta`.

    Raises: what `torch.optim.Adadelta` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adadelta(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/adadelta.py.
    """

    rule = unhot.Adadelta
    slots = {"velocity": "square_avg", "delta": "acc_delta"}

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "learning_rate": float(group["lr"]), "rho": group["rho"], "epsilon": group["eps"],
            "weight_decay": float(group["weight_decay"]), "convention": "torch",
        }  # fmt: skip


def _moments(group: Mapping[str, Any]) -> dict[str, Any]:
    beta_1, beta_2 = group["betas"]
    return {
        "learning_rate": float(group["lr"]), "beta_1": float(beta_1), "beta_2": float(beta_2), "epsilon": group["eps"],
        "weight_decay": float(group["weight_decay"]), "convention": "torch",
    }  # fmt: skip


class Adam(RowOptimizer, torch.optim.Adam):
    """`torch.optim.Adam`, exact for row-sparse gradients, including AMSGrad.

    Args: those of `torch.optim.Adam`.

    Raises: what `torch.optim.Adam` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adam(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/adam.py.
    """

    rule = unhot.Adam
    slots = {"momentum": "exp_avg", "velocity": "exp_avg_sq", "largest_velocity": "max_exp_avg_sq"}

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        decoupled = bool(group.get("decoupled_weight_decay", False))
        return {**_moments(group), "amsgrad": bool(group["amsgrad"]), "decoupled_weight_decay": decoupled}


class AdamW(RowOptimizer, torch.optim.AdamW):
    """`torch.optim.AdamW`, exact for row-sparse gradients, including AMSGrad.

    Args: those of `torch.optim.AdamW`.

    Raises: what `torch.optim.AdamW` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.AdamW(layer.parameters(), lr=0.1, weight_decay=0.01)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/adamw.py.
    """

    rule = unhot.AdamW
    slots = Adam.slots

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {**_moments(group), "amsgrad": bool(group["amsgrad"])}


class Adamax(RowOptimizer, torch.optim.Adamax):
    """`torch.optim.Adamax`, exact for row-sparse gradients. With a `weight_decay`, tables are trained densely.

    Args: those of `torch.optim.Adamax`.

    Raises: what `torch.optim.Adamax` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adamax(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/adamax.py.
    """

    rule = unhot.Adamax
    slots = {"momentum": "exp_avg", "norm": "exp_inf"}

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return _moments(group)


class NAdam(RowOptimizer, torch.optim.NAdam):
    """`torch.optim.NAdam`, exact for row-sparse gradients. With a `weight_decay`, tables are trained densely.

    Args: those of `torch.optim.NAdam`.

    Raises: what `torch.optim.NAdam` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.NAdam(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/nadam.py.
    """

    rule = unhot.NAdam
    slots = {"momentum": "exp_avg", "velocity": "exp_avg_sq"}
    counters = ("step", "mu_product")

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        decoupled = bool(group["decoupled_weight_decay"])
        return {**_moments(group), "momentum_decay": group["momentum_decay"], "decoupled_weight_decay": decoupled}
