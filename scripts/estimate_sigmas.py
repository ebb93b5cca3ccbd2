"""OKS sigmas of joints of one's own, from repeated labels or a run's predictions.

The same as ``posematch estimate_sigmas``; see --help.
"""

from posematch.app.main import script

main = script("estimate_sigmas")

if __name__ == "__main__":
    main()
