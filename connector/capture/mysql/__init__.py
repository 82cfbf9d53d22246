"""Capture from MariaDB's and MySQL's binary log: the same promise as every capture, kept by reading key columns only.

A replication login reads the whole server's log, every column of every table in it; see the kit.
"""
