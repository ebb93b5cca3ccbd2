"""Find the joints of people on photos and videos that nobody has annotated.

    posematch predict checkpoint=RUN_FOLDER input=PHOTO|FOLDER|'PATTERN'|VIDEO output=FOLDER
    posematch predict checkpoint=FILE input=photos output=out boxes=boxes.json format=parquet
    posematch predict checkpoint=FILE input=film.mp4 output=out boxes=detector heatmaps=true

Each picture is one person's unless boxes says otherwise. Stopped, the same command goes on. What
cannot be read is listed at the end. Ends with code 1 where nothing could be read. See
conf/predict.yaml and docs/predict.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from posematch.app.commands import command
from posematch.console import PlainConsole, say, tell
from posematch.inference.wanted import Wanted


@command("predict")
def run(it: Wanted) -> None:
    """Predict, write, and say what was written where."""
    # Before torch is imported.
    from pathlib import Path

    from posematch.inference.sources import find_sources
    from posematch.runs.stored_config import checkpoint_file
    from posematch.untrusted import open_checkpoint

    open_checkpoint(checkpoint_file(it.checkpoint)).close()
    output = Path(it.output).expanduser()
    find_sources(it.input, output)
    from posematch.inference.outputs import used
    from posematch.inference.predict import predict

    try:
        done = predict(it, _progress, say)
    except KeyboardInterrupt:
        tell(f"Stopped; the same command goes on. What is done is kept in {it.output}.")
        raise SystemExit(1) from None
    speed = ""
    if done.looked_at:
        speed = f" ({done.looked_at} in {done.seconds:.1f} s,"
        speed += f" {done.looked_at / max(done.seconds, 1e-9):.1f} people/s)"
    pictures = f"{done.pictures} picture{'' if done.pictures == 1 else 's'}"
    say(f"{pictures}, {done.people} {'person' if done.people == 1 else 'people'}{speed}.")
    say(f"written to {output}: {used(done.written, output)}")
    for line in done.unreadable:
        tell(line)
    if not done.read:
        raise SystemExit(1)


@contextmanager
def _progress(name: str, count: int) -> Iterator[Callable[[int, int], None]]:
    """A bar with people a second and the time left on a terminal, and nothing in a file."""
    import sys

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = PlainConsole(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(name, total=count, speed="")
        people = 0

        def tick(pictures: int, of_them: int) -> None:
            nonlocal people
            people += of_them
            elapsed = bar.tasks[task].elapsed or 0
            speed = f"{people / elapsed:.1f} people/s" if people and elapsed else ""
            bar.update(task, advance=pictures, speed=speed)

        yield tick
