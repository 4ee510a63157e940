"""What goes to a GPU: many tensors as one buffer and back, and memory that is pinned to the byte."""

import gc

import pytest
import torch

from odmt import transfer
from odmt.features.items import Items, Tokens
from odmt.transfer import pack, pin_exactly, tensors_of, to_gpu, unpack


def test_tensors_of_every_kind_come_back_from_one_buffer():
    tensors = [
        torch.tensor([True, False, True]),
        torch.arange(5),
        torch.randn(3, 2).half(),
        torch.zeros(0, 4),
        torch.tensor(2.5, dtype=torch.float64),
        torch.randn(4, 3).T,
        torch.randn(2).bfloat16(),
    ]
    buffer = pack(tensors)
    assert buffer.dtype == torch.uint8
    assert len(buffer) < sum(tensor.nbytes for tensor in tensors) + 16 * len(tensors)
    for own, tensor in zip(unpack(buffer.clone(), tensors), tensors, strict=True):
        assert own.dtype == tensor.dtype
        assert torch.equal(own, tensor)


def test_a_batch_is_moved_in_one_copy(monkeypatch):
    """Of a CPU here, which has no pinned memory: what is packed, what is put where, and that nothing else is changed."""
    packed = []

    def pack_unpinned(tensors, pinned):
        assert pinned
        packed.append(len(tensors))
        return pack(tensors)

    monkeypatch.setattr(transfer, "pack", pack_unpinned)
    items = Items(torch.tensor([4, 2]), {"text": Tokens(torch.randn(3, 4), torch.tensor([1, 2]), 2)}, None)
    moved = to_gpu(items, torch.device("cpu"))
    assert packed == [3]
    assert [tensor.data_ptr() for tensor in tensors_of(moved)] != [tensor.data_ptr() for tensor in tensors_of(items)]
    for own, tensor in zip(tensors_of(moved), tensors_of(items), strict=True):
        assert torch.equal(own, tensor)
    assert (moved.owners, moved.features["text"].longest) == (None, 2)


class Runtime:
    """Notes what is pinned; stands in for CUDA's, which a CPU has not."""

    def __init__(self):
        self.pinned = {}

    def cudaHostRegister(self, address, size, flags):
        self.pinned[address] = size
        return 0

    def cudaHostUnregister(self, address):
        del self.pinned[address]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a runtime of its own")
def test_what_is_pinned_is_what_is_used(monkeypatch):
    """17 MB are 17 MB, and not the 32 of the next power of two; they are let go with the last view."""
    runtime = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "check_error", lambda code: None)
    table = pin_exactly(torch.empty(17_000, 500, dtype=torch.float16))
    assert list(runtime.pinned.values()) == [17_000_000]
    view = table[5:]
    del table
    gc.collect()
    assert runtime.pinned
    del view
    gc.collect()
    assert not runtime.pinned
