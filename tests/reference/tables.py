"""Made-up rows and a small experiment, for tests of tables and figures."""

import importlib.util
import pathlib

import numpy as np

from debias_jax._reproduction import tables
from debias_jax.experiment._results import Scored
from debias_jax.training.evaluation import Evaluation

METRICS = ("dcg@1", "dcg@3", "map@1")
ROOT = pathlib.Path(__file__).parent.parent.parent


def scored(name, users, *, hparams=None, names=METRICS):
    """A variant whose metrics all have the values ``users`` ``[runs, users]``."""
    users = np.asarray(users, np.float32)
    counted = np.ones(users.shape[1], bool)
    evaluations = [
        Evaluation(
            per_user=dict.fromkeys(names, run),
            where=dict.fromkeys(names, counted),
            pooled={},
            finite=np.asarray(True),
        )
        for run in users
    ]
    # What the tables do not read stays None.
    fields = {
        "name": name,
        "protocol": {"name": "cjmf", "metrics": list(names)},
        "seeds": tuple(range(len(users))),
        "evaluations": evaluations,
        "pcc": [],
        "hparams": hparams or {},
    }
    return Scored(**dict.fromkeys(Scored._fields) | fields)


def cells(lines, start):
    """The cells of the first row that starts so."""
    line = next(line for line in lines if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")]


def config_module(name):
    """``configs/NAME.py``."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_config(name, method):
    """``configs/NAME.py:METHOD``."""
    return config_module(name).get_config(method)


def section_of(table, folder, *, command="COMMAND"):
    """A function of a config that reproduces a table of ``synthetic`` in a results page that has nothing else."""

    def reproduce(config):
        name = f"{table}_synthetic"
        (folder / "results.md").write_text(f"<!-- begin {name} -->\n<!-- end {name} -->\n")
        return tables.reproduce(table, config, str(folder / "runs"), command=command, docs=str(folder))

    return reproduce


def small_config(method, **train):
    """Variants of ``configs/synthetic.py`` on 30 users and 20 items, two seeds, protocol ``badr``."""
    config = load_config("synthetic", method)
    with config.unlocked():
        config.data.options = {"seed": 0, "n_users": 30, "n_items": 20, "mean_exposure": 0.3}
        config.model.dim = 4
        config.seeds = (0, 1)
        config.protocol.test = "badr"
        config.protocol.metrics = ("auc", "ndcg@5", "recall@5")
        config.train.update({"epochs": 2, "eval_every": 1, "batch_size": 128, "patience": 0, **train})
    return config
