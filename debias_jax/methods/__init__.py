"""Methods: each a file that names its terms and hands them to a recipe."""

from debias_jax.methods.alter_opt import alter_opt as alter_opt
from debias_jax.methods.auto_debias import auto_debias as auto_debias
from debias_jax.methods.badr import badr as badr
from debias_jax.methods.badr_mmoe import badr_mmoe as badr_mmoe
from debias_jax.methods.bi_opt2 import bi_opt2 as bi_opt2
from debias_jax.methods.biif import biif as biif
from debias_jax.methods.bir import bir as bir
from debias_jax.methods.bpr import bpr as bpr
from debias_jax.methods.ceb import ceb as ceb
from debias_jax.methods.cjmf import cjmf as cjmf
from debias_jax.methods.cvib import cvib as cvib
from debias_jax.methods.d_dr import d_dr as d_dr
from debias_jax.methods.damf import damf as damf
from debias_jax.methods.dce_dr import dce_dr as dce_dr
from debias_jax.methods.dce_tdr import dce_tdr as dce_tdr
from debias_jax.methods.ddpo import ddpo as ddpo
from debias_jax.methods.dib import dib as dib
from debias_jax.methods.dr_bias import dr_bias as dr_bias
from debias_jax.methods.dr_jl import dr_jl as dr_jl
from debias_jax.methods.dr_mse import dr_mse as dr_mse
from debias_jax.methods.dr_mse_gpl import dr_mse_gpl as dr_mse_gpl
from debias_jax.methods.eib import eib as eib
from debias_jax.methods.escm2_dr import escm2_dr as escm2_dr
from debias_jax.methods.escm2_ips import escm2_ips as escm2_ips
from debias_jax.methods.expomf import expomf as expomf
from debias_jax.methods.g_tower import g_tower as g_tower
from debias_jax.methods.ips import ips as ips
from debias_jax.methods.joint_opt import joint_opt as joint_opt
from debias_jax.methods.mean_logit import mean_logit as mean_logit
from debias_jax.methods.mf import mf as mf
from debias_jax.methods.mf_bias import mf_bias as mf_bias
from debias_jax.methods.mns import mns as mns
from debias_jax.methods.mrdr import mrdr as mrdr
from debias_jax.methods.multi_dr import multi_dr as multi_dr
from debias_jax.methods.multi_ips import multi_ips as multi_ips
from debias_jax.methods.next_item import next_item as next_item
from debias_jax.methods.relmf import relmf as relmf
from debias_jax.methods.sndr import sndr as sndr
from debias_jax.methods.snips import snips as snips
from debias_jax.methods.ssl import ssl as ssl
from debias_jax.methods.ssl_pop import ssl_pop as ssl_pop
from debias_jax.methods.stable_dr import stable_dr as stable_dr
from debias_jax.methods.tdr_cl import tdr_cl as tdr_cl
from debias_jax.methods.ubo import ubo as ubo
from debias_jax.methods.ubpr import ubpr as ubpr
from debias_jax.methods.umf import umf as umf
from debias_jax.methods.wmf import wmf as wmf
from debias_jax.methods.xir import xir as xir

__all__ = [
    "alter_opt",
    "auto_debias",
    "badr",
    "badr_mmoe",
    "bi_opt2",
    "biif",
    "bir",
    "bpr",
    "ceb",
    "cjmf",
    "cvib",
    "d_dr",
    "damf",
    "dce_dr",
    "dce_tdr",
    "ddpo",
    "dib",
    "dr_bias",
    "dr_jl",
    "dr_mse",
    "dr_mse_gpl",
    "eib",
    "escm2_dr",
    "escm2_ips",
    "expomf",
    "g_tower",
    "ips",
    "joint_opt",
    "mean_logit",
    "mf",
    "mf_bias",
    "mns",
    "mrdr",
    "multi_dr",
    "multi_ips",
    "next_item",
    "relmf",
    "sndr",
    "snips",
    "ssl",
    "ssl_pop",
    "stable_dr",
    "tdr_cl",
    "ubo",
    "ubpr",
    "umf",
    "wmf",
    "xir",
]
