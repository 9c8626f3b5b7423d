"""`import`: an SAE that another program saved, or a whole tree of them, into the workspace.

In: a folder, a file or a hub id; the model and text it is to be used with. Out: saes/NAME in the
native layout, with what its files and path say and what evaluate and harvest need to know.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.lm import LanguageModel
    from sae.models import SAE

HUB_ID = re.compile(
    r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<folder>[^@:]*))?(@(?P<revision>.+))?", re.ASCII
)
WEIGHT_FILES = (".npz", ".safetensors", ".json", ".pt", ".pth")
# What the facts call by the names that SAELens gives it in its metadata.
KEPT = ("hook_name", "hook_name_out", "context_size", "prepend_bos", "dataset_path")


@dataclass(frozen=True)
class Import:
    """Import an SAE (or every SAE below a folder) that another program saved."""

    path: str  # a folder, a file, or a hub id OWNER/NAME:FOLDER[@REVISION]
    name: str | None = None  # of the SAE, or the beginning of the names of a tree's SAEs
    format: str = "auto"  # saelens, dictionary_learning, sparsify, gemma_scope, ... or auto
    lm: str | None = None  # demo, a model folder, or a hub id; evaluate and harvest need it
    site: str | None = None  # resid_post.L, ...; what the file says, where it says one
    text: str = "python:stdlib"  # to harvest and evaluate on; as for train
    text_field: str = "text"
    context: int = 256  # tokens of a context
    tokens: float = 2e6  # tokens to read from the text
    dtype: str = "float32"  # of the language model: float32, bfloat16 or float16
    device: str = "auto"
    workspace: Path = Path("workspace")
    replace: bool = False  # replace finished SAEs of the same names


def run(args: Import) -> int:
    from data.errors import WorkbenchError
    from data.workspace import Workspace
    from sae import formats
    from sae.config import Refused

    workspace = Workspace.open(args.workspace)
    if args.format not in ("auto", *formats.READERS):
        known = ", ".join(formats.READERS)
        raise Refused(f"format {args.format!r} is unknown: use auto, {known}")
    root, source, label = located(args.path)
    places = formats.find(root) or [root]
    if args.name is not None and len(places) == 1:
        workspace.refuse_taken(args.name, args.replace)
    joined = Joined(args)
    if args.lm is not None and len(places) > 1:
        joined.model()  # before any file is read: one refusal, not one for each
    failures, names = 0, set()
    for place in places:
        try:
            sae, facts = formats.read(place, args.format)
            name = _name(args.name, facts, label, _below(place, root), len(places) == 1)
            if name in names:
                raise Refused(f"{place}: another SAE of this tree is called {name} already")
            _keep(workspace, args, name, sae, facts, joined, f"{source}{_below(place, root)}")
            names.add(name)
        except (WorkbenchError, Refused) as error:
            if len(places) == 1:
                raise
            failures += 1
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    if len(places) > 1:
        print(f"imported {len(names)} of {len(places)} SAEs below {args.path}")
    return 2 if failures else 0


def _keep(workspace, args: Import, name: str, sae: SAE, facts: dict, joined, source: str) -> None:
    """Writes saes/<name> and says what it is."""
    from sae import formats

    workspace.refuse_taken(name, args.replace)
    metadata = {**(facts.get("metadata") or {})}
    metadata |= {key: facts[key] for key in KEPT if facts.get(key) is not None}
    if facts["model"] is not None:
        metadata["model_name"] = facts["model"]
    if facts["l0"] is not None:
        metadata["l0"] = facts["l0"]
    about = {key: value for key, value in facts.items() if value is not None}
    for key in ("metadata", "name", *KEPT):
        about.pop(key, None)
    metadata["imported"] = about | {"from": source}
    before = metadata.get("workbench")
    metadata["workbench"] = joined.record(sae, facts, before if isinstance(before, dict) else {})
    with workspace.new_sae(name, args.replace) as folder:
        formats.save(sae, folder, metadata)
    crosses = sae.config.d_out is not None or sae.W_skip is not None
    kind = "transcoder" if crosses else "SAE"
    out = f", {sae.d_out:,} wide out" if crosses else ""
    print(
        f"{name}: {sae.architecture} {kind} of {sae.d_sae:,} features, {sae.d_in:,} wide{out}, "
        f"at {metadata['workbench'].get('site') or 'an unknown site'}, from {facts['format']}"
    )
    if facts.get("note"):
        print(f"{name}: {facts['note']}")
    if "lm" not in metadata["workbench"]:
        print(f"{name}: evaluate and harvest need its model: import it with --lm and --replace")


class Joined:
    """The language model of an import, loaded when first asked for and then kept."""

    def __init__(self, args: Import) -> None:
        self.args = args
        self.lm: LanguageModel | None = None
        self.widths: dict[str, int] = {}
        self.masks: dict[str, dict] = {}  # by site

    def record(self, sae: SAE, facts: dict, before: dict) -> dict:
        """metadata.workbench: what `train` would have recorded, as far as it is known.

        `before` is what the file itself held there, which --lm replaces. Raises SiteError without
        a site, Refused for an SAE of another width than the model has there.
        """
        from dataclasses import asdict

        from commands.capture import anywhere
        from data.errors import SiteError
        from data.tokens import ContextRule, bos_of
        from sae import formats

        args = self.args
        site = args.site or facts["site"]
        places = {"site": site, "site_out": facts["site_out"]}
        places = {key: value for key, value in places.items() if value is not None}
        if args.lm is None:
            return before | places
        if site is None:
            raise SiteError(
                "the file does not say where in the model the SAE reads: give --site, such as "
                "resid_post.12"
            )
        lm = self.model()
        formats.check_width(sae, self._width(site), f"{site} of {args.lm}")
        out = facts["site_out"]
        if out is not None and self._width(out) != sae.d_out:
            raise SiteError(f"the SAE writes {sae.d_out} wide, but {out} is {self._width(out)}")
        rule = ContextRule(args.context)
        return places | {
            "lm": anywhere(args.lm),
            "lm_weights": lm.fingerprint,
            "dtype": args.dtype,
            "text": anywhere(args.text),
            "text_field": args.text_field,
            "corpus_tokens": int(args.tokens),
            "rule": asdict(rule),
            "mask": self._mask(site, rule),
            "bos": bos_of(lm.tokenizer),
        }

    def model(self) -> LanguageModel:
        from data import lm as language_models
        from data.errors import TextError

        if self.lm is None:
            lm = language_models.load(self.args.lm, self.args.device, self.args.dtype)
            limit = lm.context_limit
            if limit is not None and self.args.context > limit:
                raise TextError(
                    f"--context {self.args.context} is longer than the {limit} tokens this model "
                    f"was made for: use --context {limit} or less"
                )
            self.lm = lm
        return self.lm

    def _width(self, site: str) -> int:
        if site not in self.widths:
            self.widths[site] = self.model().width(site)
        return self.widths[site]

    def _mask(self, site: str, rule) -> dict:
        """The mask that the activation cache of this text will have: its norm limit comes from the
        text's first contexts."""
        from dataclasses import asdict, replace

        import numpy as np
        import torch

        from data.activations import NORM_LIMIT_MEDIANS
        from data.errors import ModelError, TextError
        from data.text import documents
        from data.tokens import ContextMaker

        if site in self.masks:
            return self.masks[site]
        args, lm = self.args, self.model()
        maker = ContextMaker(lm.tokenizer, rule, int(args.tokens))
        for contexts in maker(documents(args.text, args.text_field)):
            keep = maker.mask.keep_ids(contexts)
            if not keep.any():
                continue
            x = lm.capture(torch.from_numpy(contexts.ids.astype(np.int64)), [site])[site]
            norms = np.linalg.norm(x.float().cpu().numpy(), axis=-1)[keep]
            if not np.isfinite(norms).all():
                raise ModelError(
                    f"activations at {site} of {args.lm} in {args.dtype} are not finite: use "
                    "--dtype float32, or another site"
                )
            limit = float(NORM_LIMIT_MEDIANS * np.median(norms))
            self.masks[site] = asdict(replace(maker.mask, norm_limit=limit))
            return self.masks[site]
        raise TextError(f"no token of {args.text!r} is left after the masks; name another --text")


