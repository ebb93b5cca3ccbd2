"""Make a trained network's scores probabilities, fitted on its held-out people.

The same as ``posematch calibrate``; see --help.
"""

from posematch.app.main import script

main = script("calibrate")

if __name__ == "__main__":
    main()
