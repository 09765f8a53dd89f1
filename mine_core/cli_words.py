"""Commands about words: profiles of voxels and regions, the user's own words, a language model, captions."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mine_core.artifacts import ArtifactStore
from mine_core.cli_common import Bar, add, add_where, settings, where_of
from mine_core.config import cache_directory
from mine_core.errors import ConfigError


def add_words_commands(commands: Any) -> None:
    """Add `profile`, `regions`, `concept` and `caption`."""
    profile = add(
        commands, "profile", "describe every voxel: words, attributes, images, caveats; goes on where it was stopped", run_profile
    )
    add_where(profile)
    profile.add_argument("--out", type=Path, metavar="PATH", help="write the profiles there too, as .parquet or .csv")
    profile.add_argument("--words", type=Path, metavar="FILE", help="add your own words, one a line (UTF-8); they are kept")
    profile.add_argument("--forget-words", action="store_true", help="take away the words of your own that are kept")
    add_writer(profile)
    regions = add(
        commands,
        "regions",
        "describe every region: its category, what its voxels share, its parts, what each voxel has of its own",
        run_regions,
    )
    regions.add_argument("--out", type=Path, metavar="PATH", help="write regions and parts there, as .parquet or .csv")
    regions.add_argument("--voxels", type=Path, metavar="PATH", help="write the voxels there, as .parquet or .csv")
    concept = add(
        commands,
        "concept",
        "of which voxels a concept is the cause, and which only answer what comes with it; goes on where it was stopped",
        run_concept_test,
    )
    concept.add_argument("concept", metavar="CONCEPT", help="a thing of the vocabulary, or a phrase that names one: 'a red ball'")
    concept.add_argument("--out", type=Path, metavar="PATH", help="write every voxel's scores there, as .parquet or .csv")
    caption = add(commands, "caption", "caption every image, as CSV that `import --captions` reads", run_caption)
    caption.add_argument(
        "--by", default="beam", metavar="WHAT", help="greedy or beam (the backbone), florence2, qwen-vl (default: beam)"
    )
    caption.add_argument("--weights", default="", metavar="NAME", help="of florence2 or qwen-vl: a folder, or a name of the hub")
    caption.add_argument("--out", type=Path, required=True, metavar="PATH", help="a .csv file")


def add_writer(profile: argparse.ArgumentParser) -> None:
    """Add the options of a language model that writes texts from the tables of words."""
    writer = profile.add_argument_group(
        "a language model", "writes texts from the tables of words; its key is read from MINE_WRITER_KEY"
    )
    writer.add_argument("--writer", metavar="URL", help="OpenAI-compatible address up to /v1, e.g. http://127.0.0.1:8080/v1")
    writer.add_argument("--writer-model", default="", metavar="NAME", help="which of its models")
    writer.add_argument("--writer-price", nargs=2, type=float, default=(0.0, 0.0), metavar=("IN", "OUT"), help="of a million tokens")
    writer.add_argument("--writer-yes", action="store_true", help="start; without it, say what it would cost")


def run_profile(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Profile every voxel, and write the profiles where they were asked for."""
    from mine_core.instrument.profiling import profile_all, summary_of
    from mine_core.instrument.tables import check_target, write_table

    if options.out:
        check_target(options.out)
    config, store = settings(options), ArtifactStore(cache_directory())
    endpoint = _writer(options)
    own = _own_words(options, bar)
    table = profile_all(config, store, own=own, where=where_of(options), on_progress=bar)
    found = {**summary_of(table), "own_words": list(own)}
    if endpoint is not None:
        table, found["written"] = _written(options, bar, endpoint, table)
    if options.out:
        write_table(table, options.out)
    return found


def _writer(options: argparse.Namespace) -> Any:
    """Endpoint of the language model that was asked for, or None."""
    from mine_core.instrument.written import endpoint_of

    if options.writer is None:
        if options.writer_model or options.writer_yes:
            raise ConfigError("A language model's name or --writer-yes was given without --writer; give its address up to /v1.")
        return None
    return endpoint_of(options.writer, options.writer_model, *options.writer_price)


