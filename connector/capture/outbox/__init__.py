"""Capture through a change table that triggers fill, in the party's own transactions: key columns only.

Promise: a noted change is handed over until it is applied, whatever order the party's transactions commit in; only then
is its note removed, and no note that was not handed over ever is.
"""
