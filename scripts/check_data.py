"""What is wrong with a data set before it is trained on, on one page of HTML.

The same as ``posematch check_data``; see --help.
"""

from posematch.app.main import script

main = script("check_data")

if __name__ == "__main__":
    main()
