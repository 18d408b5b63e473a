"""Our own contract types for `lint-imports`; pyproject.toml holds the contracts.

In the layers of pyproject.toml, `<services>` stands for the services in registry.py, separated by " | ", and an entry
with `<service>` is repeated for each of them.
"""

import graphlib
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output
from importlinter.contracts.layers import LayersContract

from admitone.registry import SERVICES

_NAMES = [each.name for each in SERVICES]


class Layers(LayersContract):
    """Import-linter's layers, with the names of the services filled in."""

    def __init__(self, name: str, session_options: dict[str, Any], contract_options: dict[str, Any]) -> None:
        super().__init__(name, session_options, {key: _filled(value) for key, value in contract_options.items()})


def _filled(option: Any) -> Any:
    if not isinstance(option, list):
        return option
    joined = [each.replace("<services>", " | ".join(_NAMES)) for each in option]
    return [each.replace("<service>", name) for each in joined for name in (_NAMES if "<service>" in each else [""])]


class Acyclic(Contract):
    """No module of ours imports itself through others. Import-linter's own contract is about packages instead."""

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        ours = [each for each in graph.modules if not graph.is_module_squashed(each)]
        sorter = graphlib.TopologicalSorter({each: graph.find_modules_directly_imported_by(each) for each in ours})
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            return ContractCheck(kept=False, metadata={"cycle": error.args[1]})
        return ContractCheck(kept=True)

    def render_broken_contract(self, check: ContractCheck) -> None:
        output.print_error(" <- ".join(check.metadata["cycle"]))
