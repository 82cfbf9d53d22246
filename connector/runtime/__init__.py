"""Runtime: runs parties. One worker process each, under a supervisor; knows stages only by their ports."""
