"""Capture: after a position, every view key that may have changed, and the position that is then covered.

Promise to the pipeline: a key is named at least once after each committed change that can alter its row;
nothing is confirmed to the party before the pipeline says so.
"""
