"""Write a run as a folder that can be passed on: weights, plain data, and a card.

The same as ``posematch publish``; see --help.
"""

from posematch.app.main import script

main = script("publish")

if __name__ == "__main__":
    main()
