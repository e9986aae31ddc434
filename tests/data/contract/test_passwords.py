import pytest

from data.contract.passwords import concealed


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:hunter2@host:6379/0", "redis://host:6379/0"),
        ("redis://me:hunter2@host:6379/0", "redis://me@host:6379/0"),
        ("redis://:hun@ter2@host/0", "redis://host/0"),
        ("s3://KEY:hunter2@bucket/a: is away", "s3://KEY@bucket/a: is away"),
        (
            "'/tmp/homefeed-mirror/s3/KEY:hunter2@bucket/a'",
            "'/tmp/homefeed-mirror/s3/KEY@bucket/a'",
        ),
        ("redis://host/0?db=1&password=hunter2", "redis://host/0?db=1&password=..."),
        ('{"root": "s3://K:hunter2@b", "at": "x"}', '{"root": "s3://K@b", "at": "x"}'),
    ],
)
def test_a_password_is_not_shown(text: str, shown: str) -> None:
    assert concealed(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "redis://redis:6379/0",
        "abfs://container@account.dfs.core.windows.net/a",
        "s3://bucket/a?endpoint_override=localhost:9000&scheme=http",
        '{"a": "http://127.0.0.1:8000/v1", "by": "me@home"}',
        "hdfs://names:8020/a, by me@home",
    ],
)
def test_an_address_without_a_password_is_shown_as_it_is(text: str) -> None:
    assert concealed(text) == text
