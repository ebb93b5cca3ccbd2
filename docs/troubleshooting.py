"""Write the list of messages into docs/troubleshooting.md: ``python docs/troubleshooting.py``.

What is above the list is written by hand and stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from messages import Message, messages

PAGE = Path(__file__).with_name("troubleshooting.md")
MARK = "<!-- From here on made by docs/troubleshooting.py from the code. -->\n"
# Headings that a user would look under, and the rooms and files whose messages stand there; the
# first that fits.
TOPICS: Mapping[str, str] = {
    "Checks of data (check_data)": r"checks/",
    "Getting data (prepare_data)": r"data/preparing/",
    "Data and photos": r"data/|skeletons|geometry|rendering",
    "Command line and configuration": r"app/",
    "Checkpoints, weights and networks": r"networks/|model|poses|trust",
    "Losses, transport and decoders": r"losses/|transport/|decoding/|arithmetic",
    "Weights & Biases and TensorBoard": r"training/loggers|reports/dashboard",
    "Sweeps": r"training/(sweep|supervision)",
    "Processes, devices and memory": r"training/processes|processes|training/build",
    "Training": r"training/",
    "Run folders": r"runs/",
    "Scores and predictions": r"evaluation/|metrics/",
    "Tables, figures and reports": r"reports/|statistics/|anatomy/|plots",
    "Files": r"files|untrusted|console|errors",
    "Others": r"",
}


def topic(file: str) -> str:
    """Heading for the messages of a file."""
    return next(name for name, pattern in TOPICS.items() if re.match(pattern, file))


def listed(found: list[Message]) -> str:
    """The list in Markdown: a heading a topic, a line a message."""
    lines = [MARK, "## Every message", ""]
    lines += [
        f"{len({one.text for one in found})} sentences. What is filled in stands in braces:"
        " `{file}` is the name of a file. Search the page for a piece of yours without names and"
        " numbers.",
        "",
    ]
    for name in TOPICS:
        texts = sorted({one.text for one in found if topic(one.file) == name}, key=_order)
        if texts:
            lines += [f"### {name}", "", *(f"- {_escaped(text)}" for text in texts), ""]
    return "\n".join(lines)


def _order(text: str) -> tuple[str, str]:
    """By what does not depend on what is filled in."""
    return re.sub(r"\{.*?\}|\W", "", text).lower(), text


def _escaped(text: str) -> str:
    """As it is printed: nothing of it is Markdown, and what is filled in is set as code."""
    text = re.sub(r"([\\`*\[<>])", r"\\\1", text)
    return re.sub(r"\{(.*?)\}", lambda found: "`{" + found[1].replace("\\", "") + "}`", text)


def page(found: list[Message]) -> str:
    """What the page should hold."""
    by_hand = PAGE.read_text("utf-8").partition(MARK)[0]
    return by_hand + listed(found)


if __name__ == "__main__":
    PAGE.write_text(page(messages()), "utf-8")
