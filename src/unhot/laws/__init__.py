"""Laws: the mathematics of the optimizers on the elements of rows, on arrays of any kind."""

from unhot.laws.base import Law
from unhot.laws.closed_form import ClosedForm
from unhot.laws.crossing import Crossing
from unhot.laws.linear import Divisor, Linear
from unhot.laws.measure import Measure, Root
from unhot.laws.rowwise import Rowwise
from unhot.laws.sign import Sign

LAWS: tuple[type[Law], ...] = (Linear, Rowwise, Measure, Crossing, Sign, ClosedForm)
"""All laws that are native kernels, in the order of the kernels' numbers."""

__all__ = ["LAWS", "ClosedForm", "Crossing", "Divisor", "Law", "Linear", "Measure", "Root", "Rowwise", "Sign"]
