"""Write a trained model as one file for programs without posematch.

The same as ``posematch export``; see --help.
"""

from posematch.app.main import script

main = script("export")

if __name__ == "__main__":
    main()
