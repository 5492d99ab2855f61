"""What one of several devices computes of an epoch, beside a device that computes all of it.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python benchmarks/several_devices.py

Counts are the compiler's, of floating-point operations, with the body of a loop once: those of a step. No speed is
measured: devices that share a CPU would not show it. SASRec has the size of Amazon Beauty and its published settings;
``mf`` that of MovieLens 100K. Without ``DEBIAS_DATA_DIR`` the histories are drawn at random.
"""

import argparse

import jax
import jax.numpy as jnp
from sequential_epoch import BATCH_SIZE, DIM, DROPOUT, LENGTH, NEGATIVES, load

from debias_jax import data, methods, models, training
from debias_jax.data.types import Dataset
from debias_jax.methods.base import Method
from debias_jax.training.mesh import on_every_device


def operations(method: Method, log: Dataset, n_devices: int) -> float:
    """Operations of one device of ``n_devices``."""
    mesh = training.make_mesh(data=n_devices)
    train, key = training.data_for(method, log), training.run_key(0)
    state = jax.jit(method.init)(key, train, dict(method.hparams))

    def epoch(state, train, key):
        return training.train_epochs(method, state, train, key, jnp.int32(0), n_epochs=1, mesh=mesh)

    placed = on_every_device(mesh, (state, train, key))
    return jax.jit(epoch).lower(*placed).compile().cost_analysis()["flops"]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=4)
    n_devices = parser.parse_args().devices
    events = load(4 * BATCH_SIZE)
    sasrec = models.sasrec(events.n_items, dim=DIM, max_len=LENGTH, dropout=DROPOUT)
    sampled = {"loss": "scaled_cross_entropy", "n_negatives": NEGATIVES}
    clicks = data.splits.biif(
        data.synthetic.generate(seed=0, n_users=943, n_items=1682, mean_exposure=0.05), seed=0
    )
    programs = {
        "SASRec, cross-entropy": (methods.next_item(sasrec, batch_size=BATCH_SIZE), events),
        "SASRec, SCE": (methods.next_item(sasrec, batch_size=BATCH_SIZE, **sampled), events),
        "mf, batches of 1,024": (methods.mf(models.mf(943, 1682, dim=32), batch_size=1024), clicks),
    }
    print(f"| method | of one device's operations, each of {n_devices} |\n|---|---|")
    for name, (method, log) in programs.items():
        share = operations(method, log, n_devices) / operations(method, log, 1)
        print(f"| {name} | {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
