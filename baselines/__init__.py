"""The baselines that DN2 is compared with, one file per paper.

They import neither `dn2` nor `benchmarks`; `benchmarks/detectors/table.py` names their classes.

The files with an underscore hold what the papers have in common:

    _parameters.py    rules for parameters, which constructors annotate
    _preparation.py   device and precision; checks, padding and drawing of images
    _transforms.py    flips, shifts and rotations of image batches
    _networks.py      the networks, and how their weights start
    _training.py      the training loop and its checkpoints
    _prediction.py    a trained network over every view of every image
    _inference.py     a Wide ResNet compiled for a CPU
    _trained.py       the base classes of the four baselines that train a network
"""
