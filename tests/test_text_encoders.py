"""Every class of text encoder, on a small random checkpoint, against what transformers itself makes of the same texts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from checkpoints import write_bert, write_clip
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from odmt.errors import InputError
from odmt.features.encoders import TextEncoder, TextForm

CPU = torch.device("cpu")
TEXTS = ["a red shirt", "blue", "a blue shirt and a red shirt and a blue shirt again"]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}
DISTIL = {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2, "vocab_size": 40, "max_position_embeddings": 32}
T5 = {"d_model": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2, "d_kv": 8, "vocab_size": 40}
BY_PAD_1 = SIZES | {"max_position_embeddings": 34, "pad_token_id": 1}  # the first two positions are padding's
MODERN = SIZES | {
    "max_position_embeddings": 32,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "cls_token_id": 0,
    "sep_token_id": 2,
}

# What stands first by default, and the most tokens of a text.
CASES = {
    "roberta": (tf.RobertaConfig(**BY_PAD_1), "cls", 32),
    "xlm-roberta": (tf.XLMRobertaConfig(**BY_PAD_1), "cls", 32),
    "camembert": (tf.CamembertConfig(**BY_PAD_1), "cls", 32),
    "mpnet": (tf.MPNetConfig(**BY_PAD_1), "cls", 32),
    "distilbert": (tf.DistilBertConfig(**DISTIL), "cls", 32),
    "electra": (tf.ElectraConfig(**SIZES, embedding_size=16, max_position_embeddings=32), "cls", 32),
    "albert": (tf.AlbertConfig(**SIZES, embedding_size=8, max_position_embeddings=32), "cls", 32),
    "deberta": (tf.DebertaConfig(**SIZES, max_position_embeddings=32), "cls", 32),
    "deberta 2": (tf.DebertaV2Config(**SIZES, max_position_embeddings=32, relative_attention=True), "cls", 32),
    "modernbert": (tf.ModernBertConfig(**MODERN), "cls", 32),
    "t5": (tf.T5Config(**T5), "mean", 1 << 16),
    "mt5": (tf.MT5Config(**T5), "mean", 1 << 16),
}


def write_tokenizer(folder, first: str | None = "<s>", end: str = "</s>", lower: bool = False):
    """Words of a small vocabulary between the special tokens of a kind of model."""
    words = ["a", "red", "blue", "shirt", "and", "again", "query", ":", "Red", "Blue"]
    vocabulary = dict.fromkeys([first or "<bos>", "<pad>", end, "<unk>", *words])
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    template = f"{first} $A {end}" if first else f"$A {end}"
    special = [(token, tokenizer.token_to_id(token)) for token in (first, end) if token]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    kinds = {"pad_token": "<pad>", "unk_token": "<unk>", "sep_token": end, "eos_token": end}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **kinds, **({"cls_token": first} if first else {})).save_pretrained(folder)


def write(folder, config, **tokenizer) -> str:
    torch.manual_seed(0)
    kind = tf.T5EncoderModel if config.model_type == "t5" else tf.MT5EncoderModel if config.model_type == "mt5" else AutoModel
    (kind(config) if config.is_encoder_decoder else AutoModel.from_config(config)).save_pretrained(folder)
    write_tokenizer(folder, **tokenizer)
    return str(folder)


def alone(folder, text: str, max_tokens: int) -> torch.Tensor:
    """The last hidden state [T, W] of one text by the library, without padding."""
    config = tf.AutoConfig.from_pretrained(folder)
    kind = {"t5": tf.T5EncoderModel, "mt5": tf.MT5EncoderModel}.get(config.model_type, AutoModel)
    tokens = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=max_tokens, return_tensors="pt")
    with torch.no_grad():
        return kind.from_pretrained(folder).eval()(tokens["input_ids"]).last_hidden_state[0]


def check(tokens, expected):
    assert tokens.dtype == np.float16
    torch.testing.assert_close(torch.from_numpy(tokens).float(), expected, rtol=2e-3, atol=2e-3)


def with_mean(states: torch.Tensor) -> torch.Tensor:
    return torch.cat([states.mean(0, keepdim=True), states])


@pytest.mark.parametrize("name", CASES)
def test_tokens_of_every_class(tmp_path, name):
    config, first, longest = CASES[name]
    folder = write(tmp_path / "encoder", config, first="<s>" if first == "cls" else None)
    encoder = TextEncoder(folder, 8, CPU)
    assert not encoder.lower_case
    features = encoder.encode(TEXTS)
    for text, tokens in zip(TEXTS, features):
        states = alone(folder, text, 8)
        check(tokens, states if first == "cls" else with_mean(states))
    assert encoder.header.max_tokens == max(map(len, features)) == 8 + (first == "mean")
    said = "<s>" if first == "cls" else "mean of the tokens"
    assert encoder.header.layer == f"last hidden state; {said} first, padding left out"
    assert encoder.header.preprocessing == "fields joined by one space, case kept, cut to 8 tokens"
    with pytest.raises(
        InputError, match=rf"--max-text-tokens {longest + 1}: .* takes {3 if first == 'cls' else 2} to {longest} tokens"
    ):
        TextEncoder(folder, longest + 1, CPU)


@pytest.mark.parametrize("name", ["roberta", "t5"])
def test_the_mean_is_put_in_front(tmp_path, name):
    config, first, _ = CASES[name]
    folder = write(tmp_path / "encoder", config, first="<s>" if first == "cls" else None)
    encoder = TextEncoder(folder, TextForm(8, "mean"), CPU)
    for text, tokens in zip(TEXTS, encoder.encode(TEXTS)):
        check(tokens, with_mean(alone(folder, text, 8)))
    assert encoder.header.max_tokens == 9
    assert encoder.header.layer == "last hidden state; mean of the tokens first, padding left out"


def test_an_encoder_without_cls_token_has_none(tmp_path):
    folder = write(tmp_path / "t5", CASES["t5"][0], first=None)
    with pytest.raises(InputError, match=r"--first-token cls: .* of type 't5', puts no CLS token first; take mean"):
        TextEncoder(folder, TextForm(8, "cls"), CPU)


@pytest.mark.parametrize(("name", "said", "other"), [("roberta", "bert", "RobertaModel"), ("mpnet", "roberta", "MPNetModel")])
def test_a_type_that_the_weights_contradict_is_refused(tmp_path, name, said, other):
    file = Path(write(tmp_path / "encoder", CASES[name][0]), "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": said}))
    with pytest.raises(InputError, match=rf"model_type '{said}', but architectures .* a {other}, whose type is '{name}'"):
        TextEncoder(str(file.parent), TextForm(8, "cls"), CPU)


@pytest.mark.parametrize("layout", ["of today", "of a version before", "in a folder of its own"])
@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_a_sentence_encoder_says_itself_what_stands_first(tmp_path, mode, layout):
    folder = tmp_path / "encoder"
    inner = folder / "0_Transformer" if layout == "in a folder of its own" else folder
    write(inner, CASES["xlm-roberta"][0])
    modules = [
        {
            "idx": 0,
            "name": "0",
            "path": "" if inner == folder else "0_Transformer",
            "type": "sentence_transformers.models.Transformer",
        },
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_cls_token": mode == "cls", "pooling_mode_mean_tokens": mode == "mean"}
    if layout == "of today":
        pooling = {"embedding_dimension": 16, "pooling_mode": mode}
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps(pooling | {"pooling_mode_max_tokens": False, "include_prompt": True})
    )
    encoder = TextEncoder(str(folder), 8, CPU)
    for text, tokens in zip(TEXTS, encoder.encode(TEXTS)):
        states = alone(inner, text, 8)
        check(tokens, with_mean(states) if mode == "mean" else states)
    other = {"mean": "cls", "cls": "mean"}[mode]
    assert TextEncoder(str(folder), TextForm(8, other), CPU).header.differing_keys(encoder.header) == ["layer", "max_tokens"]
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True})
    )
    with pytest.raises(InputError, match=r"by max_tokens and mean, neither cls nor mean.*--first-token"):
        TextEncoder(str(folder), 8, CPU)
    TextEncoder(str(folder), TextForm(8, "mean"), CPU)


def test_prefix_and_case(tmp_path):
    folder = write(tmp_path / "cased", CASES["roberta"][0])
    encoder = TextEncoder(folder, TextForm(10, prefix="query: "), CPU)
    (tokens,) = encoder.encode(["Red shirt"])
    check(tokens, alone(folder, "query: Red shirt", 10))
    assert encoder.header.preprocessing == "fields joined by one space, case kept, 'query: ' put before, cut to 10 tokens"
    for lower_case, expected in (("auto", False), ("yes", True), ("no", False)):
        assert TextEncoder(folder, TextForm(10, lower_case=lower_case), CPU).lower_case == expected
    uncased = write(tmp_path / "uncased", CASES["roberta"][0], lower=True)
    for lower_case, expected in (("auto", True), ("yes", True), ("no", False)):
        assert TextEncoder(uncased, TextForm(10, lower_case=lower_case), CPU).lower_case == expected
    said = TextEncoder(uncased, 10, CPU).header.preprocessing
    assert said == "fields joined by one space, lower-cased, cut to 10 tokens"


def test_unknown_tokens_are_counted_where_there_are_many(tmp_path):
    encoder = TextEncoder(write(tmp_path / "roberta", CASES["roberta"][0]), TextForm(8, prefix="query: "), CPU)
    encoder.encode(["a red shirt and a blue shirt"] * 2)
    assert encoder.unknown.noticeable() is None
    encoder.encode(["red", "a toy story"])
    assert encoder.unknown.noticeable() is None, "a tenth: 2 of 6 + 6 + 3 + 5"
    encoder.encode(["toy"])
    assert encoder.unknown.noticeable() == (3 / 23, "a toy story")
    # CLIP's unknown token is also the one that ends every text, which says nothing; of bytes none is unknown.
    for unknown, said in (("</s>", None), (None, None), ("<unk>", (0.5, "toy"))):
        folder = tmp_path / str(unknown)[:2].strip("<")
        path = Path(write(folder, CASES["roberta"][0])) / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"unk_token": unknown}))
        encoder = TextEncoder(str(folder), 8, CPU)
        encoder.encode(["red", "toy"])
        assert encoder.unknown.noticeable() == said, unknown


def test_headers_of_the_papers_encoder_stay_what_they_were(tmp_path):
    encoder = TextEncoder(str(write_bert(tmp_path / "bert")), 30, CPU)
    assert encoder.lower_case
    assert encoder.header.layer == "last hidden state; [CLS] first, padding left out"
    assert encoder.header.preprocessing == "fields joined by one space, lower-cased, cut to 30 tokens"
    assert (encoder.header.width, encoder.header.max_tokens) == (16, 30)


def test_clips_text_tower(tmp_path):
    folder = tmp_path / "clip"
    write_clip(folder)
    write_tokenizer(folder, first=None)
    encoder = TextEncoder(str(folder), 8, CPU)
    tower = tf.CLIPModel.from_pretrained(folder).eval().text_model
    for text, tokens in zip(TEXTS, encoder.encode(TEXTS)):
        ids = encoder.tokenizer(text, truncation=True, max_length=8, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            output = tower(ids)
        check(tokens, torch.cat([output.pooler_output, output.last_hidden_state[0]]))
    assert encoder.header.layer == "last hidden state; pooled output first, padding left out"
    assert encoder.header.max_tokens == 9


@pytest.mark.parametrize("version", [1, 2])
def test_siglips_text_tower_sees_texts_padded_to_their_full_length(tmp_path, version):
    torch.manual_seed(0)
    vision = {key: SIZES[key] for key in list(SIZES)[:4]} | {"patch_size": 8}
    text = SIZES | {"max_position_embeddings": 16, "pad_token_id": 1, "projection_size": 16}
    kind, configs = (tf.SiglipModel, tf.SiglipConfig) if version == 1 else (tf.Siglip2Model, tf.Siglip2Config)
    whole = kind(configs(text_config=text, vision_config=vision))
    whole.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, first=None)
    encoder = TextEncoder(str(tmp_path), 8, CPU)
    tower = whole.eval().text_model
    for text, tokens in zip(TEXTS, encoder.encode(TEXTS)):
        ids = encoder.tokenizer(text, truncation=True, max_length=8)["input_ids"]
        padded = torch.tensor([ids + [1] * (16 - len(ids))])
        with torch.no_grad():
            output = tower(padded)
        check(tokens, torch.cat([output.pooler_output, output.last_hidden_state[0, : len(ids)]]))
    assert encoder.header.layer == "last hidden state; pooled output first, padding left out"


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (tf.ViTConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2), "vit"),
        (tf.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40), "gpt2"),
        (tf.LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=40), "llama"),
        (tf.BartConfig(d_model=16, encoder_layers=1, decoder_layers=1, vocab_size=40), "bart"),
        (tf.FunnelConfig(d_model=16, n_head=2, d_head=8, block_sizes=[1, 1], vocab_size=40), "funnel"),
    ],
)
def test_what_is_no_text_encoder_is_refused_by_its_type(tmp_path, config, kind):
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"of type '{kind}'; needed: a text encoder, such as BERT, RoBERTa.*T5's encoder"):
        TextEncoder(str(tmp_path), 8, CPU)


def test_a_damaged_pooling_configuration_is_named(tmp_path):
    folder = write(tmp_path / "encoder", CASES["xlm-roberta"][0])
    (tmp_path / "encoder" / "modules.json").write_text("[{")
    with pytest.raises(InputError, match=r"modules\.json: not JSON"):
        TextEncoder(folder, 8, CPU)


def test_checkpoints_of_masked_language_models_will_do(tmp_path):
    torch.manual_seed(0)
    tf.RobertaForMaskedLM(CASES["roberta"][0]).save_pretrained(tmp_path / "lm")
    write_tokenizer(tmp_path / "lm")
    folder = shutil.copytree(tmp_path / "lm", tmp_path / "copy")
    encoder = TextEncoder(str(folder), 8, CPU)
    with torch.no_grad():
        ids = encoder.tokenizer("a red shirt", return_tensors="pt")["input_ids"]
        expected = tf.RobertaForMaskedLM.from_pretrained(folder).eval().roberta(ids).last_hidden_state[0]
    check(encoder.encode(["a red shirt"])[0], expected)
