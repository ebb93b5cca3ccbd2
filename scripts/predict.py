"""Find the joints of people on photos and videos that nobody has annotated.

The same as ``posematch predict``; see --help.
"""

from posematch.app.main import script

main = script("predict")

if __name__ == "__main__":
    main()
