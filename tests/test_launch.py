"""The launch scripts: a round trip, and what they say to a user who got something wrong."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from debias_jax.data.types import Interactions
from debias_jax.errors import DataError

ROOT = pathlib.Path(__file__).parent.parent
SYNTHETIC = "--config=configs/synthetic.py:mf"
OWN = "--config=configs/own_data.py:umf"
TINY = [
    "--config.data.options.n_users=40",
    "--config.data.options.n_items=25",
    "--config.model.dim=4",
    "--config.seeds=(0,1)",
    "--config.train.epochs=2",
    "--config.train.eval_every=1",
    "--config.train.batch_size=128",
    "--config.protocol.metrics=('ndcg@5',)",
]

AS_USERS_RUN_IT = {"XLA_FLAGS": ""}

# One process imports everything and forks a child for each script: imports would take most of the time. Nothing here
# starts the JAX backend, so no thread is lost in the fork.
SERVER = """
import gc, json, os, runpy, sys, warnings
import matplotlib.backends.backend_agg, matplotlib.figure, polars
from debias_jax import _cli, experiment
from debias_jax._reproduction import tables

warnings.filterwarnings("ignore", message="os.fork")
# What is imported is no child's garbage: to go through it at its end costs a child most of its time.
gc.freeze()
for line in sys.stdin:
    script, arguments, environment, out, err = json.loads(line)
    pid = os.fork()
    if pid == 0:
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        os.environ.update(environment)
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Scripts:
    """Runs ``launch/*.py`` as a terminal would."""

    def __init__(self, folder, quick_flags):
        self.folder = folder
        # Most scripts compile as lightly as the suite: what is tested of them is what they read, write and say.
        self.quick = {"XLA_FLAGS": quick_flags}
        # Each child compiles for itself, so what one compiled is kept for the next.
        cache = {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**cache, **os.environ, "JAX_PLATFORMS": "cpu", "DEBIAS_DATA_DIR": ""},
        )

    def run(self, script, *arguments, **environment):
        """Exit code, stdout and stderr of one script."""
        out, err = self.folder / "out", self.folder / "err"
        request = [
            f"launch/{script}.py",
            [str(argument) for argument in arguments],
            self.quick | environment,
            str(out),
            str(err),
        ]
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        code = self.process.stdout.readline()
        assert code, "the server ended"
        return int(code), out.read_text(), err.read_text()

    def succeed(self, script, *arguments, **environment):
        """Stdout of a script that must succeed."""
        code, out, err = self.run(script, *arguments, **environment)
        assert code == 0, err
        assert err == ""
        return out

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def scripts(tmp_path_factory, quick_flags):
    pytest.importorskip("polars")
    pytest.importorskip("matplotlib")
    scripts = Scripts(tmp_path_factory.mktemp("scripts"), quick_flags)
    yield scripts
    scripts.close()


@pytest.fixture(scope="module")
def trained(scripts, tmp_path_factory):
    """Workdir and stdout of a tiny run."""
    workdir = tmp_path_factory.mktemp("runs") / "mf"
    return workdir, scripts.succeed("train", SYNTHETIC, *TINY, f"--workdir={workdir}", **AS_USERS_RUN_IT)


def assert_one_line(code, out, err, *fragments):
    """The script refused, in one line that holds every fragment."""
    assert "Traceback" not in out + err
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert code == 2
    for fragment in fragments:
        assert fragment in line


