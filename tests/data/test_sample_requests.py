import numpy as np
import torch

from cbam_lightning.data.sample_requests import SampleRequest, SampleRequests, positions_of, seeds_of

LARGE = 2**64 - 1
BATCH = SampleRequests(np.array([4, 0, 9]), np.array([7, LARGE, 8], dtype=np.uint64))


def test_requests_are_a_sequence_of_plain_numbers():
    single = [SampleRequest(4, 7), SampleRequest(0, LARGE), SampleRequest(9, 8)]
    assert list(BATCH) == single
    assert (BATCH[1], list(BATCH[1:]), len(BATCH)) == (single[1], single[1:], 3)
    assert all(type(value) is int for request in (*BATCH, BATCH[0]) for value in request)
    assert SampleRequests(BATCH.positions.copy(), BATCH.seeds.copy()) == BATCH
    assert BATCH[:2] != BATCH
    assert single != BATCH


def test_arrays_and_lists_give_the_same():
    for requests in (BATCH, list(BATCH)):
        assert positions_of(requests).tolist() == [4, 0, 9]
        assert seeds_of(requests).tolist() == [7, LARGE, 8]
    assert positions_of([3, 1]).tolist() == [3, 1]
    assert (positions_of([]).dtype, seeds_of([]).dtype) == (np.int64, np.uint64)


def test_bare_positions_draw_their_seeds():
    torch.manual_seed(1)
    fresh = torch.randint(2**63 - 1, (2,)).tolist()
    torch.manual_seed(1)
    assert seeds_of([5, SampleRequest(0, 3)]).tolist() == [2 * fresh[0], 3]
