"""The registry: one line for each rule and set of options that conforms.

A line makes unhot's optimizer, the dense reference and the framework's own optimizer from the same hyperparameters, by
Keras's names; every test of the suite takes its cases from here.  Hyperparameters that a line leaves out are the
framework's defaults, on all sides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from subsets import covering

import unhot

from .dense import RULES as DENSE
from .dense import Array, Dense

BETAS = ((0.9, 0.999), (0.9, 0.95), (0.95, 0.95), (0.95, 0.9), (0.99, 0.999), (0.0, 0.999))
"""beta_1 and beta_2: the usual ones, and those for which the step measure is wide, critical, divergent, long or one point."""

MOMENTS = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")
"""The rules that divide a momentum by a root, tested with all of `BETAS`."""


@dataclass(frozen=True)
class Rule:
    """A rule with its options: `rate` is the largest learning rate of the tests' schedules."""

    name: str
    convention: str
    rate: float
    hyper: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        options = (f"{key}={value:g}" if not isinstance(value, bool) else key for key, value in self.hyper.items())
        return "-".join([self.name, self.convention, *options])

    @property
    def stock(self) -> str:
        """The framework's own class, or "" if it has none."""
        names: Any = getattr(getattr(unhot, self.name), self.convention.upper())
        stock: str = names.stock
        return stock

    def optimizer(self, **hyper: Any) -> unhot.optimizers.Optimizer:
        """unhot's optimizer."""
        cls = getattr(unhot, self.name)
        hyper = {"learning_rate": self.rate, **self.hyper, **hyper}
        if "convention" in cls.__dataclass_fields__:
            hyper["convention"] = self.convention
        if self.convention == "torch" and hyper.get("weight_decay") and "decoupled_weight_decay" in cls.__dataclass_fields__:
            hyper["decoupled_weight_decay"] = True
        return cls(**hyper)

    def dense(self, weights: Array, **hyper: Any) -> Dense:
        """The dense reference, in the weights' dtype."""
        return DENSE[self.name, self.convention](weights, **{"learning_rate": self.rate, **self.hyper, **hyper})

    @property
    def defaults(self) -> dict[str, Any]:
        """Every hyperparameter, by the dense reference's defaults."""
        return {**DENSE[self.name, self.convention].defaults, "learning_rate": self.rate, **self.hyper}

    @property
    def momentum(self) -> str | None:
        """The name of the hyperparameter that momentum schedulers change, if it is in use."""
        name = "beta_1" if "beta_1" in self.defaults else "momentum"
        return name if self.defaults.get(name) else None

    @property
    def axes(self) -> tuple[str, str]:
        """The line and the betas, which the fast set combines with whatever a test has besides (see selection.py)."""
        if self.name not in MOMENTS:
            return self.id, "none"
        line = {name: value for name, value in self.hyper.items() if name not in ("beta_1", "beta_2")}
        betas = self.defaults["beta_1"], self.defaults["beta_2"]
        return Rule(self.name, self.convention, self.rate, line).id, str(betas)

    def takes(self, beta_1: float, beta_2: float) -> bool:
        """Whether unhot accepts these betas: PyTorch's Adamax and RAdam have stated domains."""
        if self.name == "RAdam":
            return beta_2 > 2 / 3
        return (self.name, self.convention) != ("Adamax", "torch") or beta_1 <= 0.99 * beta_2

    def with_betas(self) -> list[Rule]:
        """This rule, or one with each of `BETAS` that it takes."""
        if self.name not in MOMENTS:
            return [self]
        pairs = [pair for pair in BETAS if self.takes(*pair)]
        return [Rule(self.name, self.convention, self.rate, {**self.hyper, "beta_1": b1, "beta_2": b2}) for b1, b2 in pairs]


def rule(name: str, convention: str, rate: float, **hyper: Any) -> Rule:
    return Rule(name, convention, rate, hyper)


