"""Every class of image encoder, on a small random checkpoint, against what transformers itself makes of the same images."""

import importlib.util

import numpy as np
import pytest
import torch
import transformers as tf
from checkpoints import write_bert, write_clip
from PIL import Image
from transformers import AutoModel

from odmt.errors import InputError
from odmt.features.encoders import ImageEncoder

CPU = torch.device("cpu")
SIDE = 32
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT = SIZES | {"image_size": SIDE, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
DINO = {key: value for key, value in VIT.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
SWIN = {"image_size": SIDE, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
THIN = {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128, "image_size": 64}
NAFLEX = {key: value for key, value in VIT.items() if key != "image_size"} | {"num_patches": 16}

# What stands first, and how many of the model's own tokens come before the patches.
CASES = {
    "clip": (tf.CLIPVisionConfig(**VIT), "cls", 1),
    "siglip": (tf.SiglipVisionConfig(**VIT), "pooled", 0),
    "siglip without head": (tf.SiglipVisionConfig(**VIT, vision_use_head=False), "mean", 0),
    "dinov2": (tf.Dinov2Config(**DINO), "cls", 1),
    "dinov2 with registers": (tf.Dinov2WithRegistersConfig(**DINO, num_register_tokens=4), "cls", 5),
    "dinov3": (tf.DINOv3ViTConfig(**VIT, num_register_tokens=3), "cls", 4),
    "dinov3 convnext": (tf.DINOv3ConvNextConfig(hidden_sizes=[4, 8, 8, 16], depths=[1, 1, 1, 1], image_size=64), "own pooled", 1),
    "vit": (tf.ViTConfig(**VIT), "cls", 1),
    "deit": (tf.DeiTConfig(**VIT), "cls", 1),
    "beit": (tf.BeitConfig(**VIT), "cls", 1),
    "data2vec": (tf.Data2VecVisionConfig(**VIT), "cls", 1),
    "ijepa": (tf.IJepaConfig(**VIT), "mean", 0),
    "swin": (tf.SwinConfig(**SWIN), "pooled", 0),
    "swin 2": (tf.Swinv2Config(**SWIN), "pooled", 0),
    "convnext": (tf.ConvNextConfig(**STAGES, num_stages=2, image_size=SIDE), "pooled", 0),
    "convnext 2": (tf.ConvNextV2Config(**STAGES, num_stages=2, image_size=SIDE), "pooled", 0),
    "resnet": (tf.ResNetConfig(**STAGES, embedding_size=8), "pooled", 0),
    "regnet": (tf.RegNetConfig(**STAGES, embedding_size=8), "pooled", 0),
    "efficientnet": (tf.EfficientNetConfig(**THIN), "pooled", 0),
    "pvt 2": (
        tf.PvtV2Config(hidden_sizes=[4, 4, 8, 8], num_attention_heads=[1, 1, 2, 2], depths=[1, 1, 1, 1], image_size=64), "mean", 0,
    ),
}  # fmt: skip


def write(folder, config) -> str:
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


def noise(count: int, side: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))


def expected_tokens(output, first: str, num_before: int) -> torch.Tensor:
    """[B, T, W] by the rule of this project, from the output of the library."""
    states = output.last_hidden_state
    if states.ndim == 4:  # a feature map: its rows one after the other
        states = torch.stack([states[:, :, row, column] for row in range(states.shape[2]) for column in range(states.shape[3])], 1)
    patches = states[:, num_before:]
    front = {
        "cls": lambda: states[:, 0],
        "own pooled": lambda: output.pooler_output,
        "pooled": lambda: output.pooler_output.reshape(len(states), -1),
        "mean": lambda: states.mean(1),
    }[first]()
    return torch.cat([front[:, None], patches], 1)


def check(features, expected):
    assert [tokens.dtype for tokens in features] == [np.float16] * len(features)
    for tokens, row in zip(features, expected):
        torch.testing.assert_close(torch.from_numpy(tokens).float(), row, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_tokens_of_every_class(tmp_path, name):
    config, first, num_before = CASES[name]
    folder = write(tmp_path / "encoder", config)
    encoder = ImageEncoder(folder, CPU)
    pixels = noise(3, encoder.image_size)
    features = encoder.encode(pixels)
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        output = model((pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
    check(features, expected_tokens(output, first, num_before))
    header = encoder.header
    assert (header.max_tokens, header.width) == features[0].shape
    said = {"cls": "CLS", "own pooled": "pooled output, as the model has it", "pooled": "pooled output put in front"}
    assert said.get(first, "mean put in front") in header.layer
    assert ("registers left out" in header.layer) == (name in ("dinov2 with registers", "dinov3"))
    assert header.preprocessing == (
        f"RGB, {encoder.image_size}x{encoder.image_size} (bilinear, aspect not kept), [0, 1], mean 0.5, std 0.5"
    )


def test_networks_of_any_size_take_what_their_kind_is_trained_with(tmp_path):
    assert ImageEncoder(write(tmp_path / "resnet", CASES["resnet"][0]), CPU).image_size == 224
    assert ImageEncoder(write(tmp_path / "vit", CASES["vit"][0]), CPU).image_size == SIDE


def siglip(folder, kind: str):
    torch.manual_seed(0)
    text = {"vocab_size": 50, "max_position_embeddings": 16, **SIZES}
    if kind == "siglip2":
        model = tf.Siglip2Model(tf.Siglip2Config(text_config=text, vision_config=NAFLEX))
    else:
        model = tf.SiglipModel(tf.SiglipConfig(text_config=text, vision_config=VIT))
    model.save_pretrained(folder)
    return model.eval()


def test_of_several_towers_the_one_for_images_is_taken(tmp_path):
    model = siglip(tmp_path / "siglip", "siglip")
    encoder = ImageEncoder(str(tmp_path / "siglip"), CPU)
    pixels = noise(2, SIDE)
    with torch.no_grad():
        output = model.vision_model((pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
    check(encoder.encode(pixels), expected_tokens(output, "pooled", 0))


@pytest.mark.parametrize("preprocessing", ["paper", "own"])
def test_siglip_2_takes_patches_of_any_aspect(tmp_path, preprocessing):
    model = siglip(tmp_path / "siglip2", "siglip2").vision_model
    processor = tf.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    processor.save_pretrained(tmp_path / "siglip2")
    encoder = ImageEncoder(str(tmp_path / "siglip2"), CPU, preprocessing)
    assert encoder.image_size == SIDE  # 4 x 4 patches of 8
    if preprocessing == "paper":
        pixels = noise(2, SIDE)
        features, images = encoder.encode(pixels), [Image.fromarray(image) for image in pixels.numpy()]
    else:
        images = [Image.fromarray(noise(1, 64)[0].numpy()).resize(size) for size in ((64, 64), (90, 40), (20, 70))]
        features = encoder.encode([encoder.process(image) for image in images])
    for image, tokens in zip(images, features):
        inputs = processor(images=[image], return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs)
        num_patches = int(inputs["pixel_attention_mask"].sum())
        expected = torch.cat([output.pooler_output[:, None], output.last_hidden_state[:, :num_patches]], 1)
        check([tokens], expected)
    assert encoder.header.max_tokens == 17


PROCESSORS = {
    "clip": tf.CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": SIDE, "width": SIDE}),
    "siglip": tf.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}),
    "dinov2": tf.BitImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": SIDE, "width": SIDE}),
    "vit": tf.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=[0.4, 0.5, 0.6], resample=3),
    "beit": tf.BeitImageProcessorPil(size={"height": 40, "width": 40}, crop_size={"height": SIDE, "width": SIDE}),
    "swin": tf.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_std=[0.2, 0.3, 0.4]),
    "convnext": tf.ConvNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_pct=0.875),
    "resnet": tf.ConvNextImageProcessorPil(size={"shortest_edge": 64}, crop_pct=0.9),
    "efficientnet": tf.EfficientNetImageProcessorPil(size={"height": 64, "width": 64}),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_checkpoints_own_preprocessing(tmp_path, name):
    config, first, num_before = CASES[name]
    folder = write(tmp_path / "encoder", config)
    PROCESSORS[name].save_pretrained(folder)
    encoder = ImageEncoder(folder, CPU, "own")
    images = [Image.fromarray(noise(1, 80)[0].numpy()).resize(size) for size in ((80, 80), (100, 50), (40, 77))]
    features = encoder.encode([encoder.process(image) for image in images])
    model = AutoModel.from_pretrained(folder).eval()
    for image, tokens in zip(images, features):
        with torch.no_grad():
            output = model(PROCESSORS[name](images=image, return_tensors="pt")["pixel_values"])
        check([tokens], expected_tokens(output, first, num_before))
    assert all(len(tokens) <= encoder.header.max_tokens for tokens in features)
    said = encoder.header.preprocessing
    assert said.startswith("RGB, the checkpoint's own image processor: {")
    assert '"image_mean": ' in said
    assert "preprocessing" in encoder.header.differing_keys(ImageEncoder(folder, CPU).header)
    changed = PROCESSORS[name].to_dict()
    type(PROCESSORS[name])(**changed | {"image_mean": [0.1, 0.1, 0.1]}).save_pretrained(folder)
    assert ImageEncoder(folder, CPU, "own").header.differing_keys(encoder.header) == ["preprocessing"]


def test_images_of_several_sizes_go_through_together(tmp_path):
    folder = write(tmp_path / "resnet", CASES["resnet"][0])
    tf.ConvNextImageProcessorPil(do_resize=False, do_center_crop=False).save_pretrained(folder)
    encoder = ImageEncoder(folder, CPU, "own")
    images = [Image.fromarray(noise(1, 64)[0].numpy()).resize(size) for size in ((64, 64), (96, 32), (64, 64), (32, 96))]
    arrays = [encoder.process(image) for image in images]
    for together, alone in zip(encoder.encode(arrays), arrays):
        np.testing.assert_allclose(together, encoder.encode([alone])[0], rtol=1e-2, atol=1e-3)


def test_no_image_processor(tmp_path):
    folder = write(tmp_path / "vit", CASES["vit"][0])
    with pytest.raises(InputError, match=r"no image processor.*preprocessor_config\.json.*--image-preprocessing paper"):
        ImageEncoder(folder, CPU, "own")


def test_headers_of_the_papers_encoder_stay_what_they_were(tmp_path):
    header = ImageEncoder(str(write_clip(tmp_path / "clip")), CPU).header
    assert header.layer == "last hidden state, before the final layer norm; CLS, then patches"
    assert header.preprocessing == "RGB, 32x32 (bilinear, aspect not kept), [0, 1], mean 0.5, std 0.5"
    assert (header.width, header.max_tokens, header.dtype, header.version) == (16, 5, "float16", 1)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (tf.DistilBertConfig(dim=16, hidden_dim=32, n_layers=1, n_heads=2, vocab_size=50), "distilbert"),
        (tf.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50), "gpt2"),
        (tf.WhisperConfig(d_model=16, encoder_layers=1, decoder_layers=1, vocab_size=50, pad_token_id=0), "whisper"),
    ],
)
def test_what_is_no_vision_model_is_refused_by_its_type(tmp_path, config, kind):
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"of type '{kind}'; needed: a vision model, such as CLIP, .*DINOv3.*timm"):
        ImageEncoder(str(tmp_path), CPU)


