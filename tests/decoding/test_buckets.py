"""Buckets hold what they are asked to hold, and are few."""

from medmt5.decoding.buckets import bucket_length


def test_buckets_hold_their_length_waste_under_a_third_and_are_few():
    sizes = [bucket_length(n) for n in range(1, 1025)]
    assert all(n <= size for n, size in enumerate(sizes, 1))
    assert all(size - n < size / 3 for n, size in enumerate(sizes, 1) if n > 16)
    assert len(set(sizes)) == 13
    assert sizes == sorted(sizes)
