"""All that the paper shows, from nothing: three losses, two seeds, on the drawn people.

The same as ``posematch paper``; see --help.
"""

from posematch.app.main import script

main = script("paper")

if __name__ == "__main__":
    main()
