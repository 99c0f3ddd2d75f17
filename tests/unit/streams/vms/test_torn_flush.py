"""A flush that carries the rows of several batches, cut between any two of them: replay ends where no crash would.

The row of a VM that a later batch wrote again stands behind rows of the earlier batch; what says "up to here all is
included" must not become durable before it.
"""

import pytest

from schemas.facets import Facet
from schemas.vm_state import VmHead
from streams.runtime.outbox import merge_rows
from streams.runtime.sender import PartitionRow
from streams.runtime.stage import Batch, Output
from streams.vms.core import VmsCore
from streams.vms.rows import heads_of
from tests.unit.streams.vms.scene import Scene, changes_in


def migration() -> Scene:
    """A VM goes from one host to another, both known before."""
    scene = Scene()
    scene.host("S")
    scene.host("D")
    scene.see("S", "up")
    scene.see("S", "migrating_from", peer="D")
    scene.see("D", "migrating_to")
    scene.see("D", "up", reason="migrated")
    scene.gone("S", "migrated")
    scene.tick(3)
    return scene


def batches(core: VmsCore, scene: Scene, size: int) -> list[Batch]:
    """What the core makes of the log from where it is."""
    made = []
    rest = scene.log[core.applied + 1 :]
    for at in range(0, len(rest), size):
        for record in rest[at : at + size]:
            core.apply(record)
        made.append(core.seal())
    return made


def heads(core: VmsCore) -> list[VmHead]:
    """Heads without the place up to which they were written."""
    return list(heads_of(core.state, applied=0))


def versions(outputs: list[Output]) -> dict[tuple[str, int, int], set[bytes]]:
    """Every value published under an identity."""
    found: dict[tuple[str, int, int], set[bytes]] = {}
    changes = [out for out in outputs if out.topic == "vm.changes"]
    for out, change in zip(changes, changes_in(outputs), strict=True):
        found.setdefault((change.vm_id, change.incarnation, change.version), set()).add(out.value or b"")
    return found


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("waves", [2, 3, 5])
@pytest.mark.parametrize("whole", [0, 2, 4])
def test_every_cut_of_a_merged_flush_is_repaired_by_replay(size: int, waves: int, whole: int) -> None:
    scene = migration()
    made = batches(scene.stage.loader(0).finish(), scene, size)
    torn = merge_rows([PartitionRow(0, row) for batch in made[whole : whole + waves] for row in batch.rows])
    for cut in range(len(torn) + 1):
        loader = scene.stage.loader(0)
        for batch in made[:whole]:
            for row in batch.rows:
                loader.add(*row)
        for _, row in torn[:cut]:
            loader.add(*row)
        core = loader.finish()
        outputs = [out for batch in made[: whole + waves] for out in batch.outputs]
        outputs += [out for batch in batches(core, scene, 1) for out in batch.outputs]
        assert heads(core) == heads(scene.core), f"cut after {cut} of {len(torn)} rows"
        assert versions(outputs) == versions(scene.outputs), f"cut after {cut} of {len(torn)} rows"


def test_order_within_a_merged_flush() -> None:
    scene = migration()
    made = batches(scene.stage.loader(0).finish(), scene, 2)
    merged = merge_rows([PartitionRow(0, row) for batch in made for row in batch.rows])
    keys = [row.key for _, row in merged]
    assert len(set(keys)) == len(keys)
    assert keys[-1] == b"#partition"
    first_bookkeeping = min(at for at, key in enumerate(keys) if key.startswith(b"#"))
    assert all(key.startswith(b"#") for key in keys[first_bookkeeping:])
    deletes = [at for at, (_, row) in enumerate(merged) if row.value is None]
    heads_at = [at for at, key in enumerate(keys) if b"/" not in key and not key.startswith(b"#")]
    assert deletes, "the source's facets are deleted after it let go of the VM"
    assert heads_at
    assert min(deletes) > max(heads_at)
    facets = [at for at, (_, row) in enumerate(merged) if Facet.RUN.encode() in row.key and row.value is not None]
    assert max(facets) < max(heads_at)
