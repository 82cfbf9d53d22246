"""Staging: rows, audit entry and position move together or not at all.

Promise to the pipeline: inside one `Batch`, everything applied is counted by the database and balances,
and nothing of it is seen by anyone until the position has moved with it.
"""
