"""What a search varies and begins with, how its findings come into a config, and that every config allows one."""

import json

import pytest
from reference.tables import ROOT, config_module, load_config

from debias_jax import experiment, methods
from debias_jax.errors import ConfigError
from debias_jax.experiment._build import default_hparams
from debias_jax.experiment._search_space import first_settings, search_space

CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def make_config(variants, **tune):
    """A config of variants by name, each a method's name or an entry."""
    config = experiment.base_config()
    with config.unlocked():
        config.methods = tuple(variants)
        for name, entry in variants.items():
            config.variants[name] = experiment.variant(entry) if isinstance(entry, str) else entry
        config.tune.update(tune)
    return config


def frozen(**hparams):
    return experiment.variant("biif", fixed={"outer_lr": 0.0}, **hparams)


class TestSpace:
    def test_a_variant_has_the_entry_of_its_method_or_its_own(self):
        ranges = {"mf": {"lr": ("log", 1e-3, 1e-2)}, "mf_rated": {"lr": ("log", 1e-4, 1e-3)}}
        config = make_config({"mf_uniform": "mf", "mf_rated": "mf"}, space=ranges)
        known = {"lr": 0.0}
        assert search_space(config, "mf_uniform", known) == {"lr": ["log", 1e-3, 1e-2]}
        assert search_space(config, "mf_rated", known) == {"lr": ["log", 1e-4, 1e-3]}

    def test_what_a_variant_fixes_is_not_searched(self):
        range_ = ("log", 1e-4, 1e-1)
        first = {"biif": [{"lr": 0.01, "outer_lr": 0.02}]}
        space = {"default": {"lr": range_, "outer_lr": range_}, "biif": {"outer_lr": range_}}
        config = make_config({"biif": "biif", "biif_frozen": frozen()}, space=space, first=first)
        known = {"lr": 0.0, "outer_lr": 0.0}
        assert list(search_space(config, "biif", known)) == ["lr", "outer_lr"]
        own = search_space(config, "biif_frozen", known)
        assert own == {"lr": list(range_)}
        assert first_settings(config, "biif_frozen", own) == [{"lr": 0.01}]

    def test_a_variant_may_lack_what_its_method_is_searched_for(self):
        range_ = ("log", 1e-4, 1e-1)
        space, first = {"mf": {"lr": range_, "bias": range_}}, {"mf": [{"lr": 0.01, "bias": 0.01}]}
        config = make_config({"mf": "mf", "mf_plain": "mf"}, space=space, first=first)
        own = search_space(config, "mf_plain", {"lr": 0.0})
        assert own == {"lr": list(range_)}
        assert first_settings(config, "mf_plain", own) == [{"lr": 0.01}]
        with pytest.raises(ConfigError, match="unknown hyperparameter tune.space.mf.bias"):
            search_space(config, "mf", {"lr": 0.0})
        with pytest.raises(ConfigError, match="tune.first.mf sets 'bias', which is not searched"):
            first_settings(config, "mf", own)

    def test_settings_for_all_methods_come_after_their_own(self):
        range_ = ("log", 1e-4, 1e-1)
        first = {"mf": [{"lr": 0.01}], "default": [{"lr": 0.02, "outer_lr": 0.03}, {"outer_lr": 0.04}]}
        config = make_config(
            {"mf": "mf", "biif": "biif"},
            space={"default": dict.fromkeys(("lr", "outer_lr"), range_)},
            first=first,
        )
        space = search_space(config, "mf", {"lr": 0.0})
        assert first_settings(config, "mf", space) == [{"lr": 0.01}, {"lr": 0.02}]
        space = search_space(config, "biif", {"lr": 0.0, "outer_lr": 0.0})
        assert first_settings(config, "biif", space) == first["default"]

    def test_the_closed_form_methods_have_ranges_of_their_own(self):
        table = experiment.implicit_variants({})
        config = make_config({name: table[name] for name in ("expomf_released", "ubpr", "wmf")})
        spaces = {
            name: search_space(config, name, default_hparams(config, config.variants[name]))
            for name in config.methods
        }
        assert sorted(spaces["expomf_released"]) == ["initial_exposure", "regularization"]
        assert sorted(spaces["ubpr"]) == ["beta", "lr", "weight_decay"]
        assert sorted(spaces["wmf"]) == ["alpha", "regularization"]

    @pytest.mark.parametrize("name", ["beauty", "ml_1m", "yelp", "own_sequences"])
    def test_searches_of_next_item_models_begin_at_the_settings_of_their_config(self, name):
        config = load_config(name, "all")
        for variant, entry in config.variants.items():
            space = search_space(config, variant, {"lr": 0.0, "weight_decay": 0.0})
            wanted = {key: entry.hparams[key] for key in ("lr", "weight_decay") if entry.hparams[key]}
            assert first_settings(config, variant, space) == [wanted], variant

    def test_a_variant_that_fixes_all_is_refused(self):
        config = make_config({"it": frozen()})
        with pytest.raises(ConfigError, match="the hyperparameters outer_lr, of which it fixes outer_lr"):
            search_space(config, "it", {"outer_lr": 0.0})

    def test_fixed_hyperparameters_stand_among_the_others_and_win(self):
        entry = experiment.variant("biif", fixed={"outer_lr": 0}, lr=0.1, outer_lr=0.2)
        assert dict(entry.hparams) == {"lr": 0.1, "outer_lr": 0.0} and entry.fixed == ("outer_lr",)
        table = experiment.implicit_variants({"biif": {"lr": 0.1, "outer_lr": 0.2}})
        assert dict(table["biif_frozen"].hparams) == {"lr": 0.1, "outer_lr": 0.0}
        assert table["biif_frozen"].fixed == ("outer_lr",) and table["biif"].fixed == ()
        table = experiment.cvr_variants({"badr": {"imputation_lr": 0.3}}, released_hparams={"lr": 0.1})
        assert dict(table["badr_frozen"].hparams) == {"imputation_lr": 0.0}
        assert table["badr_released_frozen"].fixed == ("observed_weight", "lr", "imputation_lr")


