"""Methods: each a file that names its terms and hands them to a recipe."""

from debias_jax.methods.alter_opt import alter_opt as alter_opt
from debias_jax.methods.bi_opt2 import bi_opt2 as bi_opt2
from debias_jax.methods.biif import biif as biif
from debias_jax.methods.bpr import bpr as bpr
from debias_jax.methods.ips import ips as ips
from debias_jax.methods.joint_opt import joint_opt as joint_opt
from debias_jax.methods.mean_logit import mean_logit as mean_logit
from debias_jax.methods.mf import mf as mf
from debias_jax.methods.relmf import relmf as relmf
from debias_jax.methods.snips import snips as snips
from debias_jax.methods.umf import umf as umf

__all__ = [
    "alter_opt",
    "bi_opt2",
    "biif",
    "bpr",
    "ips",
    "joint_opt",
    "mean_logit",
    "mf",
    "relmf",
    "snips",
    "umf",
]
