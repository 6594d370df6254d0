"""The trainings that made data/runs, as one table: what each is, its seeds, and what it is tested on."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import check_name
from ..data.matrices import STUDIED
from .config import Config


@dataclass(frozen=True)
class Preset:
    """seeds: of the runs to train. problems: fresh ones that the first seed is tested on, of each of the spectra
    `tested`; the other seeds have 10,000."""

    config: Config
    seeds: tuple[int, ...] = (0,)
    problems: int = 10_000
    tested: tuple[str, ...] = ("semicircle",)

    def problems_for(self, seed: int) -> int:
        return self.problems if seed == self.seeds[0] else min(self.problems, 10_000)


def eigenvalues(size: int, spectrum: str, examples: int, **options) -> Preset:
    """A model of eigenvalues is tested on all of STUDIED. Of the two that the claims are about, three seeds."""
    seeds = (0, 1, 2) if spectrum in ("semicircle", "laplace") else (0,)
    config = Config.of("eigenvalues", size, {"examples": examples}, spectrum=spectrum, **options)
    return Preset(config, seeds, tested=STUDIED)


AS_THEY_ARE = {"canonical_input": False, "optimizer": "adamw"}
TAUGHT = {"components": 5.0, "cotrain": False}  # the encoder learns more than the solution, see ModelOptions
LATE = {"batch": 256, "decay": 1.0}  # larger batches and one long decay, for a later phase
FEWER = {"positive2": 200_000, "marcenko": 200_000}  # examples of 5x5; the other spectra have 400,000

# Budgets are in examples, so that a run can be repeated exactly, except where equal time is the point.
PRESETS: dict[str, Preset] = {
    **{
        f"eigenvalues-3x3-{spectrum}": eigenvalues(3, spectrum, 500_000, width=64, canonical_input=False)
        for spectrum in STUDIED
    },
    "eigenvectors-3x3": Preset(
        Config.of("eigenvectors", 3, {"examples": 1_200_000}, beta2=0.98, **AS_THEY_ARE), (0, 1, 2), problems=50_000
    ),
    "eigenvectors-3x3-half": Preset(
        Config.of("eigenvectors", 3, {"examples": 150_000}, **AS_THEY_ARE), problems=50_000
    ),
    # In equal time: what canonical matrices and components save, and whether they change what failures retain.
    "eigenvectors-3x3-canonical": Preset(Config.of("eigenvectors", 3, {"minutes": 13}, **TAUGHT)),
    "eigenvectors-3x3-components": Preset(
        Config.of("eigenvectors", 3, {"minutes": 13}, **TAUGHT, canonical_input=False)
    ),
    "inversion-2x2": Preset(
        Config.of("inversion", 2, {"examples": 4_000_000}, beta2=0.98, **AS_THEY_ARE), problems=50_000
    ),
    # 3x3 inversion was learned better with AdamW, 5x5 eigenvectors with Muon (LOG.md).
    "inversion-3x3": Preset(
        Config.of(
            "inversion", 3, {"minutes": 45}, {"minutes": 73, "learning_rate": 1e-3, **LATE}, optimizer="adamw", **TAUGHT
        ),
        problems=50_000,
    ),
    **{f"eigenvalues-5x5-{spectrum}": eigenvalues(5, spectrum, FEWER.get(spectrum, 400_000)) for spectrum in STUDIED},
    # From the solutions alone: nothing but their tokens is learned. Depth pays once attention is normalised (LOG.md).
    # Two processes trained it: each minute is two of a core. `-half` is a copy of it as it was on its way.
    "eigenvectors-5x5": Preset(
        Config.of(
            "eigenvectors",
            5,
            {"minutes": 12, "decay": 0.01},
            {"minutes": 60, **LATE},
            encoder_layers=6,
            decoder_layers=2,
            query_key_norm=True,
            weight_decay=0.1,
        ),
        problems=50_000,
    ),
    "eigenvectors-5x5-components": Preset(
        Config.of(
            "eigenvectors",
            5,
            {"minutes": 35},
            {"minutes": 44, "learning_rate": 1e-3, **LATE},
            {"minutes": 34, "learning_rate": 5e-4, **LATE},
            **TAUGHT,
        )
    ),
}


def run_name(preset: str, seed: int) -> str:
    """Name of the run of a preset and seed: a folder of data/runs."""
    return preset if seed == 0 else f"{preset}-seed{seed}"


def get_preset(name: str) -> Preset:
    """The preset of that name; ValueError, with the near matches, for any other."""
    check_name("preset", name, PRESETS)
    return PRESETS[name]


def preset_of_run(name: str) -> tuple[Preset, int] | None:
    """The preset and the seed that a folder of that name is the run of, or None."""
    names = {run_name(preset, seed): (PRESETS[preset], seed) for preset in PRESETS for seed in PRESETS[preset].seeds}
    return names.get(name)
