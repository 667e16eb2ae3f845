"""From a run to what its user takes away: the merged model and, if wanted, a GGUF made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cbgui.errors import InputError
from cbgui.export import gguf
from cbgui.export.merge import Progress, export_run
from cbgui.export.modelfile import MODELFILE, modelfile
from cbgui.modeling.hub import resolve_model
from cbgui.runs.disk import write_whole
from cbgui.runs.run import Run

MERGE_SHARE = 0.7  # of the progress, when a GGUF follows


@dataclass(frozen=True)
class Taken:
    """What was made: `difference` as `export_run` returns it, None when the merged model was there already."""

    difference: float | None
    gguf: Path | None


def take_away(
    run: Run,
    output: Path,
    *,
    kind: str | None = None,
    llama_cpp: Path | None = None,
    max_shard_size: str | None = None,
    replace: bool = False,
    progress: Progress = lambda share, words: None,
) -> Taken:
    """Merge the run into the folder `output`; with a `kind` of GGUF, also write that into a folder inside it.

    A merged model of the run's present adapter that is at `output` already is used, and not made again, for a GGUF.
    Whether the GGUF can be made is found out first. Raises InputError.
    """
    if kind is None:
        return Taken(export_run(run, output, max_shard_size=max_shard_size, replace=replace, progress=progress), None)
    config = run.config().model
    converter = gguf.find_converter(llama_cpp, progress)
    base = resolve_model(config.name, weights=False, version=config.version)
    gguf.refuse_unknown(converter, base.path, base.label)
    difference, start = None, 0.0
    if not run.is_merged(output):
        start = MERGE_SHARE
        difference = export_run(
            run,
            output,
            max_shard_size=max_shard_size,
            replace=replace,
            progress=lambda share, words: progress(start * share, words) if share < 1 else None,
        )
    target = output / gguf.GGUF_FOLDER / f"{run.name}-{kind}.gguf"
    try:
        gguf.convert(output, target, kind, converter, lambda share, words: progress(start + (1 - start) * share, words))
    except InputError as error:
        kept = f" The merged model in {str(output)!r} is complete." if difference is not None else ""
        raise InputError(f"{error}{kept}") from None
    write_whole(target.parent / MODELFILE, modelfile(output, config, f"./{target.name}"))
    progress(1.0, "Done")
    return Taken(difference, target)
