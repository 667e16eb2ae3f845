from types import SimpleNamespace

import pytest

from cbgui import verify


@pytest.mark.parametrize("gigabytes", [0.5, 64])
def test_a_model_is_in_memory_only_where_it_fits(demo, gigabytes, monkeypatch):
    monkeypatch.setattr(verify.psutil, "virtual_memory", lambda: SimpleNamespace(available=gigabytes * 1e9))
    model = verify.float32_model(demo)  # 0.54 GB in float32
    assert {parameter.is_meta for parameter in model.parameters()} == {gigabytes < 1}
