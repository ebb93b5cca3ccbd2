"""Training losses by figure, as Markdown, LaTeX and csv.

The same as ``posematch ablation_table``; see --help.
"""

from posematch.app.main import script

main = script("ablation_table")

if __name__ == "__main__":
    main()