class TestRoundTrip:
    def test_train_reports_the_data_and_prints_a_table(self, trained):
        workdir, out = trained
        assert out.startswith("synthetic: 40 users x 25 items")
        table = (workdir / "table.txt").read_text()
        assert out.endswith(table)
        mean = json.loads((workdir / "results.json").read_text())["metrics"]["ndcg@5"]["mean"]
        assert f"{mean:.4f}" in table

    def test_a_flag_sets_what_the_variant_leaves_to_its_method(self, scripts, tmp_path):
        own = ["--config.variants.mf.hparams.weight_decay=1", "--config.variants.mf.options.frame=observed"]
        scripts.succeed("train", SYNTHETIC, *TINY, *own, f"--workdir={tmp_path}/mf")
        variant = json.loads((tmp_path / "mf" / "config.json").read_text())["variants"]["mf"]
        assert variant["hparams"]["weight_decay"] == 1.0 and variant["options"]["frame"] == "observed"

    def test_evaluate_prints_the_table_of_the_run(self, scripts, trained):
        workdir, _ = trained
        table = (workdir / "table.txt").read_text()
        assert scripts.succeed("evaluate", f"--workdir={workdir}", **AS_USERS_RUN_IT) == table
        other = scripts.succeed("evaluate", f"--workdir={workdir}", "--protocol=badr")
        assert "protocol badr" in other

    def test_recommend_prints_raw_ids_best_first(self, scripts, trained):
        workdir, _ = trained
        head, *rows = scripts.succeed("recommend", f"--workdir={workdir}", "--user=7", "--k=3").splitlines()
        assert head.split("\t") == ["rank", "item", "score"]
        ranks, items, scores = zip(*(row.split("\t") for row in rows), strict=True)
        assert ranks == ("1", "2", "3") and len(set(items)) == 3
        assert sorted(map(float, scores), reverse=True) == list(map(float, scores))
        popular = scripts.succeed(
            "recommend", f"--workdir={workdir}", "--user=nobody", "--unknown_user=popular", "--k=3"
        )
        assert len(popular.splitlines()) == 4

    def test_sweep_ranks_a_grid_on_validation(self, scripts, tmp_path):
        out = scripts.succeed(
            "sweep", SYNTHETIC, *TINY, "--seeds=1", "--grid=lr=0.001,0.05", f"--workdir={tmp_path}"
        )
        assert "mf: 2 runs in one program" in out and "validation only" in out
        (result,) = json.loads((tmp_path / "sweep.json").read_text())
        assert sorted(row["hparams"]["lr"] for row in result["rows"]) == [0.001, 0.05]

    def test_help_lists_the_flags_of_the_script(self, scripts):
        _, out, err = scripts.run("train", "--help")
        assert "--config:" in out and "--workdir:" in out and "launch/train.py --config=" in out
        assert err == ""


@pytest.fixture(scope="module")
def impressions(tmp_path_factory):
    """About 2,000 rows of what users were shown, in a csv."""
    rng = np.random.default_rng(0)
    rows = ["user,item,clicked,converted"]
    for user in range(60):
        for item in rng.choice(50, 34, replace=False):
            clicked = int(rng.random() < 0.5)
            rows.append(f"u-{user:02d},sku-{item:02d},{clicked},{clicked * int(rng.random() < 0.5)}")
    path = tmp_path_factory.mktemp("own") / "impressions.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


class TestClicksAndConversions:
    """A csv with the columns user, item, clicked, converted, without a line of code."""

    CVR = "--config=configs/own_data.py:badr"
    TINY = ["--config.model.dim=4", "--config.train.epochs=2", "--config.train.batch_size=256"]

    def test_train_and_recommend(self, scripts, impressions, tmp_path):
        arguments = [self.CVR, f"--config.data.path={impressions}", *self.TINY, "--config.seeds=(0,1)"]
        out = scripts.succeed("train", *arguments, f"--workdir={tmp_path}/run")
        assert "unobserved rows (label unknown, in no part)" in out and "as biased as it is" in out
        assert "impressions, protocol badr: mean ± sd over 2 seeds" in out
        answer = scripts.succeed(
            "recommend", f"--workdir={tmp_path}/run", "--user=u-07", "--k=5"
        ).splitlines()
        assert len(answer) == 6 and all("sku-" in line for line in answer[1:])

    def test_tune(self, scripts, impressions, tmp_path):
        pytest.importorskip("optuna")
        settings = [self.CVR, f"--config.data.path={impressions}", *self.TINY]
        out = scripts.succeed(
            "tune", *settings, "--trials=3", "--config.tune.batch=3", f"--workdir={tmp_path}/tune"
        )
        assert "badr: 3 of 3 trials, best auc" in out
        (found,) = json.loads((tmp_path / "tune" / "tuned.json").read_text()).values()
        assert 1e-4 <= found["hparams"]["min_propensity"] <= 1e-1

    @pytest.mark.parametrize(
        ("text", "flags", "fragments"),
        [
            ("user,item,click,converted\na,x,1,1\n", [], ["no column 'clicked'; did you mean 'click'?"]),
            ("user,item,clicked,conversion\na,x,1,1\n", [], ["'converted'", "mean 'conversion'"]),
            ("user,item,clicked,converted\na,x,1,1\na,y,0,1\n", [], ["csv:3", "'1' where 'clicked' is 0"]),
            ("user,item,liked\na,x,1\na,y,2\n", ["observed=", "label=liked"], ["csv:3", "holds 2"]),
        ],
        ids=["no clicked", "no converted", "converted without a click", "columns of other names"],
    )
    def test_a_file_that_does_not_fit(self, scripts, tmp_path, text, flags, fragments):
        (tmp_path / "log.csv").write_text(text)
        options = [f"--config.data.options.{flag}" for flag in flags]
        refusal = scripts.run(
            "train", self.CVR, f"--config.data.path={tmp_path}/log.csv", *options, f"--workdir={tmp_path}/run"
        )
        assert_one_line(*refusal, *fragments)


