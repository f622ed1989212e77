"""What Numba does with a kernel's Python, in fewer passes than it does by default. Importing this imports numba-cuda.

Left out are passes for what emitted code does not have (closures, exceptions, generators, lists, constant branches), and what
only reference counts need: the ends of lifetimes, which cost a load and a store for each variable in each block.
"""

from __future__ import annotations

from typing import Any

from numba.cuda.compiler import CreateLibrary, CUDABackend, CUDANativeLowering, CUDATranslateBytecode
from numba.cuda.core import ir, ssa
from numba.cuda.core.compiler import CompilerBase
from numba.cuda.core.compiler_machinery import FunctionPass, PassManager, register_pass
from numba.cuda.core.typed_passes import NopythonTypeInference, PreLowerStripPhis
from numba.cuda.core.untyped_passes import FixupArgs, GenericRewrites
from numba.cuda.lowering import CUDALower


@register_pass(mutates_CFG=False, analysis_only=False)
class OneType(FunctionPass):
    """A variable that is assigned more than once becomes several: each has a type of its own.

    Numba's pass walks the whole function for each variable. This one hands its steps the blocks that they can change.
    """

    _name = "attnc_one_type"

    def __init__(self) -> None:
        FunctionPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        blocks = state.func_ir.blocks
        graph = ssa.compute_cfg_from_blocks(blocks)
        frontiers = ssa._iterated_domfronts(graph)
        places = _mentions(blocks)
        uses = ssa._CacheListVars()
        for name in ssa._find_defs_violators(blocks, graph):
            changed, assigned = ssa._fresh_vars({n: blocks[n] for n in blocks if n in places[name]}, name)
            blocks.update(changed)
            joins = ssa._compute_phi_locations(frontiers, assigned)
            part = {n: blocks[n] for n in blocks if n in places[name] or n in joins}
            blocks.update(ssa._fix_ssa_vars(part, name, assigned, graph, frontiers, uses))
        return True


def _mentions(blocks: Any) -> dict[str, set[int]]:
    """The blocks in which each variable is read or assigned."""
    found: dict[str, set[int]] = {}
    for label, block in blocks.items():
        for statement in block.body:
            for variable in statement.list_vars():
                found.setdefault(variable.name, set()).add(label)
            if isinstance(statement, ir.assign_types):
                found.setdefault(statement.target.name, set()).add(label)
    return found


@register_pass(mutates_CFG=False, analysis_only=False)
class StripPhis(PreLowerStripPhis):
    """Numba's pass without the lifetimes that follow it."""

    _name = "attnc_strip_phis"

    def run_pass(self, state: Any) -> bool:
        state.func_ir = self._strip_phi_nodes(state.func_ir)
        return True


class Lower(CUDALower):
    """To LLVM code. An operator is that of its operands' types: Numba would look for one for constants first, three times."""

    def lower_binop(self, resty: Any, expr: Any, op: Any) -> Any:
        signature, context, builder = self.fndesc.calltypes[expr], self.context, self.builder
        typing = context.typing_context
        operands = [
            context.cast(builder, self.loadvar(x.name), self.typeof(x.name), kind)
            for x, kind in zip((expr.lhs, expr.rhs), signature.args, strict=True)
        ]
        function = typing.resolve_value_type(op)
        # += was typed under its own name, and happens under that of +.
        found = typing.resolve_function_type(function, signature.args, {})
        result = context.get_function(function, found)(builder, operands)
        return context.cast(builder, result, signature.return_type, resty)


@register_pass(mutates_CFG=True, analysis_only=False)
class Lowering(CUDANativeLowering):
    """Numba's pass with `Lower`."""

    _name = "attnc_lowering"

    @property
    def lowering_class(self) -> Any:
        return Lower


class Passes(CompilerBase):
    """The passes of a compilation."""

    def define_pipelines(self) -> list[Any]:
        manager = PassManager("attnc")
        for each in (
            CUDATranslateBytecode,
            FixupArgs,
            GenericRewrites,  # an index of a tuple that is a constant is one to Numba too
            OneType,
            NopythonTypeInference,
            StripPhis,
            CreateLibrary,
            Lowering,
            CUDABackend,
        ):
            manager.add_pass(each)
        manager.finalize()
        return [manager]
