"""The figures: what is drawn of which runs, and what they need."""

import pytest
from reference.tables import cells, scored, section_of, small_config

from debias_jax import experiment
from debias_jax._reproduction import figures
from debias_jax.errors import ConfigError

COMMAND = "python launch/reproduce.py --table=badr_figures"


class TestFigures:
    """The runs are made up; what is drawn of which, and where the section shows it, is real."""

    @pytest.fixture
    def calls(self, monkeypatch):
        calls = []

        def run_rows(config, workdir):
            calls.append((workdir.name, config.train.batch_size, tuple(config.methods)))
            return [self.one(name, config.variants[name], config.train.batch_size) for name in config.methods]

        monkeypatch.setattr(figures, "run_rows", run_rows)
        monkeypatch.setitem(figures.BATCH_SIZES, "synthetic", (16, 64))
        return calls

    @staticmethod
    def one(name, entry, batch_size):
        logs = {"loss/prediction": [0.5, 0.4], "loss/imputation": [0.2, 0.3], "observed_loss": [0.6, 0.5]}
        history = [{"epoch": epoch, "log_loss": [0.7, 0.6], **logs} for epoch in (1, 2, 3)]
        user_values = [[batch_size / 1000, 0.5], [batch_size / 1000, 0.7]]
        return scored(name, user_values, names=("auc", "ndcg@5"))._replace(
            dataset="synthetic", method=entry["method"], options=dict(entry["options"]), history=history
        )

    @pytest.fixture
    def config(self):
        config = small_config("mf")
        names = {"badr": "badr", "badr_plain": "dr_jl", "badr_v": "mrdr"}
        variants = {
            name: experiment.variant("badr", options={} if loss == "badr" else {"imputation": loss})
            for name, loss in names.items()
        }
        variants |= {name: experiment.variant(name) for name in ("dr_jl", "mrdr", "ips")}
        with config.unlocked():
            config.methods, config.variants = tuple(variants), variants
            config.protocol.update(
                {"validation": "badr", "validation_metrics": ("auc", "log_loss"), "monitor": "auc"}
            )
        return config

    @pytest.fixture
    def reproduce(self, tmp_path):
        return section_of("badr_figures", tmp_path, command=COMMAND)

    def test_ablation_loss_batch_sizes_and_training_losses(
        self, calls, config, reproduce, tmp_path, monkeypatch
    ):
        compared = []
        draw = figures._plots.compare
        monkeypatch.setattr(
            figures._plots,
            "compare",
            lambda path, shown: (compared.append([s.name for s in shown]), draw(path, shown)),
        )
        text = reproduce(config)
        assert compared == [["badr", "badr_plain", "dr_jl"], ["badr", "badr_v", "mrdr"]]
        links = [line.split("(")[-1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
        assert [link.split("_")[1] for link in links] == [
            "figure1a",
            "figure1b",
            "figure2",
            "figure3",
            "figure4",
        ]
        assert all((tmp_path / link).read_bytes().startswith(b"\x89PNG") for link in links)
        n = len(experiment.load_dataset(config)[0].train)
        assert [call[0] for call in calls] == ["runs", "batch_16", "batch_64", f"batch_{n}"]
        assert calls[1] == ("batch_16", 16, ("badr",)), "only BADR itself is trained at other batch sizes"
        lines = text.split("AUC by batch size:")[1].splitlines()
        # Users score b / 1000 and 0.5 or 0.7: the mean over users and runs is b / 2000 + 0.3, the sd 0.1 / sqrt 2.
        expected = ["badr", *(f"{size / 2000 + 0.3:.4f} ± 0.0707" for size in (16, 64, n))]
        assert cells(lines, "| badr ") == expected
        assert text in (tmp_path / "results.md").read_text()

    def test_what_the_figures_need_is_said_before_training(self, calls, config, reproduce):
        without = config.copy_and_resolve_references()
        without.methods = ("dr_jl", "badr_v")
        with pytest.raises(ConfigError, match="no variant of badr with its own imputation loss"):
            reproduce(without)
        config.protocol.validation_metrics = ("auc",)
        with pytest.raises(ConfigError, match="add 'log_loss' to config.protocol.validation_metrics"):
            reproduce(config)
        assert calls == []

    def test_runs_of_before_the_loss_was_measured(self, calls, config, reproduce, monkeypatch):
        made = self.one

        def bare(name, entry, batch_size):
            return made(name, entry, batch_size)._replace(history=[{"epoch": 1, "auc": [0.5, 0.5]}])

        monkeypatch.setattr(TestFigures, "one", staticmethod(bare))
        with pytest.raises(ConfigError, match="trained before it was among .*; use another --workdir"):
            reproduce(config)

    def test_other_datasets_have_no_figures(self, config, reproduce):
        with pytest.raises(ConfigError, match="unknown dataset of these figures 'synthetic'"):
            reproduce(config)


class TestBatchSizesOfRetrieval:
    @pytest.fixture
    def calls(self, monkeypatch):
        calls = []

        def run_rows(config, workdir):
            size = config.train.batch_size
            calls.append((workdir.name, size, tuple(config.methods), config.train.lr))
            return [
                scored(name, [[size / 1000, 0.5], [size / 1000, 0.7]], names=("ndcg@10", "recall@10"))
                for name in config.methods
            ]

        monkeypatch.setattr(figures, "run_rows", run_rows)
        monkeypatch.setitem(figures.RETRIEVAL_SIZES, "synthetic", (16, 64))
        return calls

    @pytest.fixture
    def config(self):
        config = small_config("mf")
        with config.unlocked():
            config.methods = ("ssl_pop", "bir")
            config.protocol.headline = "ndcg@10"
        return config

    @pytest.fixture
    def reproduce(self, tmp_path):
        return section_of("bir_figure7", tmp_path)

    def test_every_variant_at_every_size(self, tmp_path, calls, config, reproduce):
        text = reproduce(config)
        names = ("ssl_pop", "bir")
        assert calls == [("batch_16", 16, names, None), ("batch_64", 64, names, None)]
        assert (tmp_path / "figures" / "bir_figure7_synthetic.png").read_bytes().startswith(b"\x89PNG")
        assert "](figures/bir_figure7_synthetic.png)" in text and "a method keeps one setting" in text
        for name in config.methods:
            line = cells(text.splitlines(), f"| {name} ")
            assert line == [name, *(f"{size / 2000 + 0.3:.4f} ± 0.0707" for size in (16, 64))]

    def test_settings_of_a_size_hold_at_it_alone_and_are_told(self, calls, config, reproduce):
        with config.unlocked():
            config.at_batch_size = {"64": {"lr": 0.25}}
        text = reproduce(config)
        assert [call[3] for call in calls] == [None, 0.25]
        assert cells(text.splitlines(), "| 64 ") == ["64", "0.25", ""]
        assert "have the settings below" in text

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"65": {"lr": 0.25}}, "unknown batch size in config.at_batch_size '65'; .*64"),
            ({"64": {"lrr": 0.25}}, r"unknown key in config.at_batch_size\['64'\] 'lrr'; .*lr"),
            ({"64": {"batch_size": 32}}, r"unknown key in config.at_batch_size\['64'\] 'batch_size'; .*lr"),
        ],
    )
    def test_settings_that_nothing_reads(self, calls, config, reproduce, settings, message):
        with config.unlocked():
            config.at_batch_size = settings
        with pytest.raises(ConfigError, match=message):
            reproduce(config)
        assert calls == []
