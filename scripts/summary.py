"""Tell what a network is and costs, of a configuration or a checkpoint.

The same as ``posematch summary``; see --help.
"""

from posematch.app.main import script

main = script("summary")

if __name__ == "__main__":
    main()
