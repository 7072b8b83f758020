"""From a program's operations to steps that are checked and ready to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from converters.coreml_evaluator.node import Kernel, Node
from converters.coreml_evaluator.operations import OPERATIONS
from converters.coreml_evaluator.value_types import STORAGE, from_array, rounded
from converters.mil_reader import UNKNOWN_SIZE, MilPackage, Operation, TensorType, tensor_type
from edge_sr.errors import ArtifactError, RunnerError, reason_of


@dataclass(frozen=True, kw_only=True)
class Step:
    """An operation with its kernel.

    Attributes:
        where: kind, name and location, for messages.
        sources: names of the values that the kernel takes.
        rounds: for each result, whether it is rounded to float16.
        dies: values that nothing reads after this step.
    """

    operation: Operation
    where: str
    kernel: Kernel
    sources: tuple[str, ...]
    rounds: tuple[bool, ...]
    dies: tuple[str, ...] = ()

    def run(self, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The results, rounded and of the declared shapes and types.

        Raises:
            ArtifactError: a result has another shape or type than the program declares.
            RunnerError: the operation cannot be done with these values.
        """
        try:
            made = self.kernel.compute(*values)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise RunnerError(f"expected {self.where} to run, got {reason_of(error)}") from error
        results = (made,) if isinstance(made, Tensor) else tuple(made)
        for result, (name, declared) in zip(results, self.operation.outputs, strict=True):
            if tuple(result.shape) != declared.shape and not _fits(result, declared):
                raise ArtifactError(
                    f"expected {name!r} of shape {declared.shape} from {self.where}, got {tuple(result.shape)}: "
                    "export it again"
                )
            if result.dtype != STORAGE[declared.dtype]:
                raise ArtifactError(
                    f"expected {name!r} of type {declared.dtype} from {self.where}, got {result.dtype}: export it again"
                )
        return tuple(rounded(result) if rounds else result for result, rounds in zip(results, self.rounds, strict=True))


@dataclass(kw_only=True)
class Program:
    """Steps in order, and the constants that they read."""

    steps: tuple[Step, ...] = ()
    constants: dict[str, Tensor] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)


def compile_program(package: MilPackage, *, halve: bool) -> Program:
    """Check every operation of a package's function, decode its constants once, and order what is left to run.

    Operations all of whose operands are constant are done here, once: decompressing weights, above all.

    Args:
        package: as read.
        halve: round values of type float16.
    Raises:
        RunnerError: operations, attributes or types that the evaluator does not know: the first with its location,
            and the kinds of all others.
        ArtifactError: the program contradicts itself, or its weights are damaged.
    """
    compiler = _Compiler(package, halve)
    for index, operation in enumerate(package.operations):
        compiler.add(index, operation)
    return compiler.finish()


