"""What classes and functions take by keyword: told by themselves, or by the source they are of.

posematch's own are read from the package's source. So a command's values are judged by the same
annotations as when the object is made, without importing what makes it, and torch with it.
"""

from __future__ import annotations

import ast
import builtins
import enum
import functools
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_OURS = "posematch"
_SOURCE = Path(__file__).parents[1]
# Whose names annotations of plain values are written with, and which are imported in any case.
_IMPORTED = {*sys.stdlib_module_names, "pydantic"}
_Definition = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Signature:
    """Arguments of a class or function.

    Attributes
    ----------
    name
        Of the class or function.
    package
        The one that defines it.
    hints
        Annotations by keyword argument; None where there is none, or none that can be evaluated.
    others
        Whether any other keyword is taken, too.
    """

    name: str
    package: str
    hints: Mapping[str, Any]
    others: bool


def signature_of(target: Callable[..., Any]) -> Signature:
    """Of a class or function; ``**rest`` of a constructor stands for the arguments of its bases."""
    functions: list[Any] = [target]
    if inspect.isclass(target):
        functions = [
            base.__dict__["__init__"] for base in target.__mro__ if "__init__" in base.__dict__
        ]
    hints: dict[str, Any] = {}
    others = True
    for function in functions:
        try:
            found = inspect.signature(function).parameters.values()
        except ValueError:  # written in C
            break
        try:
            annotated = typing.get_type_hints(function, include_extras=True)
        except (NameError, TypeError, AttributeError):  # names that only a type checker sees
            annotated = {}
        for one in found:
            if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD) and one.name != "self":
                hints.setdefault(one.name, annotated.get(one.name))
        if not any(one.kind is one.VAR_KEYWORD for one in found):
            others = False
            break
    return Signature(target.__qualname__, target.__module__.partition(".")[0], hints, others)


def written_signature(target: str) -> Signature | None:
    """Of a class or function of posematch's, by its dotted name, as `signature_of` would tell it.

    Where they can differ, this one knows less: of a constructor of another package's it says that
    any keyword is taken.

    Returns
    -------
    None for what is another package's, or not to be found in the source by its name alone.
    """
    module, _, name = target.rpartition(".")
    found = _definition(module, name)
    if found is None:
        return None
    names, node = found
    hints: dict[str, Any] = {}
    others = True
    for its_names, function in _functions(names, node):
        if function is None:
            break
        for argument, hint in _hints(its_names, function).items():
            hints.setdefault(argument, hint)
        if isinstance(function, dict) or function.args.kwarg is None:
            others = False
            break
    return Signature(node.name, _OURS, hints, others)


class _Class(type):
    """Class of what is not imported: it has a name and a module, and whatever is asked of it."""

    def __getattr__(cls, name: str) -> _Class:
        if name.startswith("__"):
            raise AttributeError(name)
        return _stand_in(name, cls.__module__)

    def __getitem__(cls, _: Any) -> _Class:
        return cls


def _stand_in(name: str, module: str) -> _Class:
    return _Class(name, (), {"__module__": module})


class _Names(dict[str, Any]):
    """What names mean in a module's annotations, each looked up when it is first asked for.

    Parameters
    ----------
    module
        Of posematch.
    file
        Its source.
    """

    def __init__(self, module: str, file: Path) -> None:
        super().__init__()
        self.module = module
        self.nodes: dict[str, ast.AST | tuple[str, str]] = {}
        # Only what is bound however the module is imported, not what a type checker sees.
        for node in ast.parse(file.read_text("utf-8")).body:
            match node:
                case ast.ClassDef() | ast.FunctionDef():
                    self.nodes[node.name] = node
                case ast.Assign(targets=[ast.Name(id=name)]):
                    self.nodes[name] = node.value
                case ast.ImportFrom(module=str(origin), level=0):
                    for one in node.names:
                        self.nodes[one.asname or one.name] = (origin, one.name)
                case ast.Import():
                    for one in node.names:
                        whole = one.name if one.asname else one.name.partition(".")[0]
                        self.nodes[one.asname or whole] = (whole, "")

    def __missing__(self, name: str) -> Any:
        node = self.nodes[name]
        self[name] = value = self._value(name, node)
        return value

    def _value(self, name: str, node: ast.AST | tuple[str, str]) -> Any:
        if isinstance(node, tuple):
            return _imported(*node)
        if isinstance(node, ast.ClassDef):
            bases = [self.evaluated(base) for base in node.bases]
            plain = (int, float, str, list, enum.Enum)
            # Not known by its name alone: a configuration's plain values may be such ones.
            if any(inspect.isclass(base) and issubclass(base, plain) for base in bases):
                return enum.Enum
            return _stand_in(name, self.module)
        if isinstance(node, ast.FunctionDef):
            return self._function(node)
        return self.evaluated(node)

    def _function(self, node: ast.FunctionDef) -> Any:
        """One that an annotation calls, as those do that make a number's bounds."""
        used = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
        scope = {name: self[name] for name in used & self.nodes.keys() - {node.name}}
        exec(compile(ast.Module([node], []), self.module, "exec"), scope)
        return scope[node.name]

    def evaluated(self, expression: Any) -> Any:
        """An annotation, or what else can stand in one."""
        code = compile(ast.Expression(expression), self.module, "eval")
        return eval(code, {"__builtins__": builtins}, self)