# ---------------------------------------------------------------- names


def _below(place: Path, root: Path) -> str:
    """/the/way from the root to one of its SAEs; nothing for the root itself."""
    return "" if place == root else f"/{place.relative_to(root).as_posix()}"


def _name(given: str | None, facts: dict, label: str, below: str, alone: bool) -> str:
    """The name given, or what the facts call it, or else its place, as the workspace takes it."""
    if given is not None and alone:
        return given
    text = facts.get("name") or (below if given else f"{label}{below}")
    text = f"{given}-{text.strip('/')}" if given else text
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:120] or "imported"


def _label(path: PurePosixPath) -> str:
    """The last two parts of a path, without the ending of a file of weights."""
    last = path.stem if path.suffix in WEIGHT_FILES else path.name
    return f"{path.parent.name}-{last}"


# ---------------------------------------------------------------- where it lies


def located(path: str) -> tuple[Path, str, str]:
    """(a local path, its origin to record, a name), fetched from the hub if it is no local one."""
    from data.errors import WorkbenchError

    local = Path(path).expanduser()
    if path and local.exists():
        local = local.resolve()
        return local, str(local), _label(PurePosixPath(local.as_posix()))
    match = HUB_ID.fullmatch(path)
    if match is None:
        raise WorkbenchError(
            f"no file or folder at {path!r}: give the path of a saved SAE, or a hub id "
            "OWNER/NAME:FOLDER"
        )
    folder = (match["folder"] or "").strip("/")
    snapshot = _from_hub(match["repo"], folder, match["revision"])
    source = f"{match['repo']}:{folder}@{snapshot.name}"
    return snapshot / folder, source, _label(PurePosixPath(match["repo"]) / folder)


