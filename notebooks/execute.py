"""Run the notebooks and keep their outputs: ``python notebooks/execute.py [NAME ...]``.

What differs from run to run for no reason is taken out: times, names of temporary folders,
warnings.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent
# Temporary folders of any machine, and how fast this one was.
NOISE = (
    (re.compile(r"(?:/[\w.-]+)+/tmp\w{6,10}(?=/)"), "WORK"),
    (re.compile(r"\s*train/images_per_second \S+"), ""),
)


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of its code as it is now."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        resources={"metadata": {"path": path.parent}},
        record_timing=False,
    )
    client.execute()
    return notebook


def quieted(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same without noise; in place."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata = {}
        cell.outputs = _joined([one for one in cell.outputs if one.get("name") != "stderr"])
        for output in cell.outputs:
            output.get("metadata", {}).clear()
            if "text" in output:
                output.text = _without_noise(output.text)
            for kind, content in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output.data[kind] = _without_noise(content)
                elif kind == "image/png":
                    output.data[kind] = _smaller(content)
    return notebook


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """What was printed in pieces as one."""
    joined: list[nbformat.NotebookNode] = []
    for one in outputs:
        if joined and one.output_type == joined[-1].output_type == "stream":
            joined[-1].text += one.text
        else:
            joined.append(one)
    return joined


def _without_noise(text: str) -> str:
    for pattern, instead in NOISE:
        text = pattern.sub(instead, text)
    return text


def _smaller(png: str) -> str:
    """A picture of 256 colours, in base 64: a third of the size, and hardly to be told."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    written = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(written, "png", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


if __name__ == "__main__":
    source = str(FOLDER.parent / "src")
    os.environ["PYTHONPATH"] = os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])
    for name in sys.argv[1:] or sorted(one.name for one in FOLDER.glob("*.ipynb")):
        done = quieted(execute(FOLDER / name))
        nbformat.write(done, FOLDER / name)
        print(f"{name}: {(FOLDER / name).stat().st_size / 1024:.0f} KiB")
