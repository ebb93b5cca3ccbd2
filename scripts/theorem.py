"""Theorem 1's risks and inner products by epoch.

The same as ``posematch theorem``; see --help.
"""

from posematch.app.main import script

main = script("theorem")

if __name__ == "__main__":
    main()