def _from_hub(repo: str, folder: str, revision: str | None) -> Path:
    """The snapshot that holds that folder of a hub repository; its weights and configs only.

    ModelError says in one sentence what is missing: the network, the repository, the folder.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    from data import hub
    from data.errors import ModelError

    code, reason = hub.status(f"{repo}/resolve/{revision or 'main'}/.gitattributes")
    if code is None:
        try:
            snapshot = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        except (OSError, ValueError):
            snapshot = None
        if snapshot is not None and (snapshot / folder).exists():
            return snapshot
        raise ModelError(
            f"{repo}:{folder} is neither a path nor in the local cache, and the hub cannot be "
            f"reached ({reason}): give a path, or try again with a network"
        )
    try:
        files = HfApi().list_repo_files(repo, revision=revision)
        wanted = _wanted(repo, folder, files)
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"the hub does not give {repo!r} ({first[:160]}): check the name, and set HF_TOKEN if "
            "it is gated"
        ) from None


def _wanted(repo: str, folder: str, files: list[str]) -> list[str]:
    """The files to fetch: those of the folder, and the configs of the run above it."""
    from data.errors import ModelError

    weights = [file for file in files if file.endswith(WEIGHT_FILES)]
    if folder:
        chosen = [f for f in weights if f == folder or f.startswith(f"{folder}/")]
        above = {str(parent / "config.json") for parent in PurePosixPath(folder).parents}
        configs = [file for file in weights if file in above]
    else:  # a repository of one SAE; a whole release is asked for folder by folder
        chosen, configs = [file for file in weights if "/" not in file], []
    if not [file for file in chosen if not file.endswith(".json")]:
        there = sorted({str(PurePosixPath(file).parent) for file in weights} - {"."})
        listed = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "") or "no weights at all"
        raise ModelError(
            f"{repo} has no SAE at {folder or 'its top'!r}; it has {listed}: give {repo}:FOLDER"
        )
    return chosen + configs
