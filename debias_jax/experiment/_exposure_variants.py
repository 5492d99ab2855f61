"""Groups of variants of Biif's figures and ablations, for the configs of several datasets."""

FIGURE1 = ("joint_opt", "alter_opt", "bi_opt2", "biif")
"""What Biif's Figure 1 compares: is the bi-level step needed, and its validation set?"""

FIGURE2 = ("expomf", "cjmf", "ceb", "joint_opt", "biif")
"""The methods of Figure 2, which estimate exposure while they train."""

FIGURE3 = ("relmf", "expomf", "cjmf", "auto_debias", "ceb", "bpr", "umf", "joint_opt", "biif")
"""The methods of Figure 3, on data with a known exposure."""

CLIPPED = ("relmf", "umf", "cjmf", "ceb", "biif")
"""The methods whose exposure the paper clipped from below, at .01."""

CLIPS = {
    f"{method}_clip_{round(100 * level):02d}": (method, {}, {"min_exposure": level})
    for method in CLIPPED
    for level in (0.05, 0.1, 0.2, 0.5)
}
"""Lower clips of the exposure: at .01 popularity clips nothing that a click has, so that the paper's could not matter.
Variant name -> (method, options, fixed hyperparameters)."""

_CHOICES = (
    "biif_frozen",
    "biif_mean",
    "biif_attached",
    "biif_inner_adam",
    "biif_inner_sgd",
    "biif_positives",
)

EXPOSURE_GROUPS = {
    "figure1": FIGURE1,
    "figure2": FIGURE2,
    "figure3": FIGURE3,
    "figures": ("mf", *dict.fromkeys((*FIGURE3, *FIGURE1, *FIGURE2))),
    "choices": ("mf", "biif", *_CHOICES),
    "clips": tuple(
        name
        for method in CLIPPED
        for name in (method, *(clip for clip, (of, _, _) in CLIPS.items() if of == method))
    ),
    "ablations": ("biif", *_CHOICES, *(name for name, (of, _, _) in CLIPS.items() if of == "biif")),
}
"""``figures``: all that Figures 1-3 need, and ``mf``. ``choices``: what the paper leaves open, one changed at a time.
``clips``: the five methods unclipped (``cjmf``: at its .01), and with each clip. ``ablations``: of ``biif``, both."""
