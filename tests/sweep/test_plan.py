"""Plans: which cells there are, in which order, and what is refused."""

from hashlib import sha256
from typing import Any

import pytest

from pvhdbg.commands.table import COMMANDS
from pvhdbg.errors import BadInput
from pvhdbg.stress.catalogue import MUTATIONS
from pvhdbg.sweep.axes import AXES
from pvhdbg.sweep.cell import FIELDS, AskedQemu, CellTask, SweepCell
from pvhdbg.sweep.plan import SweepPlan, memory_size, planned

SMALL = {"kernels": ["a", "b"], "machines": ["pc", "q35", "microvm"], "memory": ["256M", "3G"]}


def plan(document: dict[str, Any], **options: Any) -> SweepPlan:
    return planned(document, options, "", "sweep.toml")


def test_every_combination_is_a_cell_in_the_order_of_the_axes() -> None:
    cells = list(plan(SMALL).cells())
    assert len(cells) == plan(SMALL).count() == 12
    assert [(one.kernel, one.machine, one.memory) for one in cells[:3]] == [
        ("a", "pc", "256M"),
        ("a", "pc", "3G"),
        ("a", "q35", "256M"),
    ]
    assert len({one.id for one in cells}) == 12
    assert plan(SMALL).sizes() == "2 kernels x 3 machines x 2 memory"


def test_the_identity_is_the_content_and_the_same_in_every_version() -> None:
    cell = SweepCell("vmlinux", machine="q35", cpus=2)
    assert cell.id == sha256(b'{"cpus":2,"kernel":"vmlinux","machine":"q35"}').digest()[:16]
    assert SweepCell.of(cell.content).id == cell.id
    assert SweepCell("vmlinux", machine="q35", cpus=3).id != cell.id


def test_a_task_crosses_a_pipe_unchanged() -> None:
    task = CellTask(SweepCell("a", firmware="qboot.rom"), {"a": "/a"}, extra=("-device", "pvpanic"))
    assert CellTask.of(task.document()) == task
    assert task.about().launch.extra == ("-bios", "qboot.rom", "-device", "pvpanic")


def test_excluded_cells_are_left_out_and_only_keeps_some() -> None:
    excluded = plan({**SMALL, "exclude": [{"machines": "micro*", "memory": "3G"}, {"kernels": "b"}]})
    assert excluded.count() == 5 == len(list(excluded.cells()))
    assert all((one.machine, one.memory) != ("microvm", "3G") and one.kernel == "a" for one in excluded.cells())
    assert {one.machine for one in plan({**SMALL, "only": [{"machines": ["pc", "q35"]}]}).cells()} == {"pc", "q35"}


def test_options_replace_the_axes_of_the_file() -> None:
    found = plan(SMALL, machines=("pc",), kernels=("c",))
    assert {(one.kernel, one.machine) for one in found.cells()} == {("c", "pc")}


def test_all_is_each_mutation_alone() -> None:
    found = plan({"kernels": ["a"], "mutations": ["", "all", "esp-zero+flags-future"]})
    assert found.count() == len(MUTATIONS) + 2
    assert (found.bounds.seconds, plan(SMALL).bounds.seconds) == (300, 120)  # a death must be confirmed
    assert SweepCell("a", mutations="esp-zero+flags-future").mutation_ids == ("esp-zero", "flags-future")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({**SMALL, "machine": ["pc"]}, "machine: there is no such key; did you mean machines?"),
        ({"machines": ["pc"]}, "names no kernel"),
        ({**SMALL, "memory": [256]}, "memory: each value must be text"),
        ({**SMALL, "cpus": ["2"]}, "cpus: each value must be a number"),
        ({**SMALL, "cells": 11}, "has 12 cells, more than 11"),
        ({**SMALL, "exclude": [{"machines": "q53"}]}, "exclude[0].machines: 'q53' matches no value of machines; did you mean q35?"),
        ({**SMALL, "exclude": [{"machine": "q35"}]}, "exclude[0].machine: there is no such key; did you mean machines?"),
        ({**SMALL, "exclude": [{}]}, "exclude[0]: it is empty"),
        ({**SMALL, "only": [{"kernels": "a"}], "exclude": [{"kernels": "a"}]}, "has no cell"),
        ({**SMALL, "accelerators": ["kvn"]}, "'kvn' is not an accelerator"),
        ({**SMALL, "revisions": ["v9"]}, "'v9' is not a revision"),
        ({**SMALL, "mutations": ["esp-zer"]}, "esp-zer is not a mutation"),
        ({**SMALL, "mutations": ["esp-zero"], "expectations": ["e.toml"]}, "both mutations and expectations"),
        ({**SMALL, "strict": 1}, "strict: it must be true or false"),
        ({**SMALL, "timeout": 0}, "timeout: it must be a number greater than 0"),
        ({**SMALL, "cell_memory": "3"}, "cell_memory: it must be a size"),
        ({**SMALL, "select": ["NONE-SUCH"]}, "there is no rule"),
        ({"kernels": ["a"], **{key: [f"{n}" for n in range(400)] for key in ("machines", "memory", "cpu_models")}}, "combinations"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_no_machine_could_have_is_refused_before_one_is_started(document: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        plan(document)
    assert said in refused.value.what
    assert refused.value.todo


def test_bytes_of_the_command_line_that_are_not_text_are_refused() -> None:
    with pytest.raises(BadInput, match="text in quotes"):
        plan({}, kernels=("\udcff",))


def test_files_that_are_not_there_are_refused() -> None:
    with pytest.raises(BadInput, match="kernels cannot be read"):
        plan({"kernels": ["/nonexistent"]}).files()


def test_a_plan_of_a_million_cells_is_not_held_in_memory() -> None:
    axes = {key: [f"{n}" for n in range(100)] for key in ("machines", "memory", "cpu_models")}
    large = plan({"kernels": ["a"], **axes, "cells": 1_000_000})
    assert large.count() == 1_000_000
    assert next(large.cells()).machine == "0"


def test_each_field_of_a_cell_is_an_axis_with_an_option() -> None:
    assert tuple(one.field for one in AXES) == FIELDS
    (command,) = (one for one in COMMANDS if one.name == "sweep")
    keys = {one.options.get("dest") for one in command.arguments}
    assert {one.key for one in AXES} <= keys


def test_a_version_is_asked_for_by_its_beginning() -> None:
    asked = AskedQemu.of("/opt/qemu@10.0")
    assert asked == AskedQemu("/opt/qemu", "10.0")
    assert [asked.fits(one) for one in ("10.0", "10.0.13", "10.01.1", "7.2.22")] == [True, True, False, False]
    assert AskedQemu.of("qemu").fits("1.0")


def test_sizes_of_memory_are_qemus() -> None:
    assert [memory_size(one) for one in ("256M", "3g", "64", "x", "size=1G", "")] == [
        256 << 20,
        3 << 30,
        64 << 20,
        None,
        None,
        None,
    ]
