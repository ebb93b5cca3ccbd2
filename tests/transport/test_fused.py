"""The Triton kernel in Triton's interpreter against the torch version, and compiled for GPUs."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import math
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from problems import KINDS, in_double, random_problems, special_problems
from test_semidual import COSTS, relative, semidual

from posematch.losses import Matching
from posematch.transport import (
    SOLVERS,
    TransportProblem,
    fused,
    nearest_demand,
    solution_from_demand_potentials,
    subpixel_demand,
)
from posematch.transport import semidual as semidual_module

PROGRAM = Path(__file__).with_name("interpreted.py")
TOLERANCE = 5e-7

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def some(problem, first, step):
    return problem.part(slice(first, None, step))


def large_problems(height, width, relaxation=math.inf):
    """Maps of several tiles, the last one not full; dots inside and at a corner."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, height, width, generator=generator)
    mass = torch.stack(
        [noise[0].relu(), (3 * noise[1]).flatten().softmax(0).reshape(height, width)]
    )
    mass = mass / mass.sum((1, 2), keepdim=True)
    dots_hm = torch.tensor([[width / 3, height - 5.2], [-0.3, height - 0.8]])
    demand = subpixel_demand(dots_hm, (height, width))
    return TransportProblem(mass, *demand, relaxation=relaxation)


def problems_at(cost, relaxation=math.inf):
    """At an epsilon of the cost's size: the kernel's range ends where C / epsilon spans 50."""
    epsilon = 3.0 if cost.name == "squared_l2" else 0.3
    return special_problems(epsilon, torch.float32, cost=cost, relaxation=relaxation)


# One program is some 0.1 s in the interpreter: a part of the problems each, together all of them.
PROBLEMS = {
    "epsilon 3": some(special_problems(3.0, torch.float32), 1, 13),
    "epsilon 0.3": some(special_problems(0.3, torch.float32), 2, 11),
    "epsilon 0.1": some(special_problems(0.1, torch.float32), 0, 7),
    "epsilon 0.03": some(special_problems(0.03, torch.float32), 3, 7),
    "relaxed": some(special_problems(0.3, torch.float32, relaxation=2.0), 1, 11),
    "hardly relaxed": some(special_problems(0.1, torch.float32, relaxation=50.0), 4, 17),
    "random": random_problems(2, 0.1, seed=9, dtype=torch.float32),
    "large": large_problems(47, 33),
    "large, relaxed": large_problems(40, 28, relaxation=1.5),
    **{
        f"cost {name}": some(problems_at(cost), number, 41)
        for number, (name, cost) in enumerate(COSTS.items())
    },
}
ALL = {
    **{
        f"epsilon {epsilon}, relaxation {relaxation}": special_problems(
            epsilon, torch.float32, relaxation=relaxation
        )
        for epsilon in (3.0, 1.0, 0.3, 0.1, 0.03)
        for relaxation in (math.inf, 2.0)
    },
    **{
        f"cost {name}": problems_at(cost, relaxation)
        for (name, cost), relaxation in zip(COSTS.items(), itertools.cycle((math.inf, 2.0)))
    },
    **{
        f"random, epsilon {epsilon}": random_problems(20, epsilon, seed=3, dtype=torch.float32)
        for epsilon in (1.0, 0.3, 0.1, 0.03)
    },
    **{
        f"{height} x {width}": large_problems(height, width)
        for height, width in ((64, 48), (64, 64), (96, 72), (128, 96))
    },
}
LOSSES = {
    "relu": {},
    "nobody counts": {},
    "softmax": {"supply": "softmax", "epsilon": 0.3},
    "relaxed": {"supply": "softplus", "relaxation": 1.5},
}


