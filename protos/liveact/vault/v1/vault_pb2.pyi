from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReadSessionRequest(_message.Message):
    __slots__ = ("session", "attempt")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    session: str
    attempt: int
    def __init__(self, session: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class ReadSessionResponse(_message.Message):
    __slots__ = ("standing", "page", "exports")
    STANDING_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    EXPORTS_FIELD_NUMBER: _ClassVar[int]
    standing: Standing
    page: Page
    exports: Exports
    def __init__(self, standing: _Optional[_Union[Standing, _Mapping]] = ..., page: _Optional[_Union[Page, _Mapping]] = ..., exports: _Optional[_Union[Exports, _Mapping]] = ...) -> None: ...

class Standing(_message.Message):
    __slots__ = ("attempt", "taken")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    taken: bool
    def __init__(self, attempt: _Optional[int] = ..., taken: _Optional[bool] = ...) -> None: ...

class Page(_message.Message):
    __slots__ = ("name", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: bytes
    def __init__(self, name: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class Exports(_message.Message):
    __slots__ = ("part", "blocks")
    PART_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    part: str
    blocks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, part: _Optional[str] = ..., blocks: _Optional[_Iterable[int]] = ...) -> None: ...

class ReadExportRequest(_message.Message):
    __slots__ = ("session", "part", "block")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    session: str
    part: str
    block: int
    def __init__(self, session: _Optional[str] = ..., part: _Optional[str] = ..., block: _Optional[int] = ...) -> None: ...

class ReadExportResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
