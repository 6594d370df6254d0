"""Where the repository's data and figures are. Computed once, here; everything else takes these names.

The environment variable MATHTRANSFORMER_HOME names the folder that holds data/ and figures/. Without it that is the
checkout that the library is imported from, and for a library installed elsewhere the working directory.
"""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("MATHTRANSFORMER_HOME") or (CHECKOUT if (CHECKOUT / "data" / "runs").is_dir() else "."))
HOME = HOME.resolve()
RUNS = HOME / "data" / "runs"  # a folder a trained model
PROBLEMS = HOME / "data" / "problems"  # each test set once
PREDICTIONS = HOME / "data" / "predictions"  # the answers of a run to a test set
RESULTS = HOME / "data" / "results"  # tables, one row a measurement
FIGURES = HOME / "figures"
