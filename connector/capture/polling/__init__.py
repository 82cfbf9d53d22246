"""Capture without a log: ask the views themselves, on a schedule, and compare with what was seen last.

Promise: what was seen is remembered in the transaction that applies it, so a change is signalled until it is in.
"""