def test_a_text_encoder_is_no_vision_model(tmp_path):
    with pytest.raises(InputError, match="of type 'bert'; needed: a vision model"):
        ImageEncoder(str(write_bert(tmp_path / "bert")), CPU)


def test_a_model_that_hides_patches_at_random_is_refused(tmp_path):
    folder = write(tmp_path / "mae", tf.ViTMAEConfig(**VIT, decoder_hidden_size=16, decoder_num_hidden_layers=1))
    with pytest.raises(InputError, match="type 'vit_mae' gives other features each time"):
        ImageEncoder(folder, CPU)


def test_a_model_of_videos_is_refused(tmp_path):
    folder = write(tmp_path / "videomae", tf.VideoMAEConfig(**VIT, num_frames=2, tubelet_size=1))
    with pytest.raises(InputError, match="type 'videomae' does not encode a single image"):
        ImageEncoder(folder, CPU)


def test_a_classifier_without_pooler_has_all_that_is_asked_for(tmp_path):
    torch.manual_seed(0)
    tf.ViTForImageClassification(CASES["vit"][0]).save_pretrained(tmp_path / "vit")
    assert ImageEncoder(str(tmp_path / "vit"), CPU).header.max_tokens == 17


def test_a_library_that_is_missing_is_named(tmp_path):
    if importlib.util.find_spec("timm"):
        pytest.skip("timm is installed")
    (tmp_path / "config.json").write_text('{"model_type": "timm_wrapper", "architecture": "resnet18"}')
    with pytest.raises(InputError, match=r"needs a library that is not installed: .*timm"):
        ImageEncoder(str(tmp_path), CPU)


TIMM = {
    "vit_tiny_patch16_224": ("cls", 1),
    "vit_small_patch14_reg4_dinov2": ("cls", 5),
    "resnet18": ("pooled", 0),
    "convnext_atto": ("pooled", 0),
}


@pytest.mark.parametrize("architecture", TIMM)
def test_timm(tmp_path, architecture):
    pytest.importorskip("timm", reason="timm is not installed")
    folder = write(tmp_path / "timm", tf.TimmWrapperConfig(architecture=architecture))
    encoder = ImageEncoder(folder, CPU)
    pixels = noise(2, encoder.image_size)
    with torch.no_grad():
        output = AutoModel.from_pretrained(folder).eval()((pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
    check(encoder.encode(pixels), expected_tokens(output, *TIMM[architecture]))
