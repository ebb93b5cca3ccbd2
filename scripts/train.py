"""Train, validate and score.

The same as ``posematch train``; see --help.
"""

from posematch.app.main import script

main = script("train")

if __name__ == "__main__":
    main()
