"""Loss and metric by epoch, and how consistent they are.

The same as ``posematch loss_curves``; see --help.
"""

from posematch.app.main import script

main = script("loss_curves")

if __name__ == "__main__":
    main()
