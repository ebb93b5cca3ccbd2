"""Compare two runs, or two prediction files: differences with intervals, people who differ most.

The same as ``posematch compare``; see --help.
"""

from posematch.app.main import script

main = script("compare")

if __name__ == "__main__":
    main()