RULES = [
    rule("SGD", "keras", 0.1),
    rule("SGD", "keras", 0.1, weight_decay=0.03),
    rule("SGD", "keras", 0.1, momentum=0.9),
    rule("SGD", "keras", 0.1, momentum=0.9, weight_decay=0.03),
    rule("SGD", "keras", 0.1, momentum=0.9, nesterov=True, weight_decay=0.03),
    rule("SGD", "torch", 0.1, weight_decay=0.03),
    rule("SGD", "torch", 0.1, momentum=0.9),
    rule("SGD", "torch", 0.1, momentum=0.9, dampening=0.3),
    rule("SGD", "torch", 0.1, momentum=0.9, weight_decay=0.03),
    rule("SGD", "torch", 0.1, momentum=0.9, weight_decay=0.03, dampening=0.3),
    rule("SGD", "torch", 0.1, momentum=0.9, nesterov=True),
    rule("SGD", "torch", 0.1, momentum=0.9, nesterov=True, weight_decay=0.03),
    rule("Adagrad", "keras", 0.1),
    rule("Adagrad", "keras", 0.1, weight_decay=0.03),
    rule("Adagrad", "torch", 0.1),
    rule("Adagrad", "torch", 0.1, lr_decay=0.01, initial_accumulator_value=0.2),
    rule("RMSprop", "keras", 0.01),
    rule("RMSprop", "keras", 0.01, momentum=0.8, weight_decay=0.3),
    rule("RMSprop", "keras", 0.01, centered=True),
    rule("RMSprop", "torch", 0.01),
    rule("RMSprop", "torch", 0.01, momentum=0.8, centered=True),
    rule("Adadelta", "keras", 0.5, weight_decay=0.003),
    rule("Adadelta", "torch", 1.0),
    rule("Adam", "keras", 0.01),
    rule("Adam", "keras", 0.01, amsgrad=True, weight_decay=0.3),
    rule("AdamW", "keras", 0.01, weight_decay=0.3),
    rule("NAdam", "keras", 0.01, weight_decay=0.3),
    rule("Adamax", "keras", 0.01, weight_decay=0.3),
    rule("Adam", "torch", 0.01),
    rule("Adam", "torch", 0.01, amsgrad=True, weight_decay=0.3),
    rule("AdamW", "torch", 0.01, weight_decay=0.3),
    rule("NAdam", "torch", 0.01),
    rule("NAdam", "torch", 0.01, momentum_decay=0.1, weight_decay=0.3),
    rule("RAdam", "torch", 0.01),
    rule("RAdam", "torch", 0.01, weight_decay=0.3),
    rule("Adamax", "torch", 0.01),
    rule("Lion", "keras", 0.01),
    rule("Lion", "keras", 0.01, beta_1=0.95, beta_2=0.98, weight_decay=0.3),
    rule("Ftrl", "keras", 0.1),
    rule("Ftrl", "keras", 0.1, l1_regularization_strength=0.05, l2_regularization_strength=0.01, beta=0.5, weight_decay=0.03),
    rule("Ftrl", "keras", 0.1, learning_rate_power=-0.3, l1_regularization_strength=0.05),
    rule("Ftrl", "keras", 0.1, l2_shrinkage_regularization_strength=0.1, l1_regularization_strength=0.05, weight_decay=0.03),
    rule("RowwiseAdagrad", "keras", 0.1),
    rule("RowwiseAdagrad", "keras", 0.1, weight_decay=0.03, initial_accumulator_value=0.2),
]
"""Every rule; a new one is one line here, and its dense form in `dense.RULES`."""

EVERY = [case for line in RULES for case in line.with_betas()]
"""Every rule with every pair of betas."""


def every_option(rules: list[Rule]) -> list[Rule]:
    """Few of the rules, with each option of each optimizer in each convention among them."""
    chosen = covering([{(rule.name, rule.convention, option) for option in ("", *rule.hyper)} for rule in rules])
    return [rule for i, rule in enumerate(rules) if i in chosen]


def named(*ids: str) -> list[Rule]:
    """The rules with these ids, as given or with betas."""
    found = {case.id: case for case in [*EVERY, *RULES]}
    return [found[name] for name in ids]
