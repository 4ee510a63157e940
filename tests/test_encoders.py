import shutil

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from checkpoints import write_bert, write_clip
from safetensors.torch import load_file, save_file
from transformers import BertModel, CLIPModel

from odmt.errors import InputError
from odmt.features.encoders import ImageEncoder, TextEncoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("bert"))


def random_pixels(count: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8))


def edit_weights(source, target, change) -> str:
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def test_image_features_are_the_last_layer_before_the_final_norm(clip):
    pixels = random_pixels(3)
    features = ImageEncoder(str(clip), CPU).encode(pixels)
    assert [(tokens.shape, tokens.dtype) for tokens in features] == [((5, 16), np.float16)] * 3  # CLS + 2 x 2 patches
    tower = CLIPModel.from_pretrained(clip).eval().vision_model
    scaled = (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        output = tower(scaled, output_hidden_states=True)
        torch.testing.assert_close(torch.tensor(np.stack(features)).float(), output.hidden_states[-1], rtol=1e-3, atol=1e-3)
        # CLIP's pooled output is the final norm of the CLS token: what is stored stands before it.
        cls = torch.tensor(np.stack(features))[:, 0].float()
        torch.testing.assert_close(tower.post_layernorm(cls), output.pooler_output, rtol=1e-2, atol=1e-2)
        assert (cls - output.pooler_output).abs().max() > 0.1


def test_image_header_is_read_off_the_checkpoint(tmp_path):
    wide = write_clip(tmp_path / "wide", width=32, image_size=48, patch_size=16)
    header = ImageEncoder(str(wide), CPU).header
    assert (header.width, header.max_tokens, header.modality) == (32, 10, "image")
    assert "48x48" in header.preprocessing


def test_text_features_are_the_last_layer_without_padding(bert):
    texts = ["a red shirt", "blue", "a a a a a a a a a a a a"]
    encoder = TextEncoder(str(bert), 8, CPU)
    features = encoder.encode(texts)
    assert [len(tokens) for tokens in features] == [5, 3, 8]  # [CLS], words, [SEP], cut to 8
    model = BertModel.from_pretrained(bert).eval()
    for text, tokens in zip(texts, features):
        alone = encoder.tokenizer(text, truncation=True, max_length=8, return_tensors="pt")
        assert alone["input_ids"][0, 0] == encoder.tokenizer.cls_token_id
        with torch.no_grad():
            expected = model(**alone).last_hidden_state[0]
        torch.testing.assert_close(torch.tensor(tokens).float(), expected, rtol=1e-3, atol=1e-3)


def test_half_precision_checkpoints_are_computed_in_single(tmp_path, clip):
    half = edit_weights(clip, tmp_path / "half", lambda weights: weights.update({k: v.half() for k, v in weights.items()}))
    model = ImageEncoder(half, CPU).model
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_fingerprint_tells_checkpoints_apart_and_knows_copies(tmp_path, bert):
    header = TextEncoder(str(bert), 8, CPU).header
    moved = shutil.copytree(bert, tmp_path / "moved")
    assert TextEncoder(str(moved), 8, CPU).header == header
    other = TextEncoder(str(write_bert(tmp_path / "other", seed=1)), 8, CPU).header
    assert other.differing_keys(header) == ["weights"]
    lines = (bert / "vocab.txt").read_text().splitlines()
    lines[5:7] = lines[6], lines[5]
    (moved / "vocab.txt").write_text("\n".join(lines))
    assert TextEncoder(str(moved), 8, CPU).header.differing_keys(header) == ["weights"]


def test_the_folder_above_checkpoints_names_them(tmp_path, clip, bert):
    shutil.copytree(clip, tmp_path / "all" / "clip")
    shutil.copytree(bert, tmp_path / "all" / "bert")
    for encoder, args in ((ImageEncoder, (CPU,)), (TextEncoder, (8, CPU))):
        with pytest.raises(InputError, match=r"all: no checkpoint of .*, but holds some: name .*all/bert or .*all/clip$"):
            encoder(str(tmp_path / "all"), *args)


def test_what_is_no_checkpoint_is_refused(tmp_path, clip, bert, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no checkpoint of CLIPVisionModel"):
        ImageEncoder(str(tmp_path / "empty"), CPU)
    with pytest.raises(InputError, match=r"tokenizer has 2 tokens, the model 50"):  # it has a text tower, but no vocabulary
        TextEncoder(str(clip), 8, CPU)
    cut = shutil.copytree(bert, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(InputError, match="cut: no checkpoint"):
        TextEncoder(str(cut), 8, CPU)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"nobody/nothing: no checkpoint.*hub"):
        TextEncoder("nobody/nothing", 8, CPU)


def test_a_path_without_a_folder_is_not_looked_for_on_the_hub(tmp_path, bert, monkeypatch):
    monkeypatch.setattr("odmt.features.checkpoints._reach_hub", None)
    (tmp_path / "minilm").mkdir()
    with pytest.raises(InputError, match=r"/miniml: no such folder; beside it there are .*minilm"):
        TextEncoder(str(tmp_path / "miniml"), 8, CPU)
    with pytest.raises(InputError, match=r"^data/demo/encoders/nothing: no such folder.*; scripts/demo.py makes it$"):
        TextEncoder("data/demo/encoders/nothing", 8, CPU)
    with pytest.raises(InputError, match=r"vocab.txt: a file; name the folder of the checkpoint, such as .*bert"):
        TextEncoder(str(bert / "vocab.txt"), 8, CPU)


def test_missing_weight_is_never_left_at_random(tmp_path, clip):
    partial = edit_weights(clip, tmp_path / "partial", lambda w: w.pop("vision_model.encoder.layers.1.mlp.fc1.weight"))
    with pytest.raises(InputError, match=r"1 weights are not in it, .*layers\.1\.mlp\.fc1\.weight"):
        ImageEncoder(partial, CPU)


def test_missing_vocabulary_is_never_replaced_by_an_empty_one(tmp_path, bert):
    bare = shutil.copytree(bert, tmp_path / "bare")
    (bare / "vocab.txt").unlink()
    with pytest.raises(InputError, match=r"tokenizer has 5 tokens.*vocab\.txt"):
        TextEncoder(str(bare), 8, CPU)


def test_features_that_are_not_finite_are_refused(tmp_path, clip):
    broken = edit_weights(clip, tmp_path / "nan", lambda w: w["vision_model.embeddings.class_embedding"].fill_(float("nan")))
    with pytest.raises(InputError, match="not finite"):
        ImageEncoder(broken, CPU).encode(random_pixels(1))


@pytest.mark.parametrize("max_tokens", [2, 65])
def test_token_limit_fits_the_model(bert, max_tokens):
    with pytest.raises(InputError, match=f"--max-text-tokens {max_tokens}: .* 3 to 64"):
        TextEncoder(str(bert), max_tokens, CPU)
