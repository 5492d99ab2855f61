"""Cross-entropy over all items with its gradient, in chunks and plain: time, and memory beside table and gradients.

    python benchmarks/chunked_cross_entropy.py
    python benchmarks/chunked_cross_entropy.py --items 1000000 --rows 512 --valid 512 --rounds 1

The default is a batch of the size that SASRec has on Amazon Beauty: 4,600 positions, of which 2,910 hold a target. The
plain form computes all positions, or, in the row ``plain, packed``, the valid ones alone, which a program with padding
does not have at hand. ``matmuls`` are the three products that any of them needs, without a softmax. Every program runs
once in each round, so that a change of the machine's mood hits all alike.

The compiler's memory is what it reserves for intermediate results. The process's is how far its peak rises above what
it held with the arguments in place, less the gradients; each program is measured in a process of its own.
"""

import argparse
import multiprocessing
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from debias_jax import losses

MEBI = 2**20


def plain(hidden, table, target, where):
    return losses.cross_entropy(hidden @ table.T, target, where=where)


def program(name: str, options: argparse.Namespace):
    """A compiled program, and its arguments."""
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(options.rows, options.dim)), jnp.float32)
    table = jnp.asarray(rng.normal(0.0, 0.1, size=(options.items, options.dim)), jnp.float32)
    target = jnp.asarray(rng.integers(0, options.items, options.rows), jnp.int32)
    where = jnp.asarray(rng.permutation(options.rows) < options.valid)
    if "packed" in name:
        hidden, target, where = hidden[where], target[where], jnp.ones(options.valid, bool)

    def chunked(hidden, table, target, where):
        return losses.chunked_cross_entropy(hidden, table, target, where=where, chunk=options.chunk)

    def matmuls(hidden, table, target, where):
        scores = hidden @ table.T
        return scores @ table, scores.T @ hidden

    function = {
        "matmuls, packed": matmuls,
        "chunked": jax.value_and_grad(chunked, argnums=(0, 1)),
        "plain": jax.value_and_grad(plain, argnums=(0, 1)),
        "plain, packed": jax.value_and_grad(plain, argnums=(0, 1)),
    }[name]
    arguments = (hidden, table, target, where)
    return jax.jit(function).lower(*arguments).compile(), arguments


def resident(which: str) -> float:
    """MiB that this process holds (``VmRSS``) or held at most (``VmHWM``)."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(f"{which}:")[1].split()[0]) / 2**10


def memory_of(name: str, options: argparse.Namespace, connection) -> None:
    """Sends the compiler's and the process's memory for one program, in MiB, or why there is none."""
    compiled, arguments = program(name, options)
    reserved = compiled.memory_analysis().temp_size_in_bytes / MEBI
    gradients = (arguments[0].nbytes + arguments[1].nbytes) / MEBI
    jax.block_until_ready(arguments)
    # The peak so far includes the making of the arguments; start again from what is held now.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    jax.block_until_ready(compiled(*arguments))
    connection.send((reserved, resident("VmHWM") - before - gradients))


def memory(names: list[str], options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Memory of each program; a program that the machine has no room for is left out."""
    context, found = multiprocessing.get_context("spawn"), {}
    for name in names:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=memory_of, args=(name, options, sender))
        process.start()
        sender.close()
        try:
            found[name] = receiver.recv()
        except EOFError:
            print(f"{name}: the process was ended before it was done")
        process.join()
    return found


def times(names: list[str], options: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of each program in every round, after one that is not counted."""
    programs = {name: program(name, options) for name in names}
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(options.rounds + 1):
        for name, (compiled, arguments) in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            if number:
                found[name].append(1e3 * (time.perf_counter() - started))
    return found


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--rows", type=int, default=4_600)
    parser.add_argument("--valid", type=int, default=2_910)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--chunk", type=int, help="examples at a time (default: the library's choice)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--programs", nargs="*", default=["matmuls, packed", "chunked", "plain", "plain, packed"]
    )
    options = parser.parse_args()
    held = memory(options.programs, options)
    took = times(options.programs, options)
    print(
        "| program | ms, median | ms, least | MiB by the compiler | MiB by the process |\n|---|---|---|---|---|"
    )
    for name, values in took.items():
        reserved, peak = held.get(name, (float("nan"),) * 2)
        print(
            f"| {name} | {statistics.median(values):.0f} | {min(values):.0f} | {reserved:.0f} | {peak:.0f} |"
        )


if __name__ == "__main__":
    main()
