"""Train what a run trained once more, and say whether it came out the same, to the bit.

The same as ``posematch rerun``; see --help.
"""

from posematch.app.main import script

main = script("rerun")

if __name__ == "__main__":
    main()
