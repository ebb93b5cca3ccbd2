"""A comparison of runs as one page of HTML that opens without a network.

The same as ``posematch report``; see --help.
"""

from posematch.app.main import script

main = script("report")

if __name__ == "__main__":
    main()
