"""Compute a step of a training again whose loss or gradient was not finite.

The same as ``posematch replay_step``; see --help.
"""

from posematch.app.main import script

main = script("replay_step")

if __name__ == "__main__":
    main()
