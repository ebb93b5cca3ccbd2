"""``python -m posematch.data.matlab_process NAME ...``: reads a MATLAB file on standard input.

A process of its own, since scipy's reader, written in C, can crash on a damaged file and would take
a training along. Writes an npz to standard output: ``shape/NAME`` of every variable, and
``value/NAME`` of those that are named; cells of texts become arrays of texts.
"""

from __future__ import annotations

import sys
from io import BytesIO

import numpy as np
import scipy.io

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

_MOST_MEMORY = 2 * 2**30


def main() -> None:
    """Read, and write what was asked for; whatever goes wrong ends in an exit code."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    content = BytesIO(sys.stdin.buffer.read())
    answer = {
        f"shape/{name}": np.array(shape, dtype=np.int64)
        for name, shape, _ in scipy.io.whosmat(content)
    }
    names = sys.argv[1:]
    if names:
        content.seek(0)
        values = scipy.io.loadmat(content, variable_names=names)
        for name in names:
            value = values.get(name)
            if value is not None and value.dtype == object:
                value = np.array([str(np.squeeze(one)) for one in value.ravel()])
            if value is not None:
                answer[f"value/{name}"] = value
    written = BytesIO()
    np.savez(written, allow_pickle=False, **answer)
    sys.stdout.buffer.write(written.getvalue())


if __name__ == "__main__":
    main()
