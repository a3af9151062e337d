import hashlib

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cyclepref.builder.run.ids import IdSet, pack
from cyclepref.schemas.ids import digest

IDS = [digest(n) for n in range(40)]
ids = st.lists(st.one_of(st.sampled_from(IDS), st.sampled_from(["", "a", "A" * 32, "ü" * 16, "g" * 32])))


@given(ids, ids, ids)
def test_a_set_holds_what_was_put_in_and_nothing_else(first, second, asked):
    packed = [pack(pa.array(some, pa.string())) for some in (first, second)]
    found = IdSet.of(packed[:1]).plus(packed[1:])
    column = pa.chunked_array([pa.array(asked[:2], pa.string()), pa.array(asked[2:], pa.string())])
    assert found.holds(column).to_pylist() == [id_ in first + second for id_ in asked]
    assert len(found) == len(first) + len(second)


def test_ids_that_share_their_first_half_are_told_apart():
    alike = ["0" * 16 + digest(n)[:16] for n in range(30)]
    found = IdSet.of([pack(pa.array(alike[:15]))])
    assert found.holds(pa.array(alike)).to_pylist() == [True] * 15 + [False] * 15


def test_an_id_is_packed_as_the_bytes_that_its_letters_spell():
    [packed] = pack(pa.array([IDS[0]]))
    assert b"".join(int(half).to_bytes(8, "big") for half in packed).hex() == IDS[0]
    [odd] = pack(pa.array(["a"]))
    assert odd.astype(">u8").tobytes() == hashlib.blake2b(b"a", digest_size=16).digest()


def test_a_slice_is_packed_without_what_lies_beside_it():
    column = pa.array(IDS)
    assert np.array_equal(pack(column.slice(3, 5)), pack(pa.array(IDS[3:8])))