class TestApply:
    def tuned(self, folder, method="mf", **hparams):
        path = folder / "tuned.json"
        path.write_text(json.dumps({method: {"method": method, "hparams": {"lr": 0.25, **hparams}}}))
        return path

    def test_variants_without_an_entry_keep_their_own(self, tmp_path):
        own = experiment.variant("mf", weight_decay=0.5)
        config = make_config({"mf": own, "relmf": experiment.variant("relmf", lr=0.125)})
        assert experiment.apply_tuned(config, self.tuned(tmp_path)) == ("relmf",)
        assert dict(config.variants.mf.hparams) == {"lr": 0.25, "weight_decay": 0.5}
        assert dict(config.variants.relmf.hparams) == {"lr": 0.125}

    def test_a_variant_takes_what_was_found_for_its_method_but_what_it_fixes(self, tmp_path):
        config = make_config({"biif_mean": "biif", "biif_frozen": frozen(lr=0.5)})
        assert experiment.apply_tuned(config, self.tuned(tmp_path, "biif", outer_lr=0.75)) == ()
        assert dict(config.variants.biif_mean.hparams) == {"lr": 0.25, "outer_lr": 0.75}
        assert dict(config.variants.biif_frozen.hparams) == {"lr": 0.25, "outer_lr": 0.0}

    def test_its_own_entry_comes_first_and_fixes_as_much(self, tmp_path):
        path = tmp_path / "tuned.json"
        settings = {"biif": {"lr": 0.25}, "biif_frozen": {"lr": 0.125, "outer_lr": 0.75}}
        path.write_text(
            json.dumps({name: {"method": "biif", "hparams": found} for name, found in settings.items()})
        )
        config = make_config({"biif_frozen": frozen()})
        assert experiment.apply_tuned(config, path) == ()
        assert dict(config.variants.biif_frozen.hparams) == {"lr": 0.125, "outer_lr": 0.0}

    def test_a_program_with_published_settings_keeps_them(self, tmp_path):
        released = experiment.variant("badr", fixed={"lr": 0.5})
        config = make_config({"badr_released": released})
        assert experiment.apply_tuned(config, self.tuned(tmp_path, "badr")) == ("badr_released",)
        assert dict(config.variants.badr_released.hparams) == {"lr": 0.5}

    def test_options_that_lack_a_hyperparameter_of_the_method(self, tmp_path):
        entry = experiment.variant("badr", options={"imputation": "mrdr"})
        config = make_config({"badr_mrdr": entry})
        assert "bias_weight" not in default_hparams(config, entry)
        experiment.apply_tuned(config, self.tuned(tmp_path, "badr", bias_weight=0.5))
        assert dict(config.variants.badr_mrdr.hparams) == {"lr": 0.25}

    @pytest.mark.parametrize(
        ("method", "content", "words"),
        [
            ("mf", None, "there is no file .*launch/tune.py"),
            ("mf", [1], "is not what launch/tune.py writes"),
            ("umf", {"mf": {"method": "mf", "hparams": {}}}, "has none of umf; it has mf"),
            ("mf", {"mf": {"method": "umf", "hparams": {}}}, "mf is the method umf in .*, and mf here"),
            ("mf", {"mf": {"method": "mf", "hparams": {"lrr": 1.0}}}, "'lrr' of mf in .*; did you mean 'lr'"),
        ],
    )
    def test_refusals(self, tmp_path, method, content, words):
        path = tmp_path / "tuned.json"
        if content is not None:
            path.write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=words):
            experiment.apply_tuned(make_config({method: method}), path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
class TestEveryConfig:
    def test_every_variant_builds_and_can_be_searched(self, path):
        """No option that the method does not take, no tuned or first setting that it lacks or that lies outside."""
        module = config_module(path.stem)
        whole = module.get_config("all")
        assert whole.is_locked and whole.methods
        # Groups hold the same variants again; building a network takes long.
        built = {}
        for argument in ("all", *getattr(module, "GROUPS", ())):
            config = whole if argument == "all" else module.get_config(argument)
            for name in config.methods:
                entry = config.variants[name]
                own = experiment.only(config, name)
                key = str((entry.method, entry.options, {**own.model, **entry.model}))
                if key not in built:
                    built[key] = experiment.build_method(own, entry, n_users=3, n_items=4)
                values = experiment.variant_hparams(config, entry, built[key])
                if set(values) == set(entry.fixed):
                    assert name in experiment.CVR_RELEASED
                    continue
                space = search_space(config, name, values)
                assert not set(space) & set(entry.fixed)
                first_settings(config, name, space)

    def test_every_name_is_one(self, path):
        """A name that nothing has would be passed over in silence."""
        module = config_module(path.stem)
        config = module.get_config("all")
        known = {"default", *methods.__all__, *config.methods}
        assert {*config.tune.space, *config.tune.first} <= known
        assert set(getattr(module, "TUNED", ())) <= set(config.methods)
