"""A workspace and a report at Weights & Biases for the runs of a sweep.

The same as ``posematch wandb_dashboard``; see --help.
"""

from posematch.app.main import script

main = script("wandb_dashboard")

if __name__ == "__main__":
    main()