def interpret(folder, problems, losses=(), max_iterations=None):
    """The kernel's answers to problems, and the loss's on `loss_case`; a cap by name, or 1000."""
    cases = {
        "problems": {
            name: {
                "supply": problem.supply,
                "places_hm": problem.places_hm,
                "demand": problem.demand,
                "cost": dataclasses.astuple(problem.cost),
                "epsilon": problem.epsilon,
                "relaxation": problem.relaxation,
                "tolerance": TOLERANCE,
                "max_iterations": (max_iterations or {}).get(name, 1000),
            }
            for name, problem in problems.items()
        },
        "losses": {name: loss_case(name) | {"options": LOSSES[name]} for name in losses},
    }
    torch.save(cases, folder / "cases.pt")
    done = subprocess.run(
        [sys.executable, PROGRAM, folder / "cases.pt", folder / "answers.pt"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "answers.pt", weights_only=True)


def loss_case(name="relu"):
    generator = torch.Generator().manual_seed(2)
    heatmaps = torch.randn(2, 2, 16, 12, generator=generator)
    heatmaps[1, 0] = -heatmaps[1, 0].abs()  # no positive pixel
    joints_hm = torch.rand(2, 2, 2, generator=generator) * torch.tensor([11.0, 15.0])
    joints_hm[0, 1] = -1e6  # not visible: no place in any table
    return {
        "heatmaps": heatmaps,
        "joints_hm": joints_hm,
        "visible": torch.tensor([[1.0, 0], [1, 1]]) * (name != "nobody counts"),
    }


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    cut_short = random_problems(3, 0.03, dtype=torch.float32)
    folder, problems = tmp_path_factory.mktemp("fused"), PROBLEMS | {"cut short": cut_short}
    return interpret(folder, problems, LOSSES, {"cut short": 1})


def without_cells(problem):
    """The torch version from where the kernel starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semidual_module, "pooled", lambda problem: False)
        return semidual(problem)


def check(problem, ours):
    """As test_semidual checks the torch version: value and potentials, marginals in float64."""
    double = in_double(problem)
    expected, single = semidual(double), without_cells(problem)
    assert ours["converged"].all()
    assert float(ours["marginal_error"].max()) <= TOLERANCE
    assert relative(ours["value"], expected.value) <= 1e-5
    assert relative(ours["value"], single.value) <= 2e-6
    # Relaxed, the total mass fixes the potentials' constant, only as well as tau times its error.
    bound = 2e-6 if problem.balanced else 1e-5
    assert relative(ours["supply_potential"], single.supply_potential) <= bound
    # b by what depends on it: alone it is ill determined where a demand is next to nothing.
    evaluated = solution_from_demand_potentials(
        double, ours["demand_potential"], ours["iterations"], 1.0
    )
    # Relaxed: the bound of test_semidual's check of every cost.
    assert float(evaluated.marginal_error.max()) <= (1e-6 if problem.balanced else 2e-6)
    # Rounding decides whether a joint stops a step later, or two where its error is all rounding.
    assert int((ours["iterations"] - single.iterations).abs().max()) <= 2


@needs_triton
@pytest.mark.parametrize("name", PROBLEMS)
def test_kernel_is_the_torch_version(answers, name):
    check(PROBLEMS[name], answers["problems"][name])


@needs_triton
@pytest.mark.slow
def test_kernel_on_all_problems(tmp_path):
    found = interpret(tmp_path, ALL)
    for name, problem in ALL.items():
        check(problem, found["problems"][name])


def test_the_parts_are_all_kinds():
    rows = {
        row for first, step in ((0, 7), (3, 7), (1, 13), (2, 11)) for row in range(first, 48, step)
    }
    assert len({row // 6 for row in rows}) == len(KINDS)
    assert {row % 6 for row in rows} == set(range(6))


@needs_triton
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_its_gradient(answers, name):
    """Through supply, normalisation and mean; a joint that does not count, one without mass."""
    case, found = loss_case(name), answers["losses"][name]
    heatmaps = case["heatmaps"].clone().requires_grad_()
    loss = Matching(**LOSSES[name])
    value = loss(heatmaps, case["joints_hm"], case["visible"])
    value.backward()
    torch.testing.assert_close(found["value"], value.detach(), rtol=1e-6, atol=0)
    scale = float(heatmaps.grad.abs().max())
    torch.testing.assert_close(found["gradient"], heatmaps.grad, rtol=1e-5, atol=2e-6 * scale)
    assert not found["gradient"][0, 1].any()
    if name == "nobody counts":
        assert not found["value"]
        assert not found["gradient"].any()
        assert not any(found["health"].values())
        return
    assert found["health"].keys() == loss.health.keys()
    for what in loss.health.keys() - {"iterations", "marginal_error"}:  # of another start
        torch.testing.assert_close(found["health"][what], loss.health[what])
    assert float(found["health"]["marginal_error"]) <= TOLERANCE


@needs_triton
def test_iterations_that_run_out_are_reported(answers):
    ours = answers["problems"]["cut short"]
    assert (ours["iterations"] == 1).all()
    assert not ours["converged"].any()
    assert ours["value"].isfinite().all()


@needs_triton
def test_triton_is_imported_only_when_it_solves(answers):
    assert not answers["early"]


class TestRange:
    """What the kernel leaves to the torch version."""

    def test_by_the_problem(self, monkeypatch):
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        dots_hm = torch.tensor([[4.3, 6.8]])
        problem = special_problems(0.03, torch.float32)
        single = TransportProblem(problem.supply[:1], *nearest_demand(dots_hm, (24, 20)))
        assert fused.applies(problem)
        assert not fused.applies(special_problems(0.01, torch.float32))
        assert not fused.applies(special_problems(0.1, torch.float64))
        assert not fused.applies(single)
        assert not fused.applies(problem.part(slice(0, 0)))

    @pytest.mark.parametrize("why", ["missing", "no compiler"])
    def test_where_triton_cannot_run_the_torch_version_solves(self, why, monkeypatch):
        """Once told; joints that the kernel would leave out are left out, too."""
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setattr(fused, "_triton", fused._Compiler("Triton", "GPU"))
        name = "posematch.transport.fused_kernel"
        if why == "missing":
            monkeypatch.delitem(sys.modules, name, raising=False)
            monkeypatch.delattr("posematch.transport.fused_kernel", raising=False)
            monkeypatch.setitem(sys.modules, "triton", None)
        else:
            broken = types.ModuleType(name)
            broken.launch = no_compiler
            monkeypatch.setitem(sys.modules, name, broken)
            monkeypatch.setattr(name, broken, raising=False)
        case = loss_case()
        found = []
        for _ in range(2):
            heatmaps = case["heatmaps"].clone().requires_grad_()
            with contextlib.ExitStack() as told:
                if not found:
                    told.enter_context(pytest.warns(UserWarning, match="Triton cannot run here"))
                value = Matching()(heatmaps, case["joints_hm"], case["visible"])
            found.append((value.detach(), *torch.autograd.grad(value, heatmaps)))
        monkeypatch.delenv("TRITON_INTERPRET")
        expected = Matching()(case["heatmaps"], case["joints_hm"], case["visible"])
        for value, gradient in found:
            assert torch.equal(value, found[0][0])
            torch.testing.assert_close(value, expected)
            assert not gradient[0, 1].any()

    def test_a_failure_after_a_success_is_not_hidden(self, monkeypatch):
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setattr(fused, "_triton", fused._Compiler("Triton", "GPU"))
        fused._triton.proven = True
        name = "posematch.transport.fused_kernel"
        broken = types.ModuleType(name)
        broken.launch = no_compiler
        monkeypatch.setitem(sys.modules, name, broken)
        monkeypatch.setattr(name, broken, raising=False)
        with pytest.raises(RuntimeError, match="C compiler"):
            SOLVERS["semidual"](special_problems(0.1, torch.float32), TOLERANCE, 1000)


def no_compiler(*arguments):
    raise RuntimeError("Failed to find C compiler.")


def compiled(height, width, relaxation, capability):
    """Registers and bytes of local memory a thread, as NVIDIA's assembler chose them."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from posematch.transport import fused_kernel

    relaxed = relaxation > 0
    arguments = {
        "supply_at": "*fp32",
        "table_at": "*fp32",
        "least_at": "*fp64" if relaxed else "*fp32",
        "places_at": "*fp64",
        "demand_at": "*fp64",
        "a_at": "*fp32",
        "b_at": "*fp64",
        "value_at": "*fp32",
        "error_at": "*fp64",
        "iterations_at": "*i64",
        "converged_at": "*u8",
        "max_iterations": "i32",
    }
    constants = {
        "height": height,
        "width": width,
        "tile": fused_kernel.TILE,
        "epsilon": 0.1,
        "relaxation": relaxation,
        "tolerance": TOLERANCE,
        "sinkhorn_steps": 2,
        "far_ratio": 7.4,
        "longest_step": 3.0,
    }
    kernel = triton.compile(
        ASTSource(fused_kernel.solve, arguments | dict.fromkeys(constants, "constexpr"), constants),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": fused_kernel.WARPS, **fused_kernel.REGISTERS},
    )
    return kernel.asm["cubin"]


def resources(cubin, folder):
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    (folder / "kernel.cubin").write_bytes(cubin)
    text = subprocess.run(
        [tool, "-res-usage", folder / "kernel.cubin"], capture_output=True, text=True, check=True
    ).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}


MAPS = ((64, 48), (64, 64), (96, 72), (128, 96))


@needs_triton
@pytest.mark.parametrize(
    ("size", "relaxation", "capability"),
    [
        ((64, 48), 0.0, 90),
        *(
            pytest.param(size, relaxation, capability, marks=pytest.mark.slow)
            for size in MAPS
            for relaxation in (0.0, 2.0)
            for capability in (80, 90)
        ),
    ],
)
def test_compiles_for_gpus_and_fits_into_registers(
    size, relaxation, capability, tmp_path, monkeypatch
):
    """Without a GPU: Triton and NVIDIA's assembler for A100 (80) and H100 (90).

    Five programs of 128 threads share a multiprocessor's 65,536 registers, and little is put away
    in local memory: 72 to 168 bytes a thread as seen, with which it was fastest on an H100.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton's interpreter compiles nothing")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    used = resources(compiled(*size, relaxation, capability), tmp_path)
    from posematch.transport import fused_kernel

    assert 5 * used["REG"] * 32 * fused_kernel.WARPS <= 65_536
    assert used["STACK"] + used["LOCAL"] <= 192
