"""The command door: `python run.py COMMAND ...`.

Finds the command, builds its argument dataclass from the command line, and runs it. Only the
chosen command is imported, so `--help` is quick and browsing commands load no torch.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import os
import sys

# name -> (module, argument dataclass, one line of help)
COMMANDS = {
    "demo": (
        "commands.demo",
        "Demo",
        "train, evaluate, harvest and score on the demo model; open the app",
    ),
    "train": ("commands.train", "Train", "train a sparse autoencoder on a model's activations"),
    "sweep": ("commands.sweep", "SweepArgs", "train a grid of them on one pass of the model"),
    "evaluate": ("commands.evaluate", "Evaluate", "measure it on held-out documents"),
    "probe": ("commands.probe", "Probe", "read labels off its features, and off raw activations"),
    "harvest": ("commands.harvest", "HarvestArgs", "fill its feature store"),
    "effects": ("commands.effects", "Effects", "ablate its features where they are active"),
    "neighbours": (
        "commands.neighbours",
        "NeighboursArgs",
        "find features that point the same way or fire together; draw a map",
    ),
    "explain": ("commands.explain", "Explain", "let a judge say what features stand for"),
    "score": ("commands.score", "ScoreArgs", "score explanations on text they never saw"),
    "arms new": ("commands.arms", "New", "plan a study over several SAEs, and freeze the plan"),
    "arms run": ("commands.arms_run", "Go", "explain and score the features it drew"),
    "arms report": ("commands.arms", "Report", "compare its SAEs: figures, means, differences"),
    "control": ("commands.control", "Control", "make a random SAE that is as sparse as another"),
    "control-lm": (
        "commands.control_lm",
        "ControlLM",
        "write a language model with its weights drawn again",
    ),
    "verify": ("commands.verify", "Verify", "compute its feature store again and compare"),
    "import": ("commands.import_", "Import", "take in an SAE that another program saved"),
    "export": ("commands.export", "Export", "write an SAE, or its features, for another program"),
    "doctor": ("commands.doctor", "Doctor", "say what is installed, what is here, what is wrong"),
    "app": ("commands.app", "App", "open the browser on a workspace"),
    "access add": ("commands.access", "Add", "let somebody use the app, with a passcode"),
    "access remove": ("commands.access", "Remove", "let somebody use it no longer"),
    "access list": ("commands.access", "List", "say who may use it"),
    "lm train": ("commands.lm", "LMTrain", "make the embedded language model"),
    "serve-model": (
        "commands.serve_model",
        "ServeModel",
        "the app's model worker (starts by itself)",
    ),
}


def keep_freed_memory() -> None:
    """Lets glibc keep freed pages: fresh ones for every large tensor cost up to half the time of a
    training step on a CPU (docs/BENCHMARKS.md). Without glibc nothing happens."""
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def refuse_odd_numbers(args: object) -> None:
    """WorkbenchError for nan, infinity, and a seed that no generator takes."""
    from data.errors import WorkbenchError

    for name, value in vars(args).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise WorkbenchError(f"--{name.replace('_', '-')} {value}: give a finite number")
        if name == "seed" and not 0 <= value < 2**63:
            raise WorkbenchError(f"--seed {value}: give a whole number from 0 to 2^63 - 1")


def main(argv: list[str]) -> int:
    # Before torch is loaded: spinning OpenMP threads make a shared machine several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    name = next((n for n in COMMANDS if argv[: len(n.split())] == n.split()), None)
    if name is None:
        print("usage: python run.py COMMAND [--help]\n")
        for command, (_, _, text) in COMMANDS.items():
            print(f"  {command:<15}{text}")
        known = not argv or argv[0] in ("-h", "--help")
        if not known:
            print(f"\nno command {' '.join(argv[:2])!r}; it is one of the above", file=sys.stderr)
        return 0 if known else 2
    import tyro

    from data.errors import WorkbenchError
    from sae.config import Refused

    module, dataclass_name, _ = COMMANDS[name]
    try:
        command = importlib.import_module(module)
        args = tyro.cli(
            getattr(command, dataclass_name),
            prog=f"run.py {name}",
            args=argv[len(name.split()) :],
            config=(tyro.conf.PositionalRequiredArgs,),
        )
        keep_freed_memory()
        refuse_odd_numbers(args)
        return command.run(args)
    except (WorkbenchError, Refused) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing half-written was published", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
