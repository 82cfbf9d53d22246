"""A party's database through a SQLAlchemy dialect: a pinned session, and what its values are as text.

`view` and `capture.polling` stand on it. PostgreSQL has its own faster road (`connector.pg`). Refuses to write.
"""
