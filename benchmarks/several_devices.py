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
from debias_jax.training._programs import train_epochs


def operations(method: Method, log: Dataset, n_devices: int) -> float:
    """Operations of one device of ``n_devices``."""
    mesh = training.make_mesh(data=n_devices)
    train, key = training.data_for(method, log), training.run_key(0)
    hparams = {name: jnp.float32(value) for name, value in method.hparams.items()}
    arrays = (jax.jit(method.init)(key, train, hparams), train, key)

    def epoch(state, train, key):
        return train_epochs(method, state, train, key, jnp.int32(0), n_epochs=1, mesh=mesh)

    placed = jax.device_put(arrays, jax.NamedSharding(mesh, jax.P()))
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
