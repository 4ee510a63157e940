"""The ID-aware Multi-modal Transformer: what its mask lets through, padding, the ID table, the layer that reads three tokens."""

import pytest
import torch

from odmt.features.items import Items, Tokens
from odmt.sequential.models.imt import IdAwareMultimodalTransformer
from odmt.sequential.models.packing import Packing
from odmt.sequential.models.towers import ClsTower, MoEAdaptor, TransformerTower
from odmt.sequential.models.transformer import TransformerBlock, attention_bias

NUM_ITEMS, DIM, WIDTHS = 6, 8, {"text": 5, "image": 7}
TEXT_LENGTHS, IMAGE_TOKENS = [3, 1, 4, 2], 5


def make_imt(num_layers: int = 2, id_visible: bool = False, widths=WIDTHS, with_id: bool = True) -> IdAwareMultimodalTransformer:
    torch.manual_seed(0)
    initial = torch.randn(NUM_ITEMS + 1, 9) if with_id else None
    return IdAwareMultimodalTransformer(widths, DIM, num_layers, initial, id_visible).double().eval()


def make_items(numbers: list[int], text_lengths: list[int]) -> Items:
    """Items whose features depend on their number alone."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(NUM_ITEMS + 1, max(TEXT_LENGTHS), WIDTHS["text"], generator=generator, dtype=torch.float64)
    image = torch.randn(NUM_ITEMS + 1, IMAGE_TOKENS, WIDTHS["image"], generator=generator, dtype=torch.float64)
    return Items(
        torch.tensor(numbers),
        {
            "text": Tokens(
                torch.cat([text[n, :length] for n, length in zip(numbers, text_lengths)]),
                torch.tensor(text_lengths),
                max(text_lengths),
            ),
            "image": Tokens(image[numbers].flatten(0, 1), torch.full((len(numbers),), IMAGE_TOKENS), IMAGE_TOKENS),
        },
    )


ITEMS = make_items([1, 2, 3, 4], TEXT_LENGTHS)


@pytest.mark.parametrize("num_layers", [1, 2, 4])
@pytest.mark.parametrize("id_visible", [False, True])
def test_changing_the_id_token(num_layers, id_visible):
    """Under the mask the text and image outputs know nothing of the ID; without it they do. The ID output always does."""
    imt = make_imt(num_layers, id_visible)
    with torch.no_grad():
        before = imt(ITEMS)
        imt.id_table.weight[2] += 1
        after = imt(ITEMS)
    other = [0, 2, 3]
    for source in ("text", "image"):
        assert torch.equal(before[source][1], after[source][1]) == (not id_visible)
        assert torch.equal(before[source][other], after[source][other])
    assert not torch.allclose(before["id"][1], after["id"][1])
    assert torch.equal(before["id"][other], after["id"][other])


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("changed", ["text", "image"])
@pytest.mark.parametrize("token", [0, 2])
def test_changing_a_modality_token_changes_all_outputs(num_layers, changed, token):
    """A token that is not the CLS token informs the others too."""
    imt = make_imt(num_layers)
    items = make_items([1, 2, 3, 4], TEXT_LENGTHS)
    with torch.no_grad():
        before = imt(items)
        items.features[changed].values[token] += 1  # of item 1
        after = imt(items)
    for source in ("id", "text", "image"):
        assert not torch.allclose(before[source][0], after[source][0])
        assert torch.equal(before[source][1:], after[source][1:])


def test_no_gradient_from_modality_outputs_to_the_id_table():
    imt = make_imt()
    out = imt(ITEMS)
    (out["text"].sum() + out["image"].sum()).backward(retain_graph=True)
    assert imt.id_table.weight.grad is None or imt.id_table.weight.grad.abs().sum() == 0
    out["id"].sum().backward()
    assert (imt.id_table.weight.grad.abs().sum(1) > 0).tolist() == [False, True, True, True, True, False, False]


@pytest.mark.parametrize("source", ["id", "text", "image"])
def test_an_item_does_not_depend_on_its_neighbours(source):
    """Text is padded to the longest of the batch: alone, or beside others in any order, an item is the same."""
    imt = make_imt()
    with torch.no_grad():
        together = imt(ITEMS)[source]
        shuffled = imt(make_items([4, 2, 1, 3], [2, 1, 3, 4]))[source]
        torch.testing.assert_close(shuffled, together[[3, 1, 0, 2]])
        for row, length in enumerate(TEXT_LENGTHS):
            alone = imt(make_items([row + 1], [length]))[source]
            torch.testing.assert_close(alone, together[[row]])


def test_the_order_of_tokens_behind_the_first_is_free():
    imt = make_imt()
    items = make_items([1, 3], [3, 4])
    with torch.no_grad():
        before = imt(items)
        values = items.features["text"].values
        items.features["text"].values = values[[0, 2, 1, 3, 6, 5, 4]]
        after = imt(items)
        for source in before:
            torch.testing.assert_close(before[source], after[source])
        items.features["text"].values = values[[1, 0, 2, 3, 4, 5, 6]]
        assert not torch.allclose(imt(items)["text"][0], before["text"][0])


@pytest.mark.parametrize("modalities", [("text",), ("image",), ("text", "image")])
@pytest.mark.parametrize("with_id", [True, False])
def test_any_modality_with_and_without_id(modalities, with_id):
    imt = make_imt(widths={source: WIDTHS[source] for source in modalities}, with_id=with_id)
    out = imt(ITEMS)
    assert set(out) == {*modalities, *(["id"] if with_id else [])}
    assert all(vectors.shape == (4, DIM) for vectors in out.values())


def test_the_id_table_is_a_copy():
    features = torch.randn(NUM_ITEMS + 1, 9)
    before = features.clone()
    imt = IdAwareMultimodalTransformer(WIDTHS, DIM, 1, features)
    assert torch.equal(imt.id_table.weight, features)
    assert imt.id_table.weight.requires_grad
    with torch.no_grad():
        imt.id_table.weight += 1
    assert torch.equal(features, before)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_read_is_forward_at_the_read_columns(num_heads):
    """Values and all gradients."""
    torch.manual_seed(2)
    block = TransformerBlock(DIM, num_heads, dropout=0.1).double().eval()
    lengths, width, columns = torch.tensor([4, 2, 5]), 5, [0, 1]
    packing = Packing.right_padded(lengths, 11, width)
    allowed = packing.valid()[:, None, None, :] & torch.rand(3, 1, width, width).gt(0.3)
    allowed[..., 0] = True
    bias = attention_bias(allowed, torch.float64)
    rows = torch.randn(11, DIM, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, len(columns), DIM, dtype=torch.float64)

    def gradients(out):
        return torch.autograd.grad((out * weights).sum(), [rows, *block.parameters()])

    everywhere = packing.pad(block(rows, packing, bias))[:, columns]
    grid = packing.pad(rows)
    read = block.read(grid[:, columns], grid, bias[:, :, columns].expand(-1, num_heads, -1, -1).flatten(1, 2))
    torch.testing.assert_close(read, everywhere, rtol=1e-10, atol=1e-12)
    for gradient, expected in zip(gradients(read), gradients(everywhere)):
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-11)


def test_attention_is_that_of_the_equations():
    """softmax(Q K' / sqrt(D / H)) V by loops over users, heads and queries; then both residuals and norms."""
    torch.manual_seed(3)
    num_heads, lengths = 2, [3, 2]
    block = TransformerBlock(DIM, num_heads, dropout=0.0).double()
    packing = Packing.right_padded(torch.tensor(lengths), 5, 3)
    rows = torch.randn(5, DIM, dtype=torch.float64)
    out = block(rows, packing, attention_bias(packing.valid()[:, None, None, :], torch.float64))
    size = DIM // num_heads
    for start, length in ((0, 3), (3, 2)):
        own = rows[start : start + length]
        for i in range(length):
            heads = []
            for head in range(num_heads):
                part = slice(head * size, (head + 1) * size)
                query = block.query.weight[part] @ own[i]
                scores = torch.stack([query @ (block.key.weight[part] @ row) / size**0.5 for row in own])
                heads.append(sum(weight * (block.value.weight[part] @ row) for weight, row in zip(scores.softmax(0), own)))
            hidden = block.attention_norm(own[i] + block.out(torch.cat(heads)))
            expected = block.feed_forward_norm(hidden + block.contract(block.expand(hidden).clamp(min=0)))
            torch.testing.assert_close(out[start + i], expected)


def test_dropout_in_training_only():
    imt = make_imt()
    assert torch.equal(imt(ITEMS)["id"], imt(ITEMS)["id"])
    imt.train()
    assert not torch.equal(imt(ITEMS)["id"], imt(ITEMS)["id"])


OWNERS = torch.tensor([0, 1, 1, 2, 3, 3, 3])


def test_every_vector_of_an_item_is_the_same_in_evaluation():
    imt = make_imt()
    for vectors, one in zip(imt(Items(ITEMS.numbers, ITEMS.features, OWNERS)).values(), imt(ITEMS).values()):
        torch.testing.assert_close(vectors, one[OWNERS])


@pytest.mark.parametrize("place", ["input", "blocks"])
def test_every_vector_of_an_item_has_dropout_masks_of_its_own(place):
    """On the input as in the blocks: the other kind is switched off."""
    imt = make_imt().train()
    if place == "input":
        imt.blocks.eval()
        imt.dropout.p = 0.5
    else:
        imt.dropout = torch.nn.Identity()
    for vectors in imt(Items(ITEMS.numbers, ITEMS.features, OWNERS)).values():
        assert not torch.allclose(vectors[1], vectors[2])
        assert not torch.allclose(vectors[4], vectors[6])


@pytest.mark.parametrize("place", ["attention", "output"])
def test_readers_of_one_grid_have_dropout_masks_of_their_own(place, monkeypatch):
    torch.manual_seed(2)
    block = TransformerBlock(DIM, 2, dropout=0.5).double().train()
    drop = block.dropout.forward
    # Attention weights have another last dimension than outputs.
    monkeypatch.setattr(block.dropout, "forward", lambda x: drop(x) if (x.shape[-1] == DIM) == (place == "output") else x)
    grid = torch.randn(1, 5, DIM, dtype=torch.float64).expand(2, -1, -1)
    first, second = block.read(grid[:, :1], grid, torch.zeros(2, 2, 5, dtype=torch.float64))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("source", ["text", "image"])
def test_every_copy_of_a_tower_too(source):
    torch.manual_seed(0)
    tower = TransformerTower(WIDTHS[source], DIM, 2, dropout=0.1).double().eval()
    items = Items(ITEMS.numbers, ITEMS.features, OWNERS)
    torch.testing.assert_close(tower(items, source), tower(ITEMS, source)[OWNERS])
    vectors = tower.train()(items, source)
    assert not torch.allclose(vectors[1], vectors[2])


def test_attention_with_dropout_is_that_without_but_for_the_dropout():
    """A CPU takes another way where there is dropout; so small a probability drops nothing."""
    torch.manual_seed(2)
    block = TransformerBlock(DIM, 2, dropout=1e-7).double()
    packing = Packing.right_padded(torch.tensor([4, 2, 5]), 11, 5)
    bias = attention_bias(packing.valid()[:, None, None, :] & torch.ones(5, 5, dtype=torch.bool).tril(), torch.float64)
    rows = torch.randn(11, DIM, dtype=torch.float64)
    expected = outputs_and_gradients(block.eval(), rows, packing, bias)
    torch.testing.assert_close(outputs_and_gradients(block.train(), rows, packing, bias), expected)


def outputs_and_gradients(module, *args) -> list[torch.Tensor]:
    outputs = module(*args)
    outputs = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
    loss = sum((output * torch.arange(1.0, output.numel() + 1).view(output.shape)).sum() for output in outputs)
    return [*outputs, *torch.autograd.grad(loss, list(module.parameters()))]


@pytest.mark.parametrize("owners", [None, OWNERS])
def test_filling_the_gaps_of_a_grid_changes_nothing(owners, monkeypatch):
    items = Items(ITEMS.numbers, ITEMS.features, owners)
    found = []
    for share in (0.0, 1.1):  # always, never
        monkeypatch.setattr("odmt.sequential.models.packing.WORTH_FILLING", share)
        found.append(outputs_and_gradients(make_imt(3), items))
    torch.testing.assert_close(*found)


def test_every_vector_of_an_item_has_a_gate_of_its_own():
    """The adaptor's noise is drawn for every occurrence, as where each is encoded by itself."""
    torch.manual_seed(0)
    adaptor = MoEAdaptor(WIDTHS["image"], DIM, dropout=0.0).double()
    torch.nn.init.normal_(adaptor.noise)
    first = Tokens(torch.randn(4, WIDTHS["image"], dtype=torch.float64), torch.ones(4, dtype=torch.int64), 1)
    vectors = ClsTower(adaptor).train()(Items(ITEMS.numbers, {"image": first}, OWNERS), "image")
    assert not torch.allclose(vectors[1], vectors[2])
