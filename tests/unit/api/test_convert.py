"""The command `convert` on a real network of digits: pictures, settings, and its run in MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

import nas_theseus
from nas_theseus.api.convert import ways_to_replace
from nas_theseus.cli.app import make_app
from nas_theseus.conversion.target import Target, assemble
from nas_theseus.costs import count_params
from nas_theseus.errors import ConversionError, ServiceError, SpaceError, StorageError
from nas_theseus.export.member import read_evaluation
from nas_theseus.guide.networks import ResNet
from nas_theseus.space.load import load_space
from nas_theseus.storage.whole_files import write_json
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.recipe import Recipe

SPACE = """
from torch import nn
from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Identity, Keep, Linear
from nas_theseus.tasks import digits

def space():
    def conv(inlet, outlet):
        return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.BatchNorm2d(outlet), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))
    net = nn.Sequential(conv(1, 6), conv(6, 6), conv(6, 6), conv(6, 6), head)
    return SearchSpace(
        guide=cut(net, ["0", "1", "2", "3"], (1, 8, 8)),
        task=digits(),
        blocks=[Keep(), Linear(), Identity()],
        max_span=2,
        guide_training=Recipe(epochs=3, distill=0, batch_size=64),
        recipe=Recipe(epochs=1, align_steps=4, align_examples=256, batch_size=64),
    )
"""

GROWING = """
from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Keep
from nas_theseus.transforms import Deeper, Wider
from nas_theseus.guide.networks import ResNet
from nas_theseus.tasks import digits

def space():
    net = ResNet(blocks=(1, 1), width=4)
    return SearchSpace(
        guide=cut(net, net.cuts, (1, 8, 8), weights="saved.safetensors"),
        task=digits(),
        blocks=[Keep(), Wider(), Deeper(width=2.0)],
        recipe=Recipe(epochs=1, batch_size=64),
    )
