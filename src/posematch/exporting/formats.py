"""The three formats: how a graph is written as one, and how that file is run again."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from posematch.errors import PosematchError, is_out_of_memory
from posematch.exporting.graph import ABOUT, INPUT, PROPERTY, Graph

Format = Literal["onnx", "torchscript", "exported_program"]
Run = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]

# Before onnxruntime is imported: from 1.29 on it tells its maker about each session otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

OPSET = 18  # of ONNX; what torch's exporter is written for
_LOGGERS = (
    *("torch.export", "torch.onnx", "torch._dynamo", "torch.fx.experimental.symbolic_shapes"),
    *("onnxscript", "onnx_ir"),
)
_MISSING = "format=onnx needs packages that are not installed: pip install 'posematch[export]'."


def check_installed(kind: Format) -> None:
    """See that what writes and runs a format is there.

    Raises
    ------
    PosematchError
        The packages of ONNX are not.
    """
    if kind == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError:
            raise PosematchError(_MISSING) from None


def written(graph: Graph, kind: Format, about: dict[str, Any]) -> bytes:
    """A graph as a file's content.

    Parameters
    ----------
    graph
        In eval mode, on the CPU.
    kind
        ``onnx``; ``torchscript``, by tracing; ``exported_program``, of torch.export.
    about
        Kept in the file as json, see `posematch.exporting.graph.about`.

    Raises
    ------
    PosematchError
        The network or the decoder does what the format has no way to say.
    """
    # Two, since torch.export takes a size of one for a constant.
    crops = torch.zeros((2, 3, *graph.model.input_size), dtype=torch.uint8)
    write = {"onnx": _onnx, "torchscript": _torchscript, "exported_program": _exported_program}
    told = json.dumps(about)
    try:
        with torch.no_grad(), _quiet():
            return write[kind](graph, crops, told)
    # Of torch's and of onnxscript's translators, of kinds of their own.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        network, decoder = graph.model.network, type(graph.model.decoder).__name__
        part = f"the decoder {decoder} or " if graph.decoded else ""
        advice = "decode=false leaves the decoder out, decoder=quarter_offset has another; "
        raise PosematchError(
            f"{part}the network {type(network).__name__} cannot be written as {kind}"
            f" ({type(error).__name__}); {advice if graph.decoded else ''}or try another format."
        ) from error


def loaded(path: Path, kind: Format) -> Run:
    """What runs a file that `written` has made, on the CPU.

    Only for files of one's own: torch's formats are programs.
    """
    if kind == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda crops: tuple(
            torch.from_numpy(one) for one in session.run(None, {INPUT: crops.numpy()})
        )
    with _quiet():
        module: Any = (
            torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
            if kind == "torchscript"
            else torch.export.load(path).module()
        )

    def run(crops: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return tuple(module(crops))

    return run


def _onnx(graph: Graph, crops: torch.Tensor, about: str) -> bytes:
    program = torch.onnx.export(
        _program(graph, crops),
        dynamo=True,
        input_names=[INPUT],
        output_names=list(graph.outputs),
        dynamic_shapes=({0: "batch"},),  # the name of the size in the file
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    # What the translators note of each node, with paths of this machine in it.
    del model.metadata_props[:]
    for one in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        del one.metadata_props[:]
    model.metadata_props.add(key=PROPERTY, value=about)
    content: bytes = model.SerializeToString()
    return content


def _torchscript(graph: Graph, crops: torch.Tensor, about: str) -> bytes:
    traced = torch.jit.trace(graph, (crops,), check_trace=False)  # type: ignore[no-untyped-call]
    content = io.BytesIO()
    torch.jit.save(traced, content, _extra_files={ABOUT: about})
    return content.getvalue()


def _exported_program(graph: Graph, crops: torch.Tensor, about: str) -> bytes:
    content = io.BytesIO()
    torch.export.save(_program(graph, crops), content, extra_files={ABOUT: about})
    return content.getvalue()


def _program(graph: Graph, crops: torch.Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(graph, (crops,), dynamic_shapes=({0: batch},))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the translators' remarks to themselves: about sizes that are constants on purpose."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)
