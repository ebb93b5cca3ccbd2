"""The examples in docstrings run, and every public name of the face has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch

import posematch.decoding
import posematch.losses

PACKAGES = (posematch.losses, posematch.decoding)
MODULES = [
    "posematch.arithmetic",
    "posematch.geometry",
    "posematch.data.widths",
    "posematch.skeletons",
    "posematch.transport.distance",
    *(
        f"{package.__name__}.{module.name}"
        for package in PACKAGES
        for module in pkgutil.iter_modules(package.__path__)
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.failed == 0


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_public_names_have_examples(package):
    # There is nothing to run in a protocol, and an error's is where it is raised.
    without = [
        name
        for name in package.__all__
        if name not in ("Decoder", "NotFiniteError")
        and ">>>" not in (inspect.getdoc(getattr(package, name)) or "")
    ]
    assert without == []
