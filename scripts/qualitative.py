"""Heatmaps of two runs next to each other, at the joints where they differ most.

The same as ``posematch qualitative``; see --help.
"""

from posematch.app.main import script

main = script("qualitative")

if __name__ == "__main__":
    main()
