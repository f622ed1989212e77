"""Loops of LLVM code that NVVM is told to unroll completely: those over `intrinsics.unrolled`."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

MARK = "attnc.unrolled"  # metadata of the load of such a loop's counter, in the block that decides whether it goes on


def unroll(function: Any) -> None:
    """Every branch back to the head of a marked loop counts, and asks that the loop be unrolled completely.

    Without `llvm.loop.unroll.full` NVVM goes by its own estimate of the code's size, and an array that is indexed by a
    counter that stays a variable does not become registers. The counter is raised where the branch is: NVVM folds a block
    with nothing but a branch into the one before it, and the request with it, which then ends up at another loop.
    """
    marked = [(block, x) for block in function.blocks for x in block.instructions if MARK in x.metadata]
    if not marked:
        return
    module = function.module
    full = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.full")])
    for block, number in marked:
        del number.metadata[MARK]
        loop = ir.MDValue(module, (), name=str(len(module.metadata)))
        loop.operands = loop, full  # a node that names itself is like no other: each loop has its own
        for source in _back(function, block):
            builder = ir.IRBuilder(source)
            builder.position_before(source.terminator)
            builder.store(builder.add(number, ir.Constant(number.type, 1)), number.operands[0])
            source.terminator.set_metadata("llvm.loop", loop)


def _back(function: Any, head: Any) -> list[Any]:
    """The blocks that branch back to the head of a loop."""
    sources = [x for x in function.blocks if head in _successors(x)]
    while len(sources) == 1:  # the bytecode of a long loop has an empty block in front, to which its end branches
        (head,) = sources
        assert len(head.instructions) == 1, f"internal error: a loop without an end at {head.name}"
        sources = [x for x in function.blocks if head in _successors(x)]
    before = _reached(function.entry_basic_block, head)
    return [x for x in sources if x not in before]


def _successors(block: Any) -> list[Any]:
    return [x for x in block.terminator.operands if isinstance(x, ir.Block)]


def _reached(start: Any, avoided: Any) -> set[Any]:
    """The blocks that are reached from `start` without `avoided`: they are outside of the loop that begins there."""
    found, todo = {start}, [start]
    while todo:
        for block in _successors(todo.pop()):
            if block is not avoided and block not in found:
                found.add(block)
                todo.append(block)
    return found