class _Compiler:
    def __init__(self, package: MilPackage, halve: bool) -> None:
        self._package, self._halve = package, halve
        self._types: dict[str, TensorType] = dict(package.input_types)
        self._constants: dict[str, Tensor | str] = {}
        self._steps: list[Step] = []
        self._problems: list[tuple[str, RunnerError]] = []

    def add(self, index: int, operation: Operation) -> None:
        where = (
            f"{operation.kind} {operation.name!r} (operation {index + 1} of {len(self._package.operations)} in "
            f"{self._package.function_name!r} of {self._package.path})"
        )
        for name, value_type in operation.outputs:
            if name in self._types:
                raise ArtifactError(f"expected new values from {where}, got {name!r} again: export it again")
            self._types[name] = value_type
        try:
            if operation.kind == "const":
                self._decode(operation.output, operation.constants["val"], where)
            else:
                self._add_step(operation, where)
        except RunnerError as error:
            self._problems.append((operation.kind, error))

    def _add_step(self, operation: Operation, where: str) -> None:
        builder = OPERATIONS.get(operation.kind)
        if builder is None:
            raise RunnerError(
                f"expected operations that the evaluator knows, got {where}: evaluate the package with Core ML on macOS"
            )
        for _, value_type in operation.outputs:
            self._require_known(value_type, where)
        operands = self._operands(operation, where)
        node = Node(
            operation=operation,
            where=where,
            opset=self._package.opset,
            operands=operands,
            types=self._types,
            constants=self._constants,
        )
        kernel = builder(node)
        self._check_types(node, kernel)
        for parameter in kernel.parameters:
            node.type_of(parameter)  # it has to be there
        step = Step(
            operation=operation,
            where=where,
            kernel=kernel,
            sources=tuple(name for parameter in kernel.parameters for name in operands[parameter]),
            rounds=tuple(
                self._halve and value_type.dtype == "float16" and not kernel.exact
                for _, value_type in operation.outputs
            ),
        )
        known = [self._constants.get(name) for name in step.sources]
        values = [value for value in known if isinstance(value, Tensor)]
        if len(values) < len(step.sources):
            self._steps.append(step)
            return
        for (name, _), result in zip(operation.outputs, step.run(values), strict=True):
            self._constants[name] = result

    def _operands(self, operation: Operation, where: str) -> dict[str, tuple[str, ...]]:
        operands = dict(operation.inputs)
        for parameter, value in operation.constants.items():
            name = f"{operation.output}/{parameter}"
            self._types[name] = tensor_type(value.type)
            self._decode(name, value, where)
            several, bracket, _ = parameter.partition("[")
            if bracket:
                operands[several] = tuple(name if each == parameter else each for each in operands[several])
            else:
                operands[parameter] = (name,)
        for parameter, names in operands.items():
            for name in names:
                if name not in self._types:
                    raise ArtifactError(
                        f"expected {parameter} of {where} to be made before it is read, got {name!r}: export it again"
                    )
        return operands

    def _decode(self, name: str, value: object, where: str) -> None:
        self._require_known(self._types[name], where)
        decoded = self._package.decode(value)
        self._constants[name] = decoded if isinstance(decoded, str) else from_array(decoded, self._types[name].dtype)

    @staticmethod
    def _require_known(value_type: TensorType, where: str) -> None:
        if value_type.dtype not in STORAGE and value_type.dtype != "string":
            raise RunnerError(
                f"expected values of type {', '.join(STORAGE)} in {where}, got {value_type.dtype}: the evaluator knows "
                "no other"
            )

    def _check_types(self, node: Node, kernel: Kernel) -> None:
        made = kernel.dtypes or (node.type_of(kernel.parameters[0]).dtype,)
        declared = tuple(value_type.dtype for _, value_type in node.operation.outputs)
        if made != declared:
            node.damaged(f"results of type {', '.join(made)}", f"declared ones of type {', '.join(declared)}")

    def finish(self) -> Program:
        if self._problems:
            kinds = Counter(kind for kind, _ in self._problems)
            listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            more = f"; in all it cannot do {listed}" if len(self._problems) > 1 else ""
            raise RunnerError(f"{self._problems[0][1]}{more}")
        outputs = set(self._package.output_names)
        missing = sorted(outputs - self._types.keys())
        if missing:
            raise ArtifactError(
                f"expected {self._package.path} to make its outputs, got no {missing[0]!r}: export it again"
            )
        read = {name for step in self._steps for name in step.sources} | outputs
        constants = {
            name: value for name, value in self._constants.items() if name in read and isinstance(value, Tensor)
        }
        return Program(
            steps=_with_deaths(self._steps, keep=outputs | constants.keys()), constants=constants, types=self._types
        )


def _with_deaths(steps: Sequence[Step], keep: set[str]) -> tuple[Step, ...]:
    """The same steps, each with the values that are read for the last time in it, or made by it and never read."""
    seen = set(keep)
    reversed_steps = []
    for step in reversed(steps):
        names = (*step.sources, *(name for name, _ in step.operation.outputs))
        dies = tuple(dict.fromkeys(name for name in names if name not in seen))
        seen.update(dies)
        reversed_steps.append(
            Step(
                operation=step.operation,
                where=step.where,
                kernel=step.kernel,
                sources=step.sources,
                rounds=step.rounds,
                dies=dies,
            )
        )
    return tuple(reversed(reversed_steps))


def _fits(result: Tensor, declared: TensorType) -> bool:
    return result.ndim == len(declared.shape) and all(
        wanted in (UNKNOWN_SIZE, size) for wanted, size in zip(declared.shape, result.shape, strict=True)
    )