"""


def architecture(*blocks: str) -> Architecture:
    return Architecture(tuple(BlockChoice(Span(i, i + 1), b) for i, b in enumerate(blocks)))


CHOSEN = architecture("keep", "linear", "identity", "linear", "keep")
PICTURES = {"chain.png", "similarity.png"}
REPLACEMENTS = {"replacements.png", "replacements.json"}


@pytest.fixture(scope="module")
def guides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage folder, so that the guide is trained once."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    Path("small.py").write_text(SPACE)
    write_json(Path("chosen.json"), CHOSEN.to_json())
    return tmp_path


def convert(guides: Path, *arguments: str, chosen: str = "chosen.json") -> Result:
    return CliRunner().invoke(
        make_app(),
        ["convert", "small.py", "--architecture", chosen, "--storage", str(guides), *arguments],
    )


def the_run(client: MlflowClient) -> Run:
    experiment = client.get_experiment_by_name("nas-theseus")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`theseus.kind` = 'conversion'")
    return run


def files(client: MlflowClient, run: Run, folder: str | None = None) -> set[str]:
    return {found.path for found in client.list_artifacts(run.info.run_id, folder)}


def test_a_conversion_with_replacements_is_kept_whole(desk: Path, guides: Path) -> None:
    result = convert(
        guides, "--order", "reverse", "--set", "epochs=0.5", "--set", "hybrid_epochs=0.2",
        "--replacements",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    out = desk / "converted"
    evaluation = read_evaluation(out / "architecture.json")
    assert {path.name for path in out.iterdir()} >= PICTURES | REPLACEMENTS

    kept = json.loads((out / "replacements.json").read_text())
    assert kept["metric"] == "val_accuracy"
    assert list(kept["runs"]) == [
        "sequential-reverse", "sequential-forward", "naive-reverse", "naive-forward"
    ]  # fmt: skip
    # The identity has nothing to align, so it stands in the guide from the first stage on.
    assert {tuple(count for count, _ in run) for run in kept["runs"].values()} == {(0, 2, 3)}
    starts = {run[0][1] for run in kept["runs"].values()}
    assert len(starts) == 1 and 0 < starts.pop() <= 1
    own = [value for _, value in kept["runs"]["sequential-reverse"][1:]]
    assert own == [p.value for p in evaluation.curve if p.metric == "hybrid/val_accuracy"]
    assert kept["runs"]["sequential-reverse"] != kept["runs"]["naive-reverse"]

    client = MlflowClient()
    run = the_run(client)
    assert run.info.run_id in result.output and run.info.status == "FINISHED"
    assert run.data.tags["theseus.architecture"] == CHOSEN.id
    told = {"pairing": "0|1|2|3|head", "blocks": CHOSEN.blocks, "seed": "0", "recipe.epochs": "0.5",
            "recipe.order": "reverse", "recipe.hybrid_epochs": "0.2"}  # fmt: skip
    assert told.items() <= run.data.params.items()
    metrics = run.data.metrics
    assert metrics["val_accuracy"] == evaluation.value("val_accuracy")
    assert metrics["macs"] == evaluation.cost.macs
    history = client.get_metric_history(run.info.run_id, "similarity/3")
    assert {m.step: m.value for m in history} == evaluation.similarities[3]
    for label, points in kept["runs"].items():
        logged = client.get_metric_history(run.info.run_id, f"replacements/{label}")
        assert [[m.step, m.value] for m in sorted(logged, key=lambda m: m.step)] == points
    assert files(client, run) == PICTURES | REPLACEMENTS | {"network"}
    fetched = Path(client.download_artifacts(run.info.run_id, "network", str(desk)))
    network, stored = (nas_theseus.load(f, trust_code=True) for f in (out, fetched))
    inputs = torch.randn(4, 1, 8, 8)
    assert torch.equal(network(inputs), stored(inputs))


def test_a_saved_network_is_grown_and_written_out(desk: Path, guides: Path) -> None:
    torch.manual_seed(7)
    net = ResNet(blocks=(1, 1), width=4)
    save_file(net.state_dict(), "saved.safetensors")
    Path("small.py").write_text(GROWING)
    values = {"width": 2.0, "kernel": 0}
    chosen = Architecture(
        (
            BlockChoice(Span(0, 1), "keep"),
            BlockChoice(Span(1, 2), "wider", tuple(sorted(values.items()))),
            BlockChoice(Span(2, 3), "deeper", tuple(sorted((values | {"layers": 1}).items()))),
            BlockChoice(Span(3, 4), "keep"),
        )
    )
    write_json(Path("chosen.json"), chosen.to_json())
    result = convert(guides, "--set", "epochs=0")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (desk / "converted").iterdir()} >= PICTURES
    Path("saved.safetensors").unlink()
    grown = nas_theseus.load(desk / "converted", trust_code=True)
    inputs = torch.randn(8, 1, 8, 8)
    with torch.no_grad():
        expected, found = net.eval()(inputs), grown(inputs)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert count_params(grown) > 2 * count_params(net)


def test_a_plain_conversion_removes_the_replacements_of_another(desk: Path, guides: Path) -> None:
    out = desk / "converted"
    out.mkdir()
    for name in REPLACEMENTS:
        (out / name).write_text("of another architecture")
    result = convert(guides, "--schedule", "naive", "--set", "epochs=0")
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} & (PICTURES | REPLACEMENTS) == PICTURES
    client = MlflowClient()
    assert files(client, the_run(client)) == PICTURES | {"network"}


def test_alignment_sees_as_many_examples_as_it_is_told_to(desk: Path, guides: Path) -> None:
    spent = []
    for examples in (64, 256):
        result = convert(
            guides, "--schedule", "independent", "--set", f"align_examples={examples}",
            "--set", "align_steps=0", "--set", "epochs=0", "--set", "recalibrate=false",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        kept = desk / "converted" / "architecture.json"
        spent.append(read_evaluation(kept).train_macs_spent)
    assert 4 * spent[0] == spent[1] > 0


def test_all_wrong_settings_are_told_together_before_anything_runs(
    desk: Path, guides: Path
) -> None:
    result = convert(
        guides, "--order", "sideways", "--set", "epochs=-1", "--set", "epoch=1", "--set", "plateau",
        "--set", "order=forward", "--set", 'similarity_options={"pool": -2}',
    )  # fmt: skip
    assert isinstance(result.exception, SpaceError)
    said = "\n".join(result.exception.mistakes)
    for mistake in (
        "order: Input should be 'forward' or 'reverse', got 'sideways'",
        "epochs: Input should be greater than or equal to 0, got -1",
        "epoch: unknown setting; available: schedule, order,",
        "'plateau' must read name=value",
        "order: given twice, 'sideways' and 'forward'",
        "similarity_options.pool: ",
    ):
        assert mistake in said
    assert len(result.exception.mistakes) == 6
    assert not (desk / "mlflow.db").exists() and not (desk / "converted").exists()


def test_what_has_no_stages_has_no_replacements(desk: Path, guides: Path) -> None:
    result = convert(guides, "--schedule", "kd", "--replacements")
    assert isinstance(result.exception, SpaceError)
    assert "schedule kd replaces no block" in str(result.exception)
    write_json(Path("kept.json"), architecture(*["keep"] * 5).to_json())
    result = convert(guides, "--replacements", chosen="kept.json")
    assert isinstance(result.exception, SpaceError)
    assert not (desk / "converted").exists()


def test_ways_whose_stages_are_the_same_are_run_once(desk: Path) -> None:
    space = load_space("small.py")
    one = assemble(space, architecture("keep", "linear", "keep", "keep", "keep"), 0)
    two = assemble(space, CHOSEN, 0)

    def labels(target: Target, schedule: str) -> list[str]:
        recipe = Recipe(schedule=schedule)  # type: ignore[arg-type]
        return [way.label for way in ways_to_replace(target, recipe)]

    assert labels(one, "progressive") == ["progressive-forward", "naive-forward"]
    assert labels(two, "joint") == ["joint-forward", "naive-forward", "naive-reverse"]
    assert labels(two, "naive") == ["naive-forward", "naive-reverse"]


def test_a_conversion_that_diverges_leaves_a_failed_run(desk: Path, guides: Path) -> None:
    result = convert(guides, "--set", "learning_rate=1e30")
    assert isinstance(result.exception, ConversionError)
    run = the_run(MlflowClient())
    assert run.info.status == "FAILED"
    assert "diverged" in run.data.tags["theseus.failure"]


def test_a_folder_that_cannot_be_written_is_told_before_training(desk: Path) -> None:
    result = convert(desk / "theseus", "--out", "small.py/out")
    assert isinstance(result.exception, StorageError)
    assert "small.py/out cannot be written: Not a directory; choose another with --out" in str(
        result.exception
    )
    assert not (desk / "theseus" / "guides").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_told(desk: Path, guides: Path) -> None:
    result = convert(guides, "--gpu")
    assert isinstance(result.exception, ConversionError)
    assert "leave --gpu out" in str(result.exception)


def test_a_server_that_is_not_there_is_told_before_training(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    result = convert(desk / "theseus")
    assert isinstance(result.exception, ServiceError)
    assert "http://127.0.0.1:9" in str(result.exception)
    assert "secret" not in str(result.exception)
    assert not (desk / "theseus" / "guides").exists()
