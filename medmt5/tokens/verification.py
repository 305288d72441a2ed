"""Token stores are compared with the sha256s of their manifests whenever a run starts.

The manifest's own digest tells a store that was made anew from the one of the checkpoint; this tells a shard whose
bytes changed below a manifest that did not: a copy that broke off, a disk that forgets, a file put in by hand. Small
stores are read before training starts. Reading a large one takes minutes, so that is done beside the training, by a
thread that costs a core while it lasts; a run that began on damaged data then stops, minutes old, not days. Every
process reads what it will train on, for each may have a copy of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from medmt5.errors import InputError
from medmt5.tokens.store import TokenStore

SMALL = 1 << 28  # bytes; read and digested in well under a second


def verify_stores(stores: Sequence[TokenStore], small: int = SMALL) -> Callable[[], None]:
    """Verifies the small stores, starts verifying the others, and returns check(), which raises what was found since.

    Raises InputError, here or in check(), naming the first file that is not as it was written.
    """
    large = []
    for store in stores:
        if sum(file.stat().st_size for file in store.directory.iterdir()) > small:
            large.append(store)
        else:
            store.verify()
    found: list[InputError] = []

    def verify_large() -> None:
        for store in large:
            try:
                store.verify()
            except (InputError, OSError) as error:
                found.append(error if isinstance(error, InputError) else InputError(str(error)))
                return

    def check() -> None:
        if found:
            raise found[0]

    if large:
        threading.Thread(target=verify_large, name="verify_stores", daemon=True).start()
    return check