class TestRetrieval:
    """A csv of pairs is trained on, exported and queried by raw ids."""

    def test_three_commands(self, scripts, impressions, tmp_path):
        lines = [line.rsplit(",", 2)[0] for line in impressions.read_text().splitlines()]
        pairs = tmp_path / "pairs.csv"
        pairs.write_text("\n".join(lines) + "\n")
        run, items = f"--workdir={tmp_path}/run", f"{tmp_path}/items"
        config = ["--config=configs/own_data.py:ssl_pop", f"--config.data.path={pairs}"]
        small = ["--config.model.dim=4", "--config.train.epochs=2", "--config.train.batch_size=256"]
        out = scripts.succeed("train", *config, *small, "--config.seeds=(0,)", run)
        assert "pairs, protocol xir" in out and "ndcg@10" in out
        index = "flat" if importlib.util.find_spec("faiss") else "none"
        out = scripts.succeed("export", run, f"--folder={items}", f"--index={index}", "--k=5")
        assert "50 item vectors of 4 numbers" in out
        assert index == "none" or "index flat: 1.0000 of the exact top 5, 60 users asked" in out
        exact = scripts.succeed("recommend", run, "--user=u-07", "--k=5")
        assert scripts.succeed("recommend", run, "--user=u-07", "--k=5", f"--export={items}") == exact
        assert exact.count("sku-") == 5
        refusal = scripts.run("recommend", run, "--user=u-70", f"--export={items}")
        assert_one_line(*refusal, "user 'u-70' is not among the 60 known users")

    def test_a_score_that_is_no_inner_product_is_not_exported(self, scripts, impressions, tmp_path):
        config = ["--config=configs/own_data.py:mean_logit_ratings", f"--config.data.path={impressions}"]
        label = ["--config.data.options.label=converted", "--config.data.options.observed=clicked"]
        scripts.succeed("train", *config, *label, "--config.seeds=(0,)", f"--workdir={tmp_path}/run")
        refusal = scripts.run(
            "export", f"--workdir={tmp_path}/run", f"--folder={tmp_path}/items", "--index=none"
        )
        assert_one_line(*refusal, "the score of mean_logit is no inner product of vectors of its model")


