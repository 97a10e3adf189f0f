"""The processes among which rows are spread: what they tell each other, and the error for one that does not answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from unhot.torch._private import timeout_of

Group = Any
"""A `torch.distributed.ProcessGroup`, a one-dimensional `DeviceMesh`, or None for all processes."""


class PeerError(RuntimeError):
    """Another process has not done its part of an exchange. The message says what was waited for, and what to do.

    Args:
        message: what was waited for, by whom, and what PyTorch says.

    Raises: nothing.

    Example:
        >>> from unhot.torch.distributed import PeerError
        >>> issubclass(PeerError, RuntimeError)
        True
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)


class Peers:
    """A group of processes, of which this is one. Each call of `exchange` is one collective operation."""

    def __init__(self, given: Group, timeout: timedelta | None = None) -> None:
        """For a group or a mesh. A collective operation: all processes of the group make it together.

        Instead of the group of all processes it takes a copy, so that what else goes on there (the gradients of
        DistributedDataParallel, say) may come in another order in each process.
        """
        self.given = as_group(given)
        self.group = own_group(timeout) if self.given is dist.group.WORLD else self.given
        self.size = dist.get_world_size(self.group)
        self.rank = dist.get_rank(self.group)
        self._meshes: dict[str, DeviceMesh] = {}
        self.may_end_apart = False
        """Whether some processes may have no batches left, and take part in lookups and steps alone (`Join`)."""

    def exchange(self, out: Tensor, given: Tensor, counts: tuple[Sequence[int], Sequence[int]] | None, what: str) -> None:
        """Send each process its part of `given`, and receive its part of `out`.

        `counts` are how many elements come from each process, and go to each; None if all parts are of the same size. `what`
        says what is waited for.
        """
        self.begin(out, given, counts, what).wait()

    def begin(self, out: Tensor, given: Tensor, counts: tuple[Sequence[int], Sequence[int]] | None, what: str) -> Exchange:
        """The same, of which the end is waited for later."""
        if self.size == 1:
            out.copy_(given)
            return Exchange(self, None, what)
        received, sent = (None, None) if counts is None else (list(counts[0]), list(counts[1]))
        try:
            work = dist.all_to_all_single(out, given, received, sent, group=self.group, async_op=True)
        except RuntimeError as error:
            raise self.failed(what, error) from error
        return Exchange(self, work, what)

    def require_all(self, what: str) -> None:
        """Raise RuntimeError where processes without batches would take no part in something."""
        if self.may_end_apart:
            raise RuntimeError(
                f"under `Join`, a process that has no batches left takes no part in {what}. Leave it out, or go without `Join`:"
                " give that process empty batches, so that all make as many steps."
            )

    @property
    def device(self) -> torch.device:
        """Where the group takes numbers that belong to no table."""
        if "nccl" in str(dist.get_backend(self.group)) and torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    def any(self, own: bool, what: str) -> bool:
        """Whether something is so in any process; a collective operation."""
        return bool(self.agreed(torch.tensor(float(own), device=self.device), dist.ReduceOp.MAX, what))

    def agreed(self, own: Tensor, operation: Any, what: str) -> Tensor:
        """The sum or the largest of what each process has; a collective operation."""
        found = own.clone()
        if self.size > 1:
            try:
                dist.all_reduce(found, operation, group=self.group)
            except RuntimeError as error:
                raise self.failed(what, error) from error
        return found

    def mesh(self, device_type: str) -> DeviceMesh:
        """The processes as a mesh of one dimension."""
        if device_type not in self._meshes:
            self._meshes[device_type] = DeviceMesh.from_group(self.group, device_type)
        return self._meshes[device_type]

    def failed(self, what: str, error: RuntimeError) -> PeerError:
        """The error of an exchange."""
        return PeerError(
            f"process {self.rank} of {self.size} waited for {what} of the other processes, and did not get it: one of them has"
            " ended, has raised an error, makes other lookups than this one, or takes longer than the group's timeout. This"
            " table is as it was after its last step. Look at what the other processes say, and go on from the last"
            f" checkpoint. PyTorch says: {error}"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Peers:
        return self

    def __reduce__(self) -> Any:
        return Peers, (None,)


class Exchange:
    """A collective operation that may not have ended yet."""

    def __init__(self, peers: Peers, work: Any, what: str) -> None:
        self.peers, self.work, self.what = peers, work, what

    def wait(self) -> None:
        """Wait for its end.

        Raises: PeerError if it has none.
        """
        if self.work is None:
            return
        try:
            self.work.wait()
        except RuntimeError as error:
            raise self.peers.failed(self.what, error) from error


def as_group(given: Group) -> dist.ProcessGroup:
    """The process group that is meant.

    Raises: RuntimeError where there is none yet; TypeError or ValueError for what is no group or no one-dimensional mesh.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "there is no process group yet. Start the program by `torchrun --nproc-per-node=2 program.py`, and call"
            " `torch.distributed.init_process_group()` first."
        )
    if given is None:
        world: Any = dist.group.WORLD
        given = world
    if isinstance(given, dist.ProcessGroup):
        group: dist.ProcessGroup = given
        return group
    if isinstance(given, DeviceMesh):
        if given.ndim != 1:
            raise ValueError(
                "rows are spread along one dimension of a mesh. Received: a mesh of dimensions"
                f" {given.mesh_dim_names or given.ndim}. Hand over one of them, e.g. mesh['data']."
            )
        of_mesh: dist.ProcessGroup = given.get_group()
        return of_mesh
    raise TypeError(f"a process group, a DeviceMesh or None is needed. Received: {type(given).__name__}.")


_own: WeakKeyDictionary[dist.ProcessGroup, dist.ProcessGroup] = WeakKeyDictionary()


def own_group(timeout: timedelta | None) -> dist.ProcessGroup:
    """A group of all processes for all tables, with the timeout of the one that there is unless another is given."""
    world: Any = dist.group.WORLD
    found = _own.get(world)
    if found is None or timeout is not None:
        until = timeout_of(world) if timeout is None else timeout
        made: Any = dist.new_group(timeout=until, backend=dist.get_backend_config(world))
        found = _own[world] = made
    return found
