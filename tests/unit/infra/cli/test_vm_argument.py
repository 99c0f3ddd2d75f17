"""How a VM is named on the command line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.cli.vm import _range


@given(st.uuids(), st.integers(min_value=1, max_value=36))
def test_beginning_of_an_id_spans_the_id(vm_id: object, length: int) -> None:
    low, high = _range(str(vm_id)[:length])
    digits = str(vm_id).replace("-", "")
    assert low <= digits <= high


@pytest.mark.parametrize("name", ["web-7", "", "0" * 33, "xyz"])
def test_what_is_no_beginning_of_an_id_spans_nothing(name: str) -> None:
    low, high = _range(name)
    assert low > high