class TestWrongSettings:
    @pytest.mark.parametrize(
        ("script", "arguments", "fragments"),
        [
            ("train", [SYNTHETIC, "--config.train.epocs=3"], ["config.train.epocs", "did you mean 'epochs'"]),
            ("train", [SYNTHETIC, "--config.trian.epochs=3"], ["config.trian", "did you mean 'train'"]),
            ("train", [SYNTHETIC, "--config.train.epochs.x=3"], ["config.train.epochs.x", "has no keys"]),
            (
                "train",
                [SYNTHETIC, "--config.variants.mf.hparams.lrr=1"],
                ["'lrr' of mf", "did you mean 'lr'"],
            ),
            ("train", [SYNTHETIC, "--config.variants.mf.options.fram=x"], ["'fram' of mf", "mean 'frame'"]),
            (
                "train",
                [SYNTHETIC, "--config.variants.mff.hparams.lr=1"],
                ["variants.mff", "did you mean 'mf'"],
            ),
            (
                "train",
                [SYNTHETIC, "--config.variants.mf.hparams.decay=fast"],
                ["config.variants.mf.hparams.decay", "must be a number, got 'fast'"],
            ),
            (
                "train",
                [SYNTHETIC, "--config.train.epochs=abc"],
                ["--config.train.epochs=abc", "takes an integer"],
            ),
            ("train", [SYNTHETIC, "--config.train.lr=high"], ["--config.train.lr=high", "takes a number"]),
            ("train", [SYNTHETIC, "--config.model.bias=si"], ["--config.model.bias=si", "true or false"]),
            ("train", [SYNTHETIC, "--config.train.epochs=0"], ["epochs is 0", "at least 1"]),
            (
                "train",
                ["--config.seeds=(0,)", SYNTHETIC],
                ["--config.seeds=(0,)", "before a value for --config"],
            ),
            ("train", ["--config=configs/synthetic.py:bif"], ["'bif'", "did you mean 'biif'"]),
            ("train", ["--config=configs/synthetic.py"], ["name a method after the colon", "umf"]),
            (
                "train",
                ["--config=configs/syntetic.py:mf"],
                ["configs/syntetic.py", "did you mean 'configs/synthetic.py'"],
            ),
            ("train", ["--config=nowhere/x.py:mf"], ["nowhere/x.py", "run from the root of the repository"]),
            ("train", [SYNTHETIC, "--confg.train.epochs=3"], ["--confg.train.epochs"]),
            ("train", [SYNTHETIC, "--wrokdir=x"], ["--wrokdir", "did you mean 'workdir'"]),
            ("train", [SYNTHETIC, "epochs=3"], ["'epochs=3'", "--flag=value"]),
            ("train", [], ["--config=... is missing"]),
            ("sweep", [SYNTHETIC, "--seeds=0"], ["--seeds=0", "positive integer"]),
            ("sweep", [SYNTHETIC, "--grid=lr=low"], ["'lr=low'", "name=value,value"]),
            ("sweep", [SYNTHETIC, "--grid=lrr=1"], ["'lrr' of mf", "did you mean 'lr'"]),
            ("reproduce", [SYNTHETIC, "--table=table_2"], ["--table=table_2", "biif_table2"]),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else value,
    )
    def test_settings(self, scripts, tmp_path, script, arguments, fragments):
        assert_one_line(*scripts.run(script, *arguments, f"--workdir={tmp_path}"), *fragments)

    def test_a_missing_workdir_flag(self, scripts):
        assert_one_line(*scripts.run("train", SYNTHETIC), "--workdir=... is missing")

    def test_a_workdir_that_cannot_be_made(self, scripts, tmp_path):
        (tmp_path / "taken").write_text("")
        assert_one_line(*scripts.run("train", SYNTHETIC, f"--workdir={tmp_path}/taken"), f"{tmp_path}/taken")

    def test_an_error_in_a_config_file_is_named_with_its_line(self, scripts, tmp_path):
        (tmp_path / "mine.py").write_text("def get_config(method=''):\n    return int(method)\n")
        refusal = scripts.run("train", f"--config={tmp_path}/mine.py:mf", f"--workdir={tmp_path}/run")
        assert_one_line(*refusal, f"{tmp_path}/mine.py, line 2: ValueError", "'mf'")

    def test_more_ranks_than_candidates(self, scripts, tmp_path):
        refusal = scripts.run(
            "train", SYNTHETIC, *TINY, "--config.protocol.metrics=('ndcg@300',)", f"--workdir={tmp_path}"
        )
        assert_one_line(*refusal, "ndcg@300", "k = 300", "lower k")

    def test_other_settings_in_a_workdir_that_is_taken(self, scripts, trained):
        workdir, _ = trained
        refusal = scripts.run(
            "train", SYNTHETIC, *TINY, "--config.train.batch_size=64", f"--workdir={workdir}"
        )
        assert_one_line(*refusal, "batch_size", "another workdir")


class TestWrongData:
    @pytest.mark.parametrize(
        ("rows", "options", "fragments"),
        [
            (["a,x,1", "b", "c,x,0"], {"label": "label"}, ["log.csv:3"]),
            (["a,x,1", "b,y,1,1", "c,x,0"], {"label": "label"}, ["log.csv:3"]),
            (["a,x,1", "b,y,good"], {"label": "label"}, ["log.csv:3", "'good'"]),
            (["a,x,0.5", "b,y,0"], {"propensity": "label"}, ["log.csv:3", "'0'", "outside (0, 1]"]),
            (["a,x,1", "a,x,1"], {"label": "label"}, ["log.csv:3", "also stands in", "duplicates='first'"]),
            (["a,x,1", "b,y,1"], {"label": "lable"}, ["no column 'lable'", "'label'"]),
        ],
        ids=["short row", "long row", "word for a label", "propensity 0", "duplicate", "column"],
    )
    def test_a_bad_csv_is_refused_with_its_line(self, scripts, tmp_path, rows, options, fragments):
        path = tmp_path / "log.csv"
        path.write_text("\n".join(["user,item,label", *rows]) + "\n")
        settings = [f"--config.data.options.{name}={value}" for name, value in options.items()]
        refusal = scripts.run(
            "train", OWN, f"--config.data.path={path}", *settings, f"--workdir={tmp_path}/run"
        )
        assert_one_line(*refusal, *fragments)

    def test_a_missing_file(self, scripts, tmp_path):
        path = tmp_path / "nowhere.csv"
        refusal = scripts.run("train", OWN, f"--config.data.path={path}", f"--workdir={tmp_path}/run")
        assert_one_line(*refusal, str(path))

    def test_a_missing_dataset(self, scripts, tmp_path):
        arguments = ["--config=configs/coat.py:mf", f"--workdir={tmp_path}/run"]
        assert_one_line(
            *scripts.run("train", *arguments), "coat", "--config.data.path=FOLDER", "DEBIAS_DATA_DIR"
        )
        refusal = scripts.run("train", *arguments, f"--config.data.path={tmp_path}/nowhere")
        assert_one_line(*refusal, f"{tmp_path}/nowhere")

    def test_ids_out_of_range(self):
        with pytest.raises(
            DataError, match=r"items\[1\] = 3 is outside \[0, 3\); map raw ids through a Vocabulary"
        ):
            Interactions(np.array([0, 1]), np.array([2, 3]), np.array([1.0, 0.0]), n_users=2, n_items=3)
        with pytest.raises(DataError, match=r"users\[0\] = -1 is outside \[0, 2\)"):
            Interactions(np.array([-1]), np.array([0]), np.array([1.0]), n_users=2, n_items=3)


class TestWrongQuestions:
    @pytest.mark.parametrize(
        ("arguments", "fragments"),
        [
            (["--user=nobody"], ["user 'nobody'", "40 known users", "unknown_user"]),
            (["--user=7", "--k=26"], ["k = 26", "only 25"]),
            (["--user=7", "--k=0"], ["k must be an integer of at least 1, got 0"]),
            (["--history=3,4"], ["mf reads no history", "--user=ID"]),
            (["--history=3", "--unknown_user=popular"], ["--unknown_user does not go with --history"]),
            (["--history=3", "--export=runs/x"], ["--export does not go with --history"]),
            (["--history=3", '--history="4,5'], ['cannot read --history="4,5']),
            (["--user=7", "--k=many"], ["--k=many", "takes an integer"]),
            ([], ["name a user, --user=ID", "--history=ITEM,ITEM"]),
        ],
        ids=str,
    )
    def test_recommend(self, scripts, trained, arguments, fragments):
        assert_one_line(*scripts.run("recommend", f"--workdir={trained[0]}", *arguments), *fragments)

    @pytest.mark.parametrize("script", ["evaluate", "recommend"])
    def test_a_folder_that_is_no_workdir(self, scripts, tmp_path, script):
        user = ["--user=7"] if script == "recommend" else []
        refusal = scripts.run(script, f"--workdir={tmp_path}", *user)
        assert_one_line(*refusal, str(tmp_path), "train first with launch/train.py")

    def test_an_unknown_protocol(self, scripts, trained):
        refusal = scripts.run("evaluate", f"--workdir={trained[0]}", "--protocol=badrr")
        assert_one_line(*refusal, "'badrr'", "did you mean 'badr'")


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ([SYNTHETIC, "--config.train.epocs=3"], ["config.train.epocs", "did you mean 'epochs'"]),
        ([OWN, "--config.data.path={folder}/log.csv"], ["log.csv:2"]),
    ],
    ids=["config key", "csv row"],
)
def test_a_process_of_its_own_says_the_same(tmp_path, arguments, fragments):
    """The server is a convenience: two cases without it."""
    pytest.importorskip("polars")
    (tmp_path / "log.csv").write_text("user,item\na\n")
    command = [sys.executable, "launch/train.py", *(text.format(folder=tmp_path) for text in arguments)]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path}/run"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert_one_line(done.returncode, done.stdout, done.stderr, *fragments)
