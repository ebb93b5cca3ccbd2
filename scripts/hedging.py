"""Where trained networks put their mass: on the joint, on its twin, or between both.

The same as ``posematch hedging``; see --help.
"""

from posematch.app.main import script

main = script("hedging")

if __name__ == "__main__":
    main()
