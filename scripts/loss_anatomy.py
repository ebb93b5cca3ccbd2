"""What every loss does to one heatmap: gradients, numbers, films.

The same as ``posematch loss_anatomy``; see --help.
"""

from posematch.app.main import script

main = script("loss_anatomy")

if __name__ == "__main__":
    main()
