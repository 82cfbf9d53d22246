"""Capture by Debezium: its events' keys become signals, like every other source's.

Debezium runs in a JVM inside a child process of ours and keeps nothing that we rely on: where to go on is our own
stored position. What it replays is dropped by that; what it cannot give any more is `PositionLost`.

    properties.py  PURE   what Debezium is told, and what each key column's text is
    events.py      PURE   Debezium's JSON becomes our frames (in the child)
    frames.py             frames over a pipe: keys and positions one way, confirmations the other
    child.py  jvm.py      the child: a JVM with an engine in it
    process.py            the child as its parent sees it: started, heard, killed when it hangs
    source.py             signals for the pipeline
"""
