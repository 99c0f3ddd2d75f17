"""For all histories: an input that is isolated without need is applied as ever, and one that was tried and put back
leaves nothing behind."""

from hypothesis import given

from schemas.codec import decode
from schemas.observation import ObservationBatch
from streams.runtime.stage import Batch, Input
from streams.vms.app import VmsStage
from streams.vms.core import VmsCore
from streams.vms.turn import Turn
from streams.vms.undo import Undo, Watch
from tests.properties.test_vms_histories import Step, histories, last, quick
from tests.unit.streams.vms.scene import TOPIC_IDS


def fresh() -> VmsCore:
    return VmsStage(2, TOPIC_IDS).loader(0).finish()


def sealed(core: VmsCore) -> tuple[Batch, object]:
    return core.seal(), sorted(core.drain_counts())


def try_and_put_back(core: VmsCore, record: Input) -> None:
    """Apply the input and make it undone."""
    undo = Undo(core.state)
    core.make_turn = Watch(undo, frozenset()).turn
    core.take(record, decode(ObservationBatch, record.value, record.schema))
    core.make_turn = Turn
    undo.restore()


@quick
@given(histories)
def test_isolated_without_need_is_applied(history: list[Step]) -> None:
    plain, careful = fresh(), fresh()
    for record in last(history).log:
        plain.apply(record)
        careful.isolate(record, (), lambda topic, size: True, lambda names: None)
        assert sealed(careful) == sealed(plain)


@quick
@given(histories)
def test_tried_and_put_back_leaves_nothing(history: list[Step]) -> None:
    plain, tried = fresh(), fresh()
    for at, record in enumerate(last(history).log):
        plain.apply(record)
        try_and_put_back(tried, record)
        tried.apply(record)
        if at % 3 == 2:
            assert sealed(tried) == sealed(plain)
    assert sealed(tried) == sealed(plain)
