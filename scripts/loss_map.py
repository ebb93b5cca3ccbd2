"""Many losses at several learning rates: a table, a figure and their csv.

The same as ``posematch loss_map``; see --help.
"""

from posematch.app.main import script

main = script("loss_map")

if __name__ == "__main__":
    main()
