"""PROMISE: what a monitor may know, over HTTP. It sees the daemon through tables alone.

A process of its own beside the workers: it can crash, hang or be absent, and no party notices. Names and counts only:
no cell, no key, no error text. It changes nothing; a request never reaches a database.
"""
