"""``python -m posematch VERB ...``."""

from __future__ import annotations

from posematch.app.main import main

if __name__ == "__main__":
    main()