def _written(options: argparse.Namespace, bar: Bar, endpoint: Any, table: Any) -> tuple[Any, dict[str, Any]]:
    """Profiles with a language model's texts, once the user agreed to what they cost."""
    from mine_core.instrument.written import price, price_line, tables_of, write_batch

    store = ArtifactStore(cache_directory())
    found = price(tables_of(table), endpoint, store)
    told = price_line(found, endpoint)
    if found["n_asked"] and not options.writer_yes:
        raise ConfigError(f"Texts by '{endpoint.model}' take {told}. Only tables of words are sent. Say --writer-yes to start.")
    print(f"Texts by '{endpoint.model}': {told}.", file=sys.stderr)
    table = write_batch(table, endpoint, store, on_progress=bar)
    written = table["written_by"] != ""
    examples = [f"{row.voxel}: {row.primary_content}" for row in table[written].nlargest(5, "r").itertuples()]
    refused = int((table["written_refused"] != "").sum())
    return table, {"by": endpoint.model, **found, "n_written": int(written.sum()), "n_refused": refused, "examples": examples}


def _own_words(options: argparse.Namespace, bar: Bar) -> tuple[str, ...]:
    """Words of the user's own that are kept, after those of a file were added or all were taken away."""
    from mine_core.instrument.build import build_instrument
    from mine_core.instrument.own_words import add_words, kept_words, remove_words

    config, store = settings(options), ArtifactStore(cache_directory())
    instrument = build_instrument(config, store, on_progress=bar)
    if options.forget_words:
        remove_words(instrument, store, kept_words(config, store), on_progress=bar)
    if options.words:
        try:
            content = options.words.read_bytes()
        except OSError as error:
            raise ConfigError(f"--words {options.words} cannot be read ({error.strerror}); name a text file of words.") from error
        add_words(instrument, store, content, on_progress=bar)
    return kept_words(config, store)


def run_regions(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Describe every region, with the user's own words, and write the tables where they were asked for."""
    from mine_core.instrument.build import build_instrument
    from mine_core.instrument.own_words import kept_words, with_own_words
    from mine_core.instrument.regions import region_profiles
    from mine_core.instrument.tables import check_target, write_table

    for path in (options.out, options.voxels):
        if path:
            check_target(path)
    config, store = settings(options), ArtifactStore(cache_directory())
    instrument = with_own_words(build_instrument(config, store, on_progress=bar), store, kept_words(config, store), on_progress=bar)
    tables = region_profiles(instrument, bar)
    for table, path in zip(tables, (options.out, options.voxels), strict=True):
        if path:
            write_table(table, path)
    told = {
        f"{row.region}{f' part {row.part}' if row.part else ''}": ", ".join([row.goes_with] * (not row.part) + row.words)
        for row in tables[0].itertuples()
    }
    return {"n_regions": int((tables[0]["part"] == 0).sum()) if len(tables[0]) else 0, "n_voxels": len(tables[1]), "regions": told}


def run_concept_test(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Test a concept on every voxel, and write the scores where they were asked for."""
    from mine_core.instrument.build import build_instrument
    from mine_core.instrument.concept_tables import summary_of, voxel_table
    from mine_core.instrument.concepts import run_concept
    from mine_core.instrument.tables import check_target, write_table

    if options.out:
        check_target(options.out)
    store = ArtifactStore(cache_directory())
    instrument = build_instrument(settings(options), store, on_progress=bar)
    test = run_concept(instrument, store, options.concept, on_progress=bar)
    if options.out:
        write_table(voxel_table(instrument, test), options.out)
    return summary_of(instrument, test)


def run_caption(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Caption every stimulus of a subject and write the captions."""
    from mine_core.instrument.build import build_instrument
    from mine_core.instrument.captioned import captioner_of, write_captions

    instrument = build_instrument(settings(options), ArtifactStore(cache_directory()), on_progress=bar)
    captions = write_captions(instrument, captioner_of(instrument, options.by, options.weights), options.out, on_progress=bar)
    return {"n_captions": len(captions), "by": options.by, "examples": list(captions[:5])}
