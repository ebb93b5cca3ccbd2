"""Every sentence that posematch can print, read from its source by `ast`.

A sentence is what a `PosematchError` or one of its kind is raised with, what `tell` and Python's
warnings are called with, what a function returns that ends like a sentence, and what readers and
checks say of data. Where that is a name or a call, the module's own assignments and functions are
followed. What is filled in when the program runs stands in braces: ``{file}``.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "posematch"
# Calls whose first argument is a sentence. Errors of other names are for callers of functions.
_TOLD = {"PosematchError", "InterruptedTrainingError", "ProcessEndedError", "BadArchiveError",
         "NotFiniteError", "tell", "warn", "rank_zero_warn", "_refuse"}  # fmt: skip
_DEEPEST = 4  # calls and names followed
_MOST = 16  # forms of one sentence


@dataclass(frozen=True)
class Message:
    """A sentence, and the file of `SOURCE` that it is in."""

    text: str
    file: str


def messages(source: Path = SOURCE) -> list[Message]:
    """All of them, by file, each once a file."""
    found: dict[Message, None] = {}
    for file, module in modules(source).items():
        for text in module.sentences():
            if _is_sentence(text):
                found[Message(" ".join(text.split()), file)] = None
    known = {one.text for one in found}
    # Not a sentence with another one's advice after it: both are there by themselves.
    ends = re.compile(r"(?<=\.) (?=[A-Z])")
    return [
        one
        for one in found
        if not any(one.text[: end.start()] in known for end in ends.finditer(one.text))
    ]


@functools.cache
def modules(source: Path = SOURCE) -> dict[str, _Module]:
    """Each file's, by its place below ``source``."""
    return {
        path.relative_to(source).as_posix(): _Module(ast.parse(path.read_text("utf-8")))
        for path in sorted(source.rglob("*.py"))
    }


def _is_sentence(text: str) -> bool:
    """With words of its own, besides what is filled in."""
    if text.endswith(":"):
        return False
    return len(re.findall(r"[A-Za-z]{2,}", re.sub(r"\{.*?\}", "", text))) >= 2


class _Module:
    """One file's sentences."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.nodes = list(ast.walk(tree))
        self.parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}
        self.functions = {one.name: one for one in self.nodes if isinstance(one, ast.FunctionDef)}

    def sentences(self) -> Iterator[str]:
        for node in self.nodes:
            if isinstance(node, ast.Call):
                yield from self._of_call(node, _called(node))
            elif isinstance(node, ast.Return) and node.value is not None:
                texts = [
                    one for one in self._texts(node.value, 0) if re.match(r"[A-Z{'].*\.$", one)
                ]
                yield from (one for one in texts if " " in one)

    def _of_call(self, call: ast.Call, name: str) -> Iterator[str]:
        if name in _TOLD and call.args:
            yield from self._texts(call.args[0], 0)
        elif name == "note" and len(call.args) == 3:  # what a reader left out or mended
            for kind in self._texts(call.args[0], 0):
                yield from (f"{kind}: {what}" for what in self._texts(call.args[1], 0))
        elif name == "Kind" and len(call.args) == 3:  # what a check finds
            severity, title, meaning = ("".join(self._texts(one, 0)) for one in call.args)
            yield f"{severity}: {{number}} {title}. {meaning}"

    def _texts(self, node: ast.expr, depth: int) -> Iterator[str]:
        """What an expression can be, as text; nothing where that is not known."""
        if depth > _DEEPEST:
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = [list(islice(self._parts(one, depth), 4)) or [""] for one in node.values]
            for forms in islice(product(*parts), _MOST):
                yield "".join(forms)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            for left in self._texts(node.left, depth + 1) or ():
                for right in self._texts(node.right, depth + 1):
                    yield left + right
        elif isinstance(node, ast.IfExp):
            yield from self._texts(node.body, depth)
            yield from self._texts(node.orelse, depth)
        elif isinstance(node, ast.BoolOp):
            for value in node.values:
                yield from self._texts(value, depth)
        elif isinstance(node, ast.Name):
            for value in self._assigned(node):
                yield from self._texts(value, depth + 1)
        elif isinstance(node, ast.Call):
            yield from self._returned(node, depth)

    def _parts(self, node: ast.expr, depth: int) -> Iterator[str]:
        """Forms of a piece of an f-string: constant, of this module, or the name of what it is."""
        if isinstance(node, ast.FormattedValue):
            value = node.value
            own = isinstance(value, ast.Call) and (
                _called(value) == "format" or _called(value) in self.functions
            )
            known = list(islice(self._texts(value, depth + 1), 4)) if own else []
            yield from known or [_filled_in(value)]
        else:
            yield from self._texts(node, depth)

    def _assigned(self, name: ast.Name) -> Iterator[ast.expr]:
        scope: ast.AST | None = name
        while scope is not None and not isinstance(scope, ast.FunctionDef):
            scope = self.parents.get(scope)
        for node in ast.walk(scope or self.tree):
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == name.id for target in node.targets
            ):
                yield node.value

    def _returned(self, call: ast.Call, depth: int) -> Iterator[str]:
        name = _called(call)
        if name == "format" and isinstance(call.func, ast.Attribute):
            yield from self._texts(call.func.value, depth + 1)
        elif function := self.functions.get(name):
            for node in ast.walk(function):
                if isinstance(node, ast.Return) and node.value is not None:
                    yield from self._texts(node.value, depth + 1)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _filled_in(value: ast.expr) -> str:
    """The name in braces of what is filled in; nothing for an addition that is there or not."""
    if isinstance(value, ast.IfExp) and isinstance(value.orelse, ast.Constant):
        return ""
    return "{" + (_named(value) or "...") + "}"


def _named(node: ast.expr) -> str:
    """The last name in an expression that tells what it is: of ``shown(cfg.loss.name)`` name."""
    if isinstance(node, ast.Name):
        return node.id.strip("_").lower()
    if isinstance(node, ast.Attribute):
        return node.attr.strip("_").lower()
    if isinstance(node, ast.Subscript):
        index = node.slice
        named = isinstance(index, ast.Constant) and isinstance(index.value, str)
        return str(index.value) if named else _named(node.value)  # type: ignore[attr-defined]
    if isinstance(node, ast.Call):
        for argument in node.args:
            if name := _named(argument):
                return f"number of {name}" if _called(node) == "len" else name
        return _named(node.func)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr) and (name := _named(child)):
            return name
    return ""