@functools.cache
def _names(module: str) -> _Names | None:
    """Of a module of posematch's; None for anything else."""
    first, *parts = module.split(".")
    if first != _OURS or not all(part.isidentifier() for part in parts):
        return None
    stem = _SOURCE.joinpath(*parts)
    files = (stem / "__init__.py", stem.parent / f"{stem.name}.py")
    return next((_Names(module, file) for file in files if file.is_file()), None)


def _imported(module: str, name: str) -> Any:
    """What ``from module import name`` binds; no ``name``: the module."""
    if module.partition(".")[0] in _IMPORTED:
        found = importlib.import_module(module)
        return getattr(found, name) if name else found
    names = _names(module)
    if names is not None and name in names.nodes:
        return names[name]
    return _stand_in(name or module, module)


def _definition(module: str, name: str) -> tuple[_Names, _Definition] | None:
    """Where a name of a module's is defined, through whatever imports it."""
    names = _names(module)
    node = names.nodes.get(name) if names is not None else None
    if isinstance(node, tuple):
        return _definition(*node)
    if isinstance(node, _Definition) and names is not None:
        return names, node
    return None


def _functions(
    names: _Names, node: _Definition
) -> Iterator[tuple[_Names, ast.FunctionDef | dict[str, ast.expr] | None]]:
    """The functions that take a target's arguments, the first one first, with their modules' names.

    Of a class its constructor and those of its bases: a dataclass's by its fields, None for one of
    another package's.
    """
    if isinstance(node, ast.FunctionDef):
        yield names, None if node.decorator_list else node
        return
    own = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
    if own:
        yield names, own[0]
    elif node.decorator_list:
        yield names, _fields(names, node)
    for base in node.bases:
        match base:
            case ast.Name(id=name):
                found = _definition(names.module, name)
            case _:
                found = None
        if found is not None:
            yield from _functions(*found)
        elif getattr(names.evaluated(base), "__module__", "") not in sys.stdlib_module_names:
            yield names, None


def _fields(names: _Names, node: ast.ClassDef) -> dict[str, ast.expr] | None:
    """Annotations of a dataclass's fields; None where the decorator is another one."""
    (decorator, *more) = node.decorator_list
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    if more or names.evaluated(called) is not dataclass:
        return None
    fields: dict[str, ast.expr] = {}
    for base in node.bases:
        found = _definition(names.module, base.id) if isinstance(base, ast.Name) else None
        if found is not None and isinstance(found[1], ast.ClassDef) and found[1].decorator_list:
            fields |= _fields(found[0], found[1]) or {}
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            fields[one.target.id] = one.annotation
    return fields


def _hints(names: _Names, function: ast.FunctionDef | dict[str, ast.expr]) -> dict[str, Any]:
    if isinstance(function, dict):
        written: dict[str, ast.expr | None] = {**function}
    else:
        arguments = [*function.args.args, *function.args.kwonlyargs]
        written = {one.arg: one.annotation for one in arguments if one.arg != "self"}
        written["return"] = function.returns
    try:
        hints = {name: one and names.evaluated(one) for name, one in written.items()}
    except (NameError, TypeError, AttributeError):  # as `signature_of`
        hints = dict.fromkeys(written)
    hints.pop("return", None)
    return hints
