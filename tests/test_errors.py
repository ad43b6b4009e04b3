"""errors: what is damaged comes with one remedy, also from another process."""

from __future__ import annotations

import ast
import copy
import pickle
from pathlib import Path

import pytest

import tinc_codec
from tinc_codec.errors import CorruptPayload, InvalidSetting, TincError, TruncatedPayload

REMEDY = "; restore what is damaged from its source, or from a copy"


@pytest.mark.parametrize("kind", [CorruptPayload, TruncatedPayload])
@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_the_remedy_comes_once_whatever_way_an_error_took(kind, again):
    error = again(again(kind("ARRAY section: 0 axes")))
    assert type(error) is kind
    assert str(error) == "ARRAY section: 0 axes" + REMEDY
    assert error.args == ("ARRAY section: 0 axes",)


def test_other_errors_say_what_they_were_told():
    assert str(InvalidSetting("ratio=0 must be a number from 1 to 100000")).endswith("to 100000")


def test_a_damaged_payload_is_refused_with_the_remedy():
    with pytest.raises(TincError, match=REMEDY):
        tinc_codec.decode(b"no payload")


def test_no_message_of_damage_names_a_remedy_of_its_own():
    for path in Path(tinc_codec.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.unparse(node) if isinstance(node, ast.Call) else ""
            if text.startswith(("CorruptPayload(", "TruncatedPayload(")):
                assert "restore" not in text, (path, text)
