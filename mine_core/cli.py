"""The command line: `python -m mine_core COMMAND`. Every command calls the functions that the app calls."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mine_core.artifacts import ArtifactStore, write_text
from mine_core.cli_batch import add_batch_command
from mine_core.cli_common import Bar, add, add_group, add_where, settings, where_of
from mine_core.cli_export import add_export_command
from mine_core.cli_import import add_import
from mine_core.cli_notebook import add_notebook_commands
from mine_core.cli_words import add_words_commands
from mine_core.config import InstrumentConfig, cache_directory
from mine_core.errors import ConfigError, MineError

REFUSED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, or 2 after a one-line refusal."""
    options = parser().parse_args(arguments)
    bar = Bar()
    try:
        if options.json and not Path(options.json).parent.is_dir():
            raise ConfigError(f"There is no folder for --json {options.json}; make it first, or name another.")
        outcome = options.run(options, bar)
        if options.json:
            write_text(Path(options.json), json.dumps(outcome, indent=2, allow_nan=False) + "\n")
    except MineError as refusal:
        bar.close()
        print(f"mine: {refusal}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        bar.close()
        print("mine: stopped; what was finished is kept, and the same command goes on from there.", file=sys.stderr)
        return REFUSED
    bar.close()
    show(outcome)
    return 0


def show(outcome: Any, indent: int = 0) -> None:
    """Print a result as indented lines; of a list of findings, the sentence that each is told in (--json has all of it)."""
    for name, value in outcome.items():
        if isinstance(value, Mapping):
            print(f"{'  ' * indent}{name}:")
            show(value, indent + 1)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], str) and len(value) > 3:
            print(f"{'  ' * indent}{name}:")
            for line in value:
                print(f"{'  ' * (indent + 1)}{line}")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping) and "sentence" in value[0]:
            print(f"{'  ' * indent}{name}:")
            for finding in value:
                print(f"{'  ' * (indent + 1)}{finding['sentence']}")
        else:
            print(f"{'  ' * indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}")


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    top = argparse.ArgumentParser(prog="python -m mine_core", description="MINE: what drives each voxel, and is it the cause?")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add(commands, "doctor", "what this machine has, what is missing, and what still works without it", run_doctor)
    build = add(commands, "build", "make everything an instrument needs in the cache; goes on where it was stopped", run_build)
    fit = add(commands, "fit", "fit an encoding model of a subject and score it on held-out stimuli", run_fit)
    fit.add_argument("--encoder", choices=("ridge", "query_attention", "banded"), default="ridge", help="which (default: ridge)")
    fit.add_argument("--dictionary", action="store_true", help="sparse autoencoders of every layer, matched to voxels, as well")
    for command in (build, fit):
        add_where(command, workers=1)
    add_import(commands)
    add_words_commands(commands)
    add_batch_command(commands)
    add_export_command(commands)
    add_notebook_commands(commands)
    add_evaluations(commands)
    benchmark = add_group(commands, "benchmark", "measure how fast a part of the instrument is")
    explain = add(benchmark, "explain", "one voxel's images, heatmaps and words, beside integrated gradients", run_explain_speed)
    explain.add_argument("--synthetic", action="store_true", help="a made-up subject of 20,000 voxels and 10,000 images instead")
    add_attribution_speed(benchmark)
    add(benchmark, "start", "seconds to a usable page, cold and warm, and peak memory", run_benchmark("start"))
    add(
        benchmark,
        "words",
        "a text search over 20,000 voxels, and all profiles made anew on two processes",
        run_benchmark("words-speed"),
    )
    add(benchmark, "edit", "seconds an edit takes by stage, controls and all", run_benchmark("edit"))
    add_encoding_speed(benchmark)
    return top


def add_evaluations(commands: Any) -> None:
    """Add `evaluate` and its commands, each with the options that say where it runs."""
    evaluate = add_group(commands, "evaluate", "measure how well a part of the instrument tells the truth")
    add(evaluate, "encoding", "accuracy, noise ceilings, false positives", run_evaluation("encoding"))
    add(evaluate, "description", "words, attributes and captions against planted answers and nulls", run_evaluation("description"))
    add(evaluate, "dictionary", "autoencoders, units matched to voxels, layers: against nulls", run_evaluation("dictionary"))
    add(evaluate, "learning", "accuracy against the number of training images", run_evaluation("learning"))
    add(evaluate, "attribution", "every method: pointing game, insertion and deletion, tokens", run_evaluation("attribution"))
    add(
        evaluate,
        "removal",
        "does removing what drives a voxel lower its prediction beyond all controls?",
        run_evaluation("removal"),
    )
    add(
        evaluate,
        "counterfactual",
        "removals, insertions and every control against the planted brain; drivers told from their company",
        run_evaluation("counterfactual"),
    )
    add(evaluate, "concept", "activation, negatives, edits and verdicts against the planted driver", run_evaluation("concept"))
    add_claims(evaluate)
    for command in evaluate.choices.values():
        add_where(command, workers=1)


def add_claims(commands: Any) -> None:
    """Add the command that tests the paper's claims."""
    purpose = "the paper's claims with mixed models: reconstruction, discriminability, edits, faithfulness, guidance, patches"
    command = add(commands, "claims", purpose, run_claims)
    command.add_argument("--voxels", type=int, default=16, help="how many, at random; more add to those that are done (default: 16)")
    command.add_argument("--editor", default="", metavar="NAME", help="a generative editor that makes the images, instead of cut-outs")
    also = "further subjects, phantoms as phantom:SEED; what they and the first show together is told, and each beside it in --json"
    command.add_argument("--also", nargs="+", default=[], metavar="SUBJECT", help=also)


