"""The ledger: claims of papers, reviewers and our own, each with an experiment that anybody can run.

`protocol` has the words, `ledger` the table, a module or folder a paper the claims; `verify` runs them, `result` keeps
what was found, `tables` and `plots` show it.
"""
