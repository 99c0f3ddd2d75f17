"""Secrets: shown nowhere, usable where asked for."""

from __future__ import annotations

import json
import pickle

import pytest
from pydantic import BaseModel

from infra.runtime.secret import Secret


class _Holder(BaseModel):
    password: Secret


def test_it_prints_as_stars_everywhere() -> None:
    holder = _Holder(password=Secret("hunter2"))
    shown = [
        str(holder.password),
        repr(holder),
        f"{holder.password}",
        holder.model_dump_json(),
        str(holder.model_dump()),
    ]
    assert all("hunter2" not in text for text in shown)
    assert json.loads(holder.model_dump_json()) == {"password": "***"}


def test_it_is_read_from_text_and_revealed_on_demand() -> None:
    assert _Holder.model_validate({"password": "hunter2"}).password.reveal() == "hunter2"
    assert _Holder.model_validate_json('{"password": "hunter2"}').password == Secret("hunter2")
    assert Secret("a") != Secret("b")
    assert not Secret("")


def test_it_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(Secret("hunter2"))
