"""Frozen records of tensors: registration with torch's pytree and the few operations that work on any of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.utils._pytree as pytree
from torch import Tensor

T = TypeVar("T")


def register_record(cls: type[T]) -> type[T]:
    """Class decorator: make a frozen dataclass a pytree node whose children are its fields, in order.

    Rebuilding bypasses ``__post_init__``: the children come from a record that was checked when it was made.
    """
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]

    def flatten(record: Any) -> tuple[list[Any], None]:
        return [getattr(record, n) for n in names], None

    def unflatten(children: Any, _: None) -> Any:
        record = object.__new__(cls)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(record, name, child)
        return record

    pytree.register_pytree_node(cls, flatten, unflatten, serialized_type_name=f"{cls.__module__}.{cls.__qualname__}")
    return cls


def tree_map(function: Callable[..., Any], tree: T, *others: T) -> T:
    """Apply ``function`` to every tensor of ``tree`` (and the tensors at the same places of ``others``)."""

    def leaf(x: Any, *rest: Any) -> Any:
        return function(x, *rest) if isinstance(x, Tensor) else x

    return pytree.tree_map(leaf, tree, *others)


def detach(tree: T) -> T:
    """The same record with every tensor cut from the graph."""
    return tree_map(lambda x: x.detach(), tree)


def index(tree: T, rows: Any) -> T:
    """Select worlds: ``x[rows]`` for every tensor of the record."""
    return tree_map(lambda x: x[rows], tree)


def concatenate(trees: list[T]) -> T:
    """Join records along their first dimension (worlds)."""
    return pytree.tree_map(lambda *xs: torch.cat(xs) if isinstance(xs[0], Tensor) else xs[0], *trees)


def stack(trees: list[T]) -> T:
    """Stack records along a new first dimension (time)."""
    return pytree.tree_map(lambda *xs: torch.stack(xs) if isinstance(xs[0], Tensor) else xs[0], *trees)


def where(mask: Tensor, tree: T, other: T) -> T:
    """Per world: ``tree`` where ``mask`` [B] holds, else ``other``. The graph of the branch not taken is cut."""

    def choose(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *([1] * (x.dim() - 1))), x, y)

    return tree_map(choose, tree, other)


def move(tree: T, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> T:
    """Move every tensor to ``device``; floating ones take ``dtype`` too."""
    return tree_map(lambda x: x.to(device=device, dtype=dtype if x.is_floating_point() else None), tree)
