"""Every file in configs/ is read and composed to what the paper describes; what does not fit is refused with its reason."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from graph_dataset import write_pairs

from odmt.config_files import flatten, load_config
from odmt.distributed import World
from odmt.errors import InputError
from odmt.families import config_class
from odmt.features.extractors import SgfdExtractor
from odmt.report.sgfd_paper import quoted_table2
from odmt.sequential.config import Config
from odmt.sequential.models.builder import build_recommender
from odmt.sequential.models.gru4rec import GRU4Rec
from odmt.sequential.models.imt import IdAwareMultimodalTransformer
from odmt.sequential.models.nextitnet import NextItNet
from odmt.sequential.models.recommender import FDSA, Recommender
from odmt.sequential.models.sasrec import SASRec
from odmt.sequential.models.towers import ClsTower, EarlyFusion, IdEmbedding, MoEAdaptor, ProjectedId, TransformerTower
from odmt.trainer import Trainer

CONFIGS = Path(__file__).parents[1] / "configs"
MODELS = {path.stem: path for path in sorted((CONFIGS / "models").glob("*.yaml"))}
FAMILY = {name: load_config([str(path)]).family for name, path in MODELS.items()}
SEQUENTIAL, GRAPH = ([name for name in MODELS if FAMILY[name] == family] for family in ("sequential", "graph"))
DATASETS = {
    "sequential": ("arts", "office", "hm", "stream", "demo"),
    "graph": ("sgfd-office", "sgfd-clothing", "sgfd-toys-games", "demo-graph"),
}
PLACES = {"Office": "sgfd-office", "Clothing": "sgfd-clothing", "Toys": "sgfd-toys-games"}
BASELINES = ("lightgcn", "bprmf")
OWN = "recommended"
WIDTH, NUM_ITEMS = 8, 5


def build(config: Config, dim: int = 24) -> Recommender:
    features = {source: torch.randn(NUM_ITEMS + 1, WIDTH) for source in config.model.needs}
    small = replace(config.model, dim=dim)
    return build_recommender(small, NUM_ITEMS, 6, dict.fromkeys(features, WIDTH), features.__getitem__)


def model(name: str, *overrides: str, dim: int = 24) -> Recommender:
    return build(load_config([str(MODELS[name]), *overrides]), dim)


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_every_file_builds_a_model_of_its_name(name):
    config = load_config([str(MODELS[name])])
    assert config.name == name
    assert sum(parameter.numel() for parameter in build(config).parameters()) > 0


@pytest.mark.parametrize("name", GRAPH)
def test_every_graph_file_builds_a_model_of_its_name(name, tmp_path):
    write_pairs(tmp_path / "pairs")
    places = [f"data.root={tmp_path}", "data.dataset=pairs", "model.dim=8", "train.device=cpu"]
    config = load_config([str(MODELS[name]), *places])
    host, _, sgfd = name.partition("_")
    assert (config.name, config.model.host, config.model.needs_labels) == (name, host, sgfd == "sgfd")
    model = Trainer.load(config, World(0, 1, torch.device("cpu"))).model
    assert type(model).__name__.lower() == host
    extractor = getattr(model, "extractor", None)
    assert isinstance(extractor, SgfdExtractor) == (sgfd == "sgfd")


@pytest.mark.parametrize(("name", "dataset"), [(name, dataset) for name in MODELS for dataset in DATASETS[FAMILY[name]]])
def test_every_file_goes_with_every_dataset(name, dataset):
    config = load_config([str(CONFIGS / f"{dataset}.yaml"), str(MODELS[name])])
    assert (config.data.dataset, config.name) == (dataset.removesuffix("-graph"), name)


def header_of(name: str) -> list[str]:
    return [line for line in MODELS[name].read_text(encoding="utf-8").splitlines() if line.startswith("#")]


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_header_says_what_the_file_is(name):
    header = header_of(name)
    assert "Table" in header[0]
    assert any(("No number of the paper" if name == OWN else "paper reports recall@10") in line for line in header)
    assert header[-1] == f"# python -m odmt.train configs/arts.yaml configs/models/{name}.yaml"


@pytest.mark.parametrize("name", GRAPH)
def test_the_header_of_a_graph_file_quotes_the_paper_as_what_it_is(name):
    header, quoted = header_of(name), quoted_table2().set_index(["key", "metric", "dataset"])["value"]
    assert "Table 2" in header[0]
    assert header[-1] == f"# python -m odmt.train configs/sgfd-office.yaml configs/models/{name}.yaml"
    if name in BASELINES:
        assert "No number of the paper" in header[1]
        return
    numbers = [
        f"{metric} " + ", ".join(f"{place} {quoted[name, f'{metric}@20', dataset]:.4f}" for place, dataset in PLACES.items())
        for metric in ("recall", "ndcg")
    ]
    assert header[1] == f"# The paper reports {numbers[0]} and {numbers[1]},"
    assert "no standard recall@20" in header[2]


@pytest.mark.parametrize("name", MODELS)
def test_a_file_holds_only_what_differs(name):
    defaults = dict(flatten(config_class(FAMILY[name])()))
    content = MODELS[name].read_text(encoding="utf-8")
    for key, value in flatten(load_config([str(MODELS[name])])):
        stands_there = key.split(".")[-1] + ":" in content
        assert stands_there == (value != defaults[key]) or key in ("name", "family"), key


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "nextitnet"])
def test_id_only_rows(name):
    backbone = {"sasrec": SASRec, "gru4rec": GRU4Rec, "nextitnet": NextItNet}[name]
    recommender = model(name)
    assert isinstance(recommender.item_encoder, EarlyFusion)
    assert [type(tower) for tower in recommender.item_encoder.encoder.towers.values()] == [IdEmbedding]
    assert [type(part) for part in recommender.user_encoder.backbones.values()] == [backbone]


@pytest.mark.parametrize(("name", "sources"), [("sasrec_ef", ["fused"]), ("sasrec_lf", ["id", "text", "image"])])
def test_sasrec_with_features(name, sources):
    recommender = model(name)
    towers = recommender.item_encoder.encoder.towers if name == "sasrec_ef" else recommender.item_encoder.towers
    assert isinstance(towers["id"], IdEmbedding)
    for modality in ("text", "image"):
        assert isinstance(towers[modality], TransformerTower)
        assert [block.num_heads for block in towers[modality].blocks] == [2, 2]
        assert len(towers[modality].head) == 3
    assert list(recommender.user_encoder.backbones) == sources
    assert all(len(backbone.blocks) == 2 for backbone in recommender.user_encoder.backbones.values())


def test_early_fusion_is_the_mean_and_unisrec_the_sum():
    assert model("sasrec_ef").item_encoder.mean
    unisrec = model("unisrec").item_encoder
    assert not unisrec.mean
    assert isinstance(unisrec.encoder.towers["id"], IdEmbedding)
    for modality in ("text", "image"):
        tower = unisrec.encoder.towers[modality]
        assert isinstance(tower, ClsTower)
        assert isinstance(tower.network, MoEAdaptor)
        assert len(tower.network.shift) == 8


def test_fdsa_has_two_stacks():
    recommender = model("fdsa")
    assert isinstance(recommender.user_encoder, FDSA)
    assert isinstance(recommender.item_encoder.towers["id"], IdEmbedding)
    assert len(recommender.user_encoder.id_backbone.blocks) == len(recommender.user_encoder.feature_backbone.blocks) == 2


def test_odmt_is_the_default():
    assert load_config([str(MODELS["odmt"])]) == Config()
    encoder = model("odmt").item_encoder
    assert isinstance(encoder, IdAwareMultimodalTransformer)
    assert [block.num_heads for block in encoder.blocks] == [2, 2]
    assert not encoder.id_visible


@pytest.mark.parametrize(("layers", "dim", "heads"), [(1, 24, 1), (3, 24, 3), (4, 24, 4), (3, 64, 2), (3, 512, 2), (4, 6, 3)])
def test_as_many_heads_as_layers_and_divide_the_width(layers, dim, heads):
    for name in ("odmt", "sasrec_lf"):
        recommender = model(name, f"model.num_layers={layers}", dim=dim)
        blocks = recommender.item_encoder.blocks if name == "odmt" else recommender.item_encoder.towers["text"].blocks
        assert [block.num_heads for block in blocks] == [heads] * layers


def test_ablations():
    assert model("no_id_mask").item_encoder.id_visible
    assert model("no_id").item_encoder.id_table is None
    assert isinstance(model("no_online_distillation").item_encoder, IdAwareMultimodalTransformer)
    assert load_config([str(MODELS["no_online_distillation"])]).model.fusion == "late"
    assert load_config([str(MODELS["no_distillation"])]).distillation.constant_weight == 0
    for name, layers in {"no_imt_two_layers": 2, "no_imt_one_layer": 1}.items():
        towers = model(name).item_encoder.towers
        assert isinstance(towers["id"], ProjectedId)
        for modality in ("text", "image"):
            assert [block.num_heads for block in towers[modality].blocks] == [layers] * layers


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["model.sources=[text,image]", "model.id_init=mean"], "model.id_init: needs id"),
        (["model.id_init=text", "model.sources=[id,image]"], "model.id_init: text needs"),
        (["model.id_init=concat", "model.sources=[id,text]"], "model.id_init: concat needs"),
        (["model.id_init=mean", "model.sources=[id]", "model.item_encoder=dnn", "model.fusion=early"], "mean needs"),
        (["sasrec", "model.id_init=random"], "id_encoder=projected"),
        (["model.sources=[text]"], "distillation needs two sources"),
        (["sasrec_lf", "model.sources=[id]", "model.fusion=separate"], "distillation needs two sources"),
        (["sasrec_ef", "model.id_visible_to_modalities=false"], "the ID mask exists only in the IMT"),
        (["no_id", "model.id_visible_to_modalities=true"], "the ID mask exists only in the IMT with an ID source"),
        (["model.sources=[id]", "model.fusion=early"], "imt needs text or image"),
        (["model.id_encoder=embedding"], "the IMT needs the ID as a token"),
        (["fdsa", "model.sources=[text,image]"], "fdsa needs id and text or image"),
        (["fdsa", "model.sources=[id]"], "fdsa needs id and text or image"),
        (["model.dim=33", "sasrec"], "33 is no multiple of backbone_heads"),
        (["model.sources=[]"], "name at least one"),
        (["model.sources=[id,id,text]"], "names a source twice"),
        (["model.fusion=middle"], "model.fusion"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, reason):
    with pytest.raises(InputError) as refusal:
        load_config([str(MODELS.get(argument, argument)) for argument in arguments])
    assert reason in str(refusal.value)


def test_the_mean_of_features_of_two_widths_is_refused():
    widths = {"text": 8, "image": 6}
    with pytest.raises(InputError, match="these are image 6, text 8; take text, image or concat"):
        build_recommender(Config().model, NUM_ITEMS, 6, widths, lambda source: torch.randn(NUM_ITEMS + 1, widths[source]))


def test_a_file_may_lie_in_a_folder_named_after_values(tmp_path):
    folder = tmp_path / "odmt,dim=128"
    folder.mkdir()
    (folder / "config.yaml").write_text("model: {dim: 128}\n")
    assert load_config([str(folder / "config.yaml")]).model.dim == 128
    assert load_config(["name=config.yaml"]).name == "config.yaml"
