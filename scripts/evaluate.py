"""Score a checkpoint, a prediction file or a run, by every convention side by side.

The same as ``posematch evaluate``; see --help.
"""

from posematch.app.main import script

main = script("evaluate")

if __name__ == "__main__":
    main()
