"""What the emulator finds wrong with a kernel. None of them is a user's mistake: the emitter is to blame."""


class Fault(Exception):
    """Base of all faults; a note names the block and the line of the kernel."""


class Divergence(Fault):
    """A branch, a loop bound or an index depends on a value that differs between the threads of a block."""


class Race(Fault):
    """Threads of different warps meet in shared memory without a barrier, or meet a copy that has not been waited for."""


class Deadlock(Fault):
    """All groups of threads that have not ended wait for each other."""


class OutOfBounds(Fault):
    """An address lies in no array, or outside the shared memory of the launch."""


class Misaligned(Fault):
    """An address is no multiple of the access's size."""
