"""What the source says about a target is what the target says about itself."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_object

from posematch.app.settings import _plain_hint
from posematch.app.signatures import Signature, signature_of, written_signature

CONF = Path(__file__).resolve().parents[2] / "conf"
TARGETS = sorted(
    {
        target
        for file in CONF.rglob("*.yaml")
        for target in re.findall(r"_target_: (posematch\.[\w.]+)", file.read_text("utf-8"))
    }
)
# From which a configuration may name classes and functions.
PACKAGES = ("data", "decoding", "losses", "networks", "training")


def judged(signature: Signature) -> dict[str, str]:
    """Of each argument what plain values are judged by."""
    return {name: str(_plain_hint(hint)) for name, hint in signature.hints.items()}


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_read_from_its_source_as_it_is(target):
    written, imported = written_signature(target), signature_of(get_object(target))
    assert written is not None
    assert judged(written) == judged(imported)
    assert (written.name, written.package) == (imported.name, imported.package)
    assert written.others == imported.others


def definitions() -> list[tuple[str, Any]]:
    found = []
    for package in PACKAGES:
        folder = importlib.import_module(f"posematch.{package}")
        for one in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}."):
            if one.name.endswith("fused_kernel"):
                continue
            module = importlib.import_module(one.name)
            found += [
                (f"{one.name}.{name}", value)
                for name, value in vars(module).items()
                if inspect.isclass(value) or inspect.isfunction(value)
            ]
    return [one for one in found if str(one[1].__module__).startswith("posematch.")]


def test_nothing_is_refused_that_the_object_itself_would_take():
    """Whatever a configuration names: other losses, functions, callbacks."""
    compared = 0
    for name, value in definitions():
        written, imported = written_signature(name), signature_of(value)
        if written is None:
            continue
        compared += 1
        assert written.others or not imported.others, name
        own, told = judged(written), judged(imported)
        for argument, hint in own.items():
            assert hint in ("None", told.get(argument)), (name, argument)
        assert written.others or told.keys() == own.keys(), name
    assert compared > 300


@pytest.mark.parametrize(
    "target",
    ["torch.optim.Adam", "posematch", "posematch.losses.Nothing", "posematch...losses.DSNT",
     "posematch.losses", "posematch.losses.base.torch", "posematch.data.mpii.OBTAINED", ""],
)  # fmt: skip
def test_what_is_no_definition_of_ours_is_left_to_who_imports_it(target):
    assert written_signature(target) is None
