"""A data set's folder: shows what is missing, downloads, unpacks and converts it.

The same as ``posematch prepare_data``; see --help.
"""

from posematch.app.main import script

main = script("prepare_data")

if __name__ == "__main__":
    main()
