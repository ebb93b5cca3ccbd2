"""Write a network's weights under another project's names.

The same as ``posematch export_weights``; see --help.
"""

from posematch.app.main import script

main = script("export_weights")

if __name__ == "__main__":
    main()
