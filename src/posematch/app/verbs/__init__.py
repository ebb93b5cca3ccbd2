"""What ``posematch VERB`` does, a module for each; each has ``run(arguments)``.

None imports anything large before its task begins: what a command gets wrong is told by then.
"""
