"""Print the C++ of the laws: `python tools/print_kernels.py`, or `--check` to be told when native/generated is out of date.

`settle` and `update` of each law (src/unhot/laws) are called with symbols, which record what is done to them. What depends on
a row's coefficients alone is computed once for each row, and the rest for each of its elements. The operations are those of the
Python text, one for one and in its order, so that native and NumPy kernels give the same bits.

law_numbers.h has the numbers by which laws, coefficients and scalars are known; laws.h has the laws.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "src"))
os.environ["UNHOT_KERNELS"] = "numpy"  # the native ones may be of another text, or be about to be built

from unhot.laws import LAWS, Law  # noqa: E402

HEAD = "// Printed by tools/print_kernels.py from src/unhot/laws: change those, and run it again.\n#pragma once\n"
WIDTH = 110
"""Expressions that take more of a line than this are printed in parts."""

Value: TypeAlias = Any
"""A `Symbol` or a number."""

# ---------------------------------------------------------------- symbols


class Symbol:
    """A number of the kernel: given, or computed from others.

    Args:
        operation: its template, such as "({} + {})", or a name that the kernel is given.
        parts: what it is computed from.
        kind: its type in C++: "T", "bool" or "double".
        by_element: whether it differs from element to element of a row.
    """

    OF_ROW = {"mean_square": "the gradient's over the row: to be set before the calls"}
    """What the loops compute for each row, from all of its elements."""

    known: dict[tuple[Any, ...], Symbol] = {}
    """All symbols of the law that is recorded: what is computed twice in the same way is one symbol."""

    def __init__(self, operation: str, parts: tuple[Value, ...], kind: str, by_element: bool) -> None:
        self.operation, self.parts, self.kind, self.by_element = operation, parts, kind, by_element

    @property
    def given(self) -> bool:
        return not self.parts

    def __add__(self, other: Value) -> Symbol:
        return computed("({} + {})", self, other)

    def __radd__(self, other: Value) -> Symbol:
        return computed("({} + {})", other, self)

    def __sub__(self, other: Value) -> Symbol:
        return computed("({} - {})", self, other)

    def __rsub__(self, other: Value) -> Symbol:
        return computed("({} - {})", other, self)

    def __mul__(self, other: Value) -> Symbol:
        return computed("({} * {})", self, other)

    def __rmul__(self, other: Value) -> Symbol:
        return computed("({} * {})", other, self)

    def __truediv__(self, other: Value) -> Symbol:
        return computed("({} / {})", self, other)

    def __neg__(self) -> Symbol:
        return computed("-{}", self)

    def __eq__(self, other: Value) -> Symbol:  # type: ignore[override]
        return computed("({} == {})", self, other, kind="bool")

    def __ne__(self, other: Value) -> Symbol:  # type: ignore[override]
        return computed("({} != {})", self, other, kind="bool")

    def __lt__(self, other: Value) -> Symbol:
        return computed("({} < {})", self, other, kind="bool")

    def __and__(self, other: Value) -> Symbol:
        return computed("({} && {})", self, other, kind="bool")

    __hash__ = object.__hash__


def given(name: str, kind: str = "T", *, by_element: bool = False) -> Symbol:
    return Symbol.known.setdefault((name,), Symbol(name, (), kind, by_element))


def computed(operation: str, *parts: Value, kind: str | None = None) -> Symbol:
    symbols = [part for part in parts if isinstance(part, Symbol)]
    if kind is None:
        kind = "double" if any(symbol.kind == "double" for symbol in symbols) else "T"
    key = (operation, kind, *(id(part) if isinstance(part, Symbol) else part for part in parts))
    return Symbol.known.setdefault(key, Symbol(operation, parts, kind, any(symbol.by_element for symbol in symbols)))


class Symbols:
    """The namespace of symbols."""

    @staticmethod
    def sqrt(x: Value) -> Symbol:
        return computed("root({})", x)

    @staticmethod
    def abs(x: Value) -> Symbol:
        return computed("magnitude({})", x)

    @staticmethod
    def sign(x: Value) -> Symbol:
        return computed("sign_of({})", x)

    @staticmethod
    def exp(x: Value) -> Symbol:
        return computed("exponential({})", x)

    @staticmethod
    def maximum(x: Value, y: Value) -> Symbol:
        return computed("largest({}, {})", x, y)

    @staticmethod
    def minimum(x: Value, y: Value) -> Symbol:
        return computed("smallest({}, {})", x, y)

    @staticmethod
    def where(condition: Value, x: Value, y: Value) -> Symbol:
        return computed("({} ? {} : {})", condition, x, y, kind="T")

    @staticmethod
    def mean_square(x: Value) -> Symbol:
        assert x.operation == "g", "the loops know that of the gradient only"
        return given("mean_square")

    @staticmethod
    def power(x: Value, exponent: Value) -> Symbol:
        return computed("power({}, {})", x, exponent, kind="double")

    @staticmethod
    def narrowed(x: Value, like: Value) -> Symbol:
        """`like` is of type T, as all elements are."""
        return x if x.kind == "T" else computed("static_cast<T>({})", x, kind="T")


# ---------------------------------------------------------------- C++


class Printer:
    """A function of a law: a struct whose constructor computes what a row's elements share, and whose call takes an element."""

    def __init__(self, results: Sequence[Value], elements: Sequence[Symbol]) -> None:
        self.results, self.elements = results, elements
        self.uses: dict[Symbol, int] = {}
        self.order: list[Symbol] = []
        for result in results:
            self._visit(result)
        self.members = {
            symbol: symbol.operation if symbol.given else ""
            for symbol in self.order
            if not symbol.by_element
            and symbol.kind != "bool"  # compilers make no vectors of a loop that looks at a bool in memory
            and (any(symbol is one for one in results) or self._used_by_element(symbol))
        }
        for number, symbol in enumerate(symbol for symbol, name in self.members.items() if not name):
            self.members[symbol] = f"derived_{number}"

    def _visit(self, value: Value) -> None:
        if not isinstance(value, Symbol):
            return
        self.uses[value] = self.uses.get(value, 0) + 1
        if self.uses[value] == 1:
            for part in value.parts:
                self._visit(part)
            self.order.append(value)

    def _used_by_element(self, symbol: Symbol) -> bool:
        users = [user for user in self.order if any(part is symbol for part in user.parts)]
        return any(user.by_element or (user.kind == "bool" and self._used_by_element(user)) for user in users)

    def statements(self, wanted: Sequence[tuple[str, Value]], names: dict[Symbol, str], by_element: bool) -> Iterator[str]:
        """What assigns each wanted value to its name; `names` are those of symbols that are there already."""

        def text(value: Value) -> str:
            if not isinstance(value, Symbol):
                return "kInfinity<T>" if value == math.inf else f"T({value!r})"
            if value in names:
                return names[value]
            return value.operation if value.given else value.operation.format(*map(text, value.parts))

        for symbol in self.order:
            if symbol.given or symbol in names or symbol.by_element != by_element:
                continue
            kept = self.uses[symbol] > 1 or len(text(symbol)) > WIDTH
            if kept and any(self._leads_to(symbol, value) for _, value in wanted):
                name = f"t{len(names)}"
                yield f"const {symbol.kind} {name} = {bare(text(symbol))};"
                names[symbol] = name
        for name, value in wanted:
            yield f"{name} = {bare(text(value))};"

    def _leads_to(self, symbol: Symbol, value: Value) -> bool:
        if value is symbol:
            return True
        return isinstance(value, Symbol) and any(self._leads_to(symbol, part) for part in value.parts)

    def struct(self, name: str, arguments: str, load: dict[str, str], extra: Sequence[str]) -> list[str]:
        """The lines of the struct; `load` says how the constructor reads what it is given."""
        kinds: dict[str, list[str]] = {}
        for symbol, member in self.members.items():
            kinds.setdefault(symbol.kind, []).append(member)
        lines = [f"struct {name} {{", *(f"    {line}" for line in extra)]
        for kind, members in kinds.items():
            lines.append(f"    {kind} {', '.join(member for member in members if member not in Symbol.OF_ROW)};")
            lines += [f"    {kind} {name}{{}};  // {what}" for name, what in Symbol.OF_ROW.items() if name in members]
        read = [s for s in self.order if s.given and not s.by_element and s.operation not in Symbol.OF_ROW]
        inside = {symbol: f"given_{symbol.operation}" for symbol in read if symbol not in self.members}
        used = [inside.get(symbol, symbol.operation) for symbol in read]
        named = {symbol: inside.get(symbol, symbol.operation) for symbol in read}
        body = [f"const {symbol.kind} {own} = {load[symbol.operation]};" for symbol, own in inside.items()]
        body += [f"{symbol.operation} = {load[symbol.operation]};" for symbol in read if symbol in self.members]
        wanted = [(member, symbol) for symbol, member in self.members.items() if not symbol.given]
        body += list(self.statements(wanted, named, by_element=False))
        text = " ".join((arguments, *body, *used))
        arguments = ", ".join(
            argument if re.search(rf"\b{argument.split()[-1].lstrip('*')}\[", text) else argument.rsplit(maxsplit=1)[0]
            for argument in arguments.split(", ")
        )
        lines += ["", f"    {name}({arguments}) {{", *(f"        {line}" for line in body), "    }", ""]
        gradient = ", T g" if any(symbol.operation == "g" for symbol in self.order) or name == "Update" else ""
        lines.append(f"    inline void operator()(T* x{gradient}) const {{")
        names = dict(self.members)
        for number, symbol in enumerate(self.elements):
            if symbol in self.uses and self._is_needed(symbol, number):
                lines.append(f"        const T {symbol.operation} = x[{number}];")
        wanted = [
            (f"x[{number}]", result)
            for number, (result, symbol) in enumerate(zip(self.results, self.elements, strict=True))
            if result is not symbol
        ]
        lines += [f"        {line}" for line in self.statements(wanted, names, by_element=True)]
        return [*lines, "    }", "};"]

    def _is_needed(self, symbol: Symbol, number: int) -> bool:
        return self.uses[symbol] > (self.results[number] is symbol)


