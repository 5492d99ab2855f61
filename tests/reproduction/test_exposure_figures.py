"""Biif's figures: what is drawn of which runs, the numbers beside them, and what they need."""

import numpy as np
import pytest
from reference.tables import cells, scored, section_of, small_config

from debias_jax import experiment
from debias_jax._reproduction import exposure_figures
from debias_jax.errors import ConfigError
from debias_jax.experiment import _logistic_mf

METRICS = ("dcg@3", "auc")


def pcc_of(name, number):
    """Two runs at epochs 0, 2 and 4; ExpoMF's estimate does not vary before training."""
    if name == "expomf":
        return [[None, None], [0.5, 0.7], [0.4, 0.4]]
    return [[0.1 * number, 0.1 * number], [0.3, 0.5], [0.6, 0.8]]


@pytest.fixture
def calls(monkeypatch):
    calls = []

    def run_rows(config, workdir):
        calls.append(tuple(config.methods))
        made = []
        for number, name in enumerate(config.methods):
            entry, epochs = config.variants[name], (0, 2, 4)
            history = [
                {"epoch": e, "pcc": values} for e, values in zip(epochs, pcc_of(name, number), strict=True)
            ]
            # Users score .1 n and .3 or .5: the mean over users and runs is .05 n + .2, the sd .1 / sqrt 2.
            users = [[0.1 * number, 0.3], [0.1 * number, 0.5]]
            made.append(
                scored(name, users, names=METRICS)._replace(
                    dataset="synthetic", method=entry.method, history=history
                )
            )
        return made

    monkeypatch.setattr(exposure_figures, "run_rows", run_rows)
    return calls


@pytest.fixture
def config():
    config = small_config("mf", eval_at_start=True)
    with config.unlocked():
        names = experiment.EXPOSURE_GROUPS["figures"]
        config.methods = ("biif_mean", *names)
        config.variants = {"biif_mean": experiment.variant("biif", options={"reduction": "mean"})}
        config.variants.update({name: experiment.variant(name) for name in names})
        config.protocol.metrics = METRICS
        config.protocol.headline = "dcg@3"
    return config


@pytest.fixture
def reproduce(tmp_path):
    return section_of("biif_figures", tmp_path)


@pytest.fixture
def drawn(monkeypatch):
    """What each image is drawn of."""
    drawn = {}
    for name in ("bars", "curves"):
        draw = getattr(exposure_figures._plots, name)

        def keep(path, shown, *more, draw=draw, **settings):
            drawn[path.name] = ([one.name for one in shown], settings)
            draw(path, shown, *more, **settings)

        monkeypatch.setattr(exposure_figures._plots, name, keep)
    return drawn


class TestFigures:
    def test_each_figure_has_its_methods_and_their_variants(self, calls, config, reproduce, drawn, tmp_path):
        text = reproduce(config)
        assert calls == [config.methods]
        names = {path: shown for path, (shown, _) in drawn.items()}
        assert names == {
            "biif_figure1_synthetic.png": ["joint_opt", "alter_opt", "bi_opt2", "biif_mean", "biif"],
            "biif_figure2_synthetic.png": ["expomf", "cjmf", "ceb", "joint_opt", "biif_mean", "biif"],
            "biif_figure3_synthetic.png": [
                *("relmf", "expomf", "cjmf", "auto_debias", "ceb", "bpr", "umf", "joint_opt"),
                *("biif_mean", "biif"),
            ],
        }
        for path in names:
            assert (tmp_path / "figures" / path).read_bytes().startswith(b"\x89PNG")
            assert f"](figures/{path})" in text
        dataset, _ = experiment.load_dataset(config)
        popularity = _logistic_mf.popularity_pcc(dataset)
        assert drawn["biif_figure2_synthetic.png"][1] == {"levels": {"popularity": popularity}}
        assert text.startswith("### synthetic: Figures 1, 2, 3 of Biif\n")
        assert text in (tmp_path / "results.md").read_text()

    def test_the_numbers_beside_them(self, calls, config, reproduce):
        text = reproduce(config)
        metrics, pcc = text.split("PCC before training")
        for number, name in enumerate(config.methods):
            mean = f"{0.05 * number + 0.2:.4f} ± 0.0707"
            assert cells(metrics.splitlines(), f"| {name} ") == [name, mean, mean]
        assert "Against `joint_opt` on dcg@3" in metrics
        number = config.methods.index("cjmf")
        assert cells(pcc.splitlines(), "| cjmf ") == [
            "cjmf",
            f"{0.1 * number:.4f} ± 0.0000",
            *["0.7000 ± 0.1414 (epoch 4)"] * 2,
        ]
        highest, last = "0.6000 ± 0.1414 (epoch 2)", "0.4000 ± 0.0000 (epoch 4)"
        assert cells(pcc.splitlines(), "| expomf ") == ["expomf", "-", highest, last]
        dataset, _ = experiment.load_dataset(config)
        theta = np.sqrt(np.bincount(dataset.train.positives.items, minlength=dataset.n_items))
        expected = np.mean([np.corrcoef(theta, row)[0, 1] for row in dataset.truth.exposure])
        assert float(cells(pcc.splitlines(), "| popularity ")[1]) == pytest.approx(expected, abs=1e-4)

    def test_a_figure_without_all_its_methods_is_not_drawn(self, calls, config, reproduce, drawn):
        config.methods = experiment.EXPOSURE_GROUPS["figure1"]
        text = reproduce(config)
        assert list(drawn) == ["biif_figure1_synthetic.png"] and "PCC" not in text
        assert text.startswith("### synthetic: Figure 1 of Biif\n")

    def test_what_they_need_is_said_before_training(self, calls, config, reproduce):
        few = config.copy_and_resolve_references()
        few.methods = ("joint_opt", "biif")
        with pytest.raises(ConfigError, match="all methods of no figure .* Figure 1: joint_opt, alter_opt"):
            reproduce(few)
        config.train.eval_at_start = False
        with pytest.raises(ConfigError, match="set config.train.eval_at_start=True"):
            reproduce(config)
        config.protocol.metrics = ("auc",)
        with pytest.raises(ConfigError, match="add it to config.protocol.metrics"):
            reproduce(config)
        assert calls == []


@pytest.mark.parametrize("level", ["easy", "hard"])
def test_levels_of_movielens_have_names_of_their_own(monkeypatch, level):
    """So that neither their sections nor their images are written over each other."""
    monkeypatch.setattr(_logistic_mf, "_truth_of_100k", lambda *arguments: (None, None))
    monkeypatch.setattr(_logistic_mf, "_simulate", lambda ratings, truth, *, seed, name: name)
    assert _logistic_mf.load_ml_100k_exposure("nowhere", level=level) == f"ml_100k_exposure_{level}"
