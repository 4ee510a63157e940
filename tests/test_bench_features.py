import json

from odmt.bench.features import features


def test_decoding_encoding_and_the_wait_are_measured(tmp_path, capsys):
    features(num_images=3, side=40, num_workers=1, batch_size=2, repeats=1, device="cpu", json=tmp_path / "features.json")
    entries = json.loads((tmp_path / "features.json").read_text())
    seconds = {entry["name"].removeprefix("features, "): entry["seconds"] for entry in entries}
    assert len(seconds) == 4
    assert 0 < seconds["of which waiting for images"] < seconds["decoding, encoding and storing"]
    assert entries[0]["settings"]["side"] == 40
    assert "share of the whole that the encoder waits" in capsys.readouterr().out
