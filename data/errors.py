"""The errors a user can mend, one tree.

    WorkbenchError(ValueError)     bad input at an edge: what was seen, and the cure
    |- TextError                   no such text, an empty text, an unreadable file
    |- ModelError                  no such language model, hub out of reach, a misfit
    |- SiteError                   an unknown site or a layer out of range
    |- WorkspaceError              a name that is taken, missing or half there
    |- StoreError                  a store that is missing, newer than this program, or damaged
    |  `- StoreBusy                a store that another process holds
    |- WorkerError                 the model worker does not answer
    `- AccessRefused               a wrong passcode, or somebody who is not let in

The command line prints the message without a traceback and exits 2; the app shows it in place.
`sae/` knows none of these and raises its own `Refused`. Everything else is a bug that crashes.
"""


class WorkbenchError(ValueError):
    """Bad input at an edge; the message names what was seen and the cure."""


class TextError(WorkbenchError):
    """No such text, an empty text, or a file that cannot be read as text."""


class ModelError(WorkbenchError):
    """No such language model, a hub out of reach, or a model that does not fit the request."""


class SiteError(WorkbenchError):
    """An unknown site, or a layer the model does not have."""


class WorkspaceError(WorkbenchError):
    """A name in the workspace that is taken, missing, or half there."""


class StoreError(WorkbenchError):
    """A store that is missing, made by a newer program, or damaged."""


class StoreBusy(StoreError):
    """A store that another process holds open."""


class WorkerError(WorkbenchError):
    """The model worker does not answer."""


class AccessRefused(WorkbenchError):
    """A wrong passcode, or somebody who is not let in."""
