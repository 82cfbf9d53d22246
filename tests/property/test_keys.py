"""Keys go together and come apart without loss, and staging's SQL builds the same text as Python."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.embedded import Server
from connector.events import key_parts, source_key
from connector.mapping.program import source_key_sql

# Letters that have a meaning somewhere on the way, and any others that PostgreSQL can store.
LETTERS = st.one_of(st.sampled_from("|\\\t\n\r\"',{}%$0aA é😀"), st.characters(codec="utf-8", exclude_characters="\0"))
PARTS = st.lists(st.text(LETTERS, max_size=12), min_size=1, max_size=4)


@given(PARTS)
def test_a_key_comes_apart_into_what_it_was_made_of(parts: list[str]) -> None:
    assert key_parts(source_key(parts), len(parts)) == tuple(parts)


@given(PARTS, PARTS)
def test_different_keys_have_different_texts(one: list[str], other: list[str]) -> None:
    other = (other * len(one))[: len(one)]
    assert (source_key(one) == source_key(other)) == (one == other)


@pytest.fixture(scope="module")
def conn(staging_server: Server) -> Iterator[psycopg.Connection]:
    with psycopg.connect(staging_server.dsn(), autocommit=True) as opened:
        yield opened


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(st.text(LETTERS), min_size=width, max_size=width), min_size=1)
    )
)
def test_the_mapping_builds_the_same_text_in_sql(conn: psycopg.Connection, keys: list[list[str]]) -> None:
    names = tuple(f"i{place}" for place in range(len(keys[0])))
    arrays = ", ".join("%s::text[]" for _ in names)
    query = f"select {source_key_sql(names)} from unnest({arrays}) with ordinality k ({', '.join(names)}, n) order by n"
    columns = [[key[place] for key in keys] for place in range(len(names))]
    assert [row[0] for row in conn.execute(query.encode(), columns)] == [source_key(key) for key in keys]
