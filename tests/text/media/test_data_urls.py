from __future__ import annotations

import base64
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quince.text.media.data_urls import decode
from quince.text.media.references import Refusal

LIMIT = 4096


@given(st.binary(max_size=LIMIT), st.sampled_from(["", "image/png", "text/plain;charset=x", "IMAGE/JPEG;Base64=no"]))
def test_what_was_encoded_comes_back(data: bytes, media_type: str) -> None:
    in_base64 = base64.b64encode(data).decode()
    assert decode(f"data:{media_type};base64,{in_base64}", LIMIT) == data
    assert decode(f"DATA:{media_type};BASE64,{urllib.parse.quote(in_base64)}", LIMIT) == data
    assert decode(f"data:{media_type},{urllib.parse.quote(data)}", LIMIT) == data


@given(st.text(max_size=40))
def test_anything_is_decoded_or_refused(text: str) -> None:
    for url in (f"data:{text}", f"data:,{text}", f"data:;base64,{text}"):
        try:
            data = decode(url, LIMIT)
        except Refusal:
            continue
        assert isinstance(data, bytes)


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png;base64",
        f"data:{'x' * 300},",
        "data:;base64,QUI",  # no padding
        "data:;base64,QUI==",
        "data:;base64,QUJD=",
        "data:;base64,QUJD====",
        "data:;base64,====",
        "data:;base64,QQ==QQ==",
        "data:;base64,QU\nJD",
        "data:;base64,QU JD",
        "data:;base64,QUJD!!!!",
        "data:;base64,__--",
        "data:;base64,QUJDé",
        "data:;base64,QU%4",
        "data:;base64,QU%ff%fe",
        "data:,a%2",
        "data:,a%zz",
        "data:,a b",
        "data:,é",
    ],
)
def test_what_is_not_exactly_encoded_is_refused(url: str) -> None:
    with pytest.raises(Refusal):
        decode(url, LIMIT)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4])
def test_the_limit_counts_decoded_bytes(size: int) -> None:
    exact, more = bytes(LIMIT - size), bytes(LIMIT - size + 1)
    for encoded in (lambda data: ";base64," + base64.b64encode(data).decode(), lambda data: "," + "%00" * len(data)):
        assert decode("data:" + encoded(exact), LIMIT - size) == exact
        with pytest.raises(Refusal, match="larger"):
            decode("data:" + encoded(more), LIMIT - size)