def add_encoding_speed(commands: Any) -> None:
    """Add the command that times the fit of an encoding model."""
    purpose = "every voxel's ridge with a penalty of its own, beside himalaya and scikit-learn"
    command = commands.add_parser("encoding", help=purpose, description=purpose)
    command.add_argument("--stimuli", type=int, default=3000, help="training images (default: 3000)")
    command.add_argument("--features", type=int, default=256, help="features of each image (default: 256)")
    command.add_argument("--voxels", type=int, default=5000, help="voxels to fit (default: 5000)")
    names = "himalaya, scikit-learn"
    command.add_argument("--against", nargs="*", default=names.split(", "), metavar="NAME", help=f"which of {names} (default: both)")
    command.add_argument("--seed", type=int, default=0, help="which made-up recording, 0 to 89 (default: 0)")
    command.add_argument("--json", metavar="PATH", help="write the result there, as JSON")
    command.set_defaults(run=run_encoding_speed)


def add_attribution_speed(commands: Any) -> None:
    """Add the command that times every method of attribution."""
    purpose = "one heatmap of every method at the size of a public model, beside captum's"
    command = commands.add_parser("attribution", help=purpose, description=purpose)
    command.add_argument("--architecture", default="ViT-B-16", help="of open_clip, with random weights (default: ViT-B-16)")
    command.add_argument("--seed", type=int, default=0, help="of the weights and images, 0 to 89 (default: 0)")
    command.add_argument("--json", metavar="PATH", help="write the result there, as JSON")
    command.set_defaults(run=run_attribution_speed)


def run_doctor(options: argparse.Namespace, _bar: Bar) -> dict[str, Any]:
    """Look at this machine."""
    from mine_core.instrument.doctor import examine

    return examine(settings(options), ArtifactStore(cache_directory()))


def run_build(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Build an instrument and say what it is."""
    from mine_core.instrument.build import build_instrument, summary
    from mine_core.instrument.spread import spread_stages

    config, store = settings(options), ArtifactStore(cache_directory())
    spread_stages(config, store, where_of(options), on_progress=bar)
    return summary(build_instrument(config, store, on_progress=bar))


def run_fit(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Build what the app needs with ridge, and fit the encoder that was asked for beside it."""
    from mine_core.instrument.encoders import fit_encoder
    from mine_core.instrument.spread import spread_stages

    built = run_build(options, bar)
    config, store = settings(options), ArtifactStore(cache_directory())
    if options.dictionary:
        spread_stages(config, store, where_of(options), "dictionary", bar)
        built |= _fit_dictionary(options, bar)
    if options.encoder == "ridge":
        return built
    spread_stages(config, store, where_of(options), options.encoder, bar)
    encoder = fit_encoder(config, store, options.encoder, on_progress=bar)
    key, median = encoder.provenance["key"], float(np.median(encoder.score.r))
    return {**built, "encoder": options.encoder, "encoder_median_r": median, "encoding": key}


def _fit_dictionary(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    from mine_core.instrument.dictionary import build_dictionary, open_dictionary

    found = open_dictionary(build_dictionary(settings(options), ArtifactStore(cache_directory()), on_progress=bar))
    n_units = sum(autoencoder.n_units for autoencoder in found.autoencoders)
    return {"layers": len(found.tokens), "units": n_units, "voxels_matched": int(found.matched.sum()), "dictionary": found.key}


def run_encoding_speed(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Time the fit of an encoding model on a made-up recording."""
    from mine_core.experiments.encoding_speed import measure

    return measure(
        InstrumentConfig(seed=options.seed),
        ArtifactStore(cache_directory()),
        bar,
        n_stimuli=options.stimuli,
        n_features=options.features,
        n_voxels=options.voxels,
        against=options.against,
    )


def run_explain_speed(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Time what a click asks for."""
    from mine_core.experiments.explain_speed import measure, measure_synthetic

    store = ArtifactStore(cache_directory())
    return measure_synthetic(store, bar, seed=options.seed) if options.synthetic else measure(settings(options), store, bar)


def run_attribution_speed(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Time every method of attribution."""
    from mine_core.experiments.attribution_speed import measure

    return measure(InstrumentConfig(seed=options.seed), ArtifactStore(cache_directory()), bar, architecture=options.architecture)


def run_claims(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Test the paper's claims."""
    from mine_core.experiments.claims import Settings, measure_claims
    from mine_core.experiments.claims_together import measure_together
    from mine_core.instrument.spread import spread_stages

    asked, where, store = Settings(options.voxels, options.editor), where_of(options), ArtifactStore(cache_directory())
    configs = [settings(options), *(_also(options, text) for text in options.also)]
    for config in configs:
        spread_stages(config, store, where, on_progress=bar)
    if options.also:
        return measure_together(configs, store, asked, where=where, on_progress=bar)
    return measure_claims(configs[0], store, asked, where=where, on_progress=bar)


def _also(options: argparse.Namespace, text: str) -> InstrumentConfig:
    """Settings for a further subject; raises ConfigError for a seed that is no number."""
    name, _, seed = text.partition(":")
    if seed and not seed.isdecimal():
        raise ConfigError(f"'{text}' was given; write a subject's name, or phantom:SEED with a number.")
    return replace(settings(options), subject=name, seed=int(seed or 0))


def run_evaluation(name: str) -> Any:
    """Return a runner of one evaluation, with what takes long wherever the options say."""

    def run(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
        from mine_core.experiments import measure

        return measure(name, settings(options), ArtifactStore(cache_directory()), bar, where_of(options))

    return run


def run_benchmark(name: str) -> Any:
    """Return a runner of one benchmark."""

    def run(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
        from mine_core.experiments import experiment

        return experiment(name)(settings(options), ArtifactStore(cache_directory()), bar)

    return run