def bare(text: str) -> str:
    """An expression without the parentheses around the whole of it."""
    if not text.startswith("("):
        return text
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[1:-1] if at == len(text) - 1 else text
    return text


def name_of(law: Law) -> str:
    """The name of a law with its options, such as LinearMomentumMean."""
    parts = [law.name]
    for field in fields(law):  # type: ignore[arg-type]  # laws are dataclasses
        value = getattr(law, field.name)
        if isinstance(value, Enum):
            parts += [part.capitalize() for part in value.name.split("_") if value.name != "NONE"]
        elif value:
            parts += [part.capitalize() for part in field.name.split("_")]
    return "".join(parts)


def of_row(law: Law) -> int:
    """Which arrays have one number for each row (bits)."""
    return sum(1 << number for number, slot in enumerate(law.slots, start=1) if slot in law.row_slots)


class Lines:
    """An array with lines of coefficients, of symbols."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def __getitem__(self, key: tuple[Any, ...]) -> Symbol:
        return given(self.names[key[1]])


def printed(law: Law) -> list[str]:
    """The struct of a law."""
    Symbol.known = {}
    elements = [given("w", by_element=True), *(given(name, by_element=True) for name in law.slots)]
    shared = law.Shared(*(given(f"k_{name}", "double" if name == "exponent" else "T") for name in law.Shared._fields))
    scalars = law.Scalars(*map(given, law.Scalars._fields))
    columns = law.Coefficients._fields
    columns = (*columns[: law.width], *(f"{columns[-1]}_{number}" for number in range(law.width - len(columns) + 1)))
    load = {
        **{
            f"k_{name}": f"k[{number}]" if name == "exponent" else f"static_cast<T>(k[{number}])"
            for number, name in enumerate(law.Shared._fields)
        },
    }
    load_line = load | {name: f"c[{number}]" for number, name in enumerate(columns)}
    load |= {name: f"s[{number}]" for number, name in enumerate(law.Scalars._fields)}
    base, lines = "", [f"static constexpr unsigned kOfRow = {of_row(law)};"]
    if law.native_settle:
        base = f" : {law.native_settle}"
    else:
        results = law.settle(Symbols, tuple(elements), law.columns(Lines(columns)), shared)
        settle = Printer(results, elements)
        looked = {symbol for symbol in elements if settle._leads_to(symbol, results[0])} | {elements[0]}
        writes = sum(1 << i for i, (result, symbol) in enumerate(zip(results, elements, strict=True)) if result is not symbol)
        lines += [
            "using Line = T;",
            f"static constexpr int kArrays = {len(elements)};",
            f"static constexpr unsigned kLooked = {sum(1 << i for i, symbol in enumerate(elements) if symbol in looked)};",
            "",
            *settle.struct(
                "Settle",
                "const T* c, const double* k",
                load_line,
                ["static constexpr bool kByRow = false;", f"static constexpr unsigned kWrites = {writes};"],
            ),
            "",
            "template <typename F>",
            "static inline void with_settle(const Formula& formula, const T* c, F f) {",
            "    f(Settle(c, formula.parameters));",
            "}",
            "",
        ]
    gradient = given("g", by_element=True)
    update = Printer(law.update(Symbols, tuple(elements), gradient, scalars, shared), elements)
    lines += update.struct("Update", "const T* s, const double* k", load, [])
    return ["template <typename T>", f"struct {name_of(law)}{base} {{", *(f"    {line}".rstrip() for line in lines), "};", ""]


def laws() -> str:
    """laws.h."""
    lines = [HEAD]
    every = [law for kind in LAWS for law in kind.variants()]
    for law in every:
        lines += printed(law)
    lines += [
        "// Calls f.template operator()<Law>() with the law of this number.",
        "template <typename T, typename F>",
        "inline void with_law(int law, F&& f) {",
        "    switch (law) {",
        *(f"        case k{name_of(law)}: return f.template operator()<{name_of(law)}<T>>();" for law in every),
        "    }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def numbers() -> str:
    """law_numbers.h."""
    every = [law for kind in LAWS for law in kind.variants()]
    lines = [HEAD, "namespace unhot {", ""]
    lines += ["enum Law : int {", *(f"    k{name_of(law)}," for law in every), "    kLaws", "};", ""]
    known: set[type] = set()
    for kind in LAWS:
        for what in ("Coefficients", "Scalars", "Shared"):
            columns = getattr(kind, what)
            names = () if columns in known else columns._fields
            known.add(columns)
            if names:
                lines += [f"struct {kind.name}{what} {{", "    enum : int {", *(f"        {name}," for name in names)]
                lines += ["        count", "    };", "};", ""]
    lines += [
        "// How much a law reads; `width` is that of a line of coefficients, without the panels, and `of_row` says which",
        "// arrays (bits) have one number for each row.",
        "struct LawSizes {",
        "    const char* name;",
        "    int arrays, parameters, width, scalars;",
        "    bool panels;",
        "    unsigned of_row;",
        "};",
        "",
        "constexpr LawSizes kLawSizes[kLaws] = {",
    ]
    for law in every:
        sizes = 1 + len(law.slots), law.parameters, law.width, len(law.Scalars._fields), str(law.panels).lower(), of_row(law)
        lines.append(f'    {{"{name_of(law)}", {", ".join(map(str, sizes))}}},')
    return "\n".join([*lines, "};", "", "}  // namespace unhot"]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Print the C++ of the laws.")
    parser.add_argument("--check", action="store_true", help="only say whether the files are as they would be printed")
    check = parser.parse_args().check
    stale = []
    for name, text in {"laws.h": laws(), "law_numbers.h": numbers()}.items():
        path = ROOT / "native" / "generated" / name
        if not path.exists() or path.read_text() != text:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(text)
    if check and stale:
        print(f"{', '.join(stale)}: not as tools/print_kernels.py prints them. Run it.")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
