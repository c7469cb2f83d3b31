"""Data is stored with the names in the schema that the model was sent, not with pydantic's other names."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import pydantic
import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    computed_field,
    field_serializer,
    model_serializer,
)
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from airflow_provider_segmind.chat.output_type import OutputType


class Alias(BaseModel):
    team: str = Field(alias="teamName")


class ValidationAlias(BaseModel):
    team: str = Field(validation_alias="teamName")


class SerializationAlias(BaseModel):
    team: str = Field(serialization_alias="teamName")


class Both(BaseModel):
    team: str = Field(validation_alias="in", serialization_alias="out")


class Choices(BaseModel):
    team: str = Field(validation_alias=AliasChoices("teamName", "team_name"))


class Path(BaseModel):
    team: str = Field(validation_alias=AliasPath("teams", 0))


class PathOrKey(BaseModel):
    team: str = Field(validation_alias=AliasChoices(AliasPath("teams", 0), "teamName"))


class Generated(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    team_name: str


class OnlyByName(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=False)
    team_name: str


class Populated(BaseModel):
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)
    team: str = Field(alias="teamName")


class Excluded(BaseModel):
    team: str = Field(exclude=True)


class ExcludedAlias(BaseModel):
    team: str = Field(alias="teamName", exclude=True)


class Computed(BaseModel):
    team: str

    @computed_field
    @property
    def shout(self) -> str:
        return self.team.upper()


class Serialized(BaseModel):
    team: str = Field(alias="teamName")

    @model_serializer
    def as_other(self) -> dict[str, Any]:
        return {"t": self.team}


class SerializedToText(BaseModel):
    team: str = Field(alias="teamName")

    @model_serializer
    def as_text(self) -> str:
        return f"team {self.team}"


class FieldSerialized(BaseModel):
    team: str = Field(alias="teamName")

    @field_serializer("team")
    def as_is(self, team: str) -> str:
        return team


class Raising(BaseModel):
    team: str = Field(alias="teamName")

    @field_serializer("team")
    def never(self, team: str) -> str:
        raise ValueError(team)


class Root(RootModel[Alias]):
    pass


@dataclasses.dataclass
class Plain:
    team: Annotated[str, Field(alias="teamName")]


@pydantic.dataclasses.dataclass
class Pydantic:
    team: str = Field(alias="teamName")
    other: dataclasses.InitVar[str] = "none"


class Typed(TypedDict):
    team: Annotated[str, Field(alias="teamName")]


TYPES = [
    Alias, ValidationAlias, SerializationAlias, Both, Choices, Path, PathOrKey, Generated, OnlyByName, Populated,
    Excluded, ExcludedAlias, Computed, Serialized, SerializedToText, FieldSerialized, Raising, Root, Plain, Pydantic,
    Typed,
]  # fmt: skip


def answer_to(output_type: OutputType) -> dict[str, Any]:
    """Reply as a model that follows the schema it is sent."""
    sent = output_type.response_format("openai")["json_schema"]["schema"]
    return dict.fromkeys(sent["properties"], "x")


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_a_reply_to_the_sent_schema_fills_every_field(kind):
    output_type = OutputType.from_(kind)
    answer = answer_to(output_type)

    parsed = output_type.parse(json.dumps(answer))

    assert parsed.error is None
    assert {name: parsed.data[name] for name in answer} == answer
    assert list(output_type.fields)[: len(answer)] == list(answer)
    assert all(parsed.data.get(name) is not None for name in output_type.fields)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_delivered_data_validates_with_the_same_type(kind):
    output_type = OutputType.from_(kind)
    delivered = output_type.parse(json.dumps(answer_to(output_type))).data

    again = output_type.parse(json.dumps(delivered))

    assert again.data == delivered


@pytest.mark.parametrize("kind", [Alias, ValidationAlias, Both, Choices, Generated, Populated, Plain, Typed])
def test_a_reply_with_python_names_is_accepted_too(kind):
    output_type = OutputType.from_(kind)
    own = "team_name" if kind is Generated else "team"

    assert next(iter(output_type.parse(json.dumps({own: "x"})).data.values())) == "x"


def test_alias_choices_are_stored_with_the_name_in_the_schema():
    assert OutputType.from_(Choices).parse('{"team_name": "x"}').data == {"teamName": "x"}
    assert OutputType.from_(Path).parse('{"teams": ["x", "y"]}').data == {"team": "x"}


def test_swapped_names_are_distinguished():
    class Swapped(BaseModel):
        a: str | None = Field(None, alias="b")
        b: str | None = Field(None, alias="a")

    assert OutputType.from_(Swapped).parse('{"b": "x"}').data == {"b": "x", "a": None}


class Leaf(BaseModel):
    kind: Literal["leaf"] = Field("leaf", alias="leafKind")
    inner: str = Field(validation_alias="innerName", exclude=True)


class Other(BaseModel):
    kind: Literal["other"] = Field(alias="leafKind")
    inner: str = Field(validation_alias="otherName")


class Tree(BaseModel):
    first: Leaf = Field(alias="firstLeaf")
    many: list[Leaf | Other] = Field(validation_alias="manyLeaves")
    named: dict[str, Leaf] = Field(alias="namedLeaves")
    pair: tuple[Leaf, int] = Field(alias="aPair")
    one: Annotated[Leaf | Other, Field(discriminator="kind", alias="oneOf")]
    maybe: Tree | None = Field(None, alias="maybeTree")


LEAF = {"leafKind": "leaf", "innerName": "x"}
OTHER = {"leafKind": "other", "otherName": "x"}


def test_fields_of_nested_models_have_the_names_of_the_schema():
    answer: dict[str, Any] = {
        "firstLeaf": LEAF,
        "manyLeaves": [LEAF, OTHER],
        "namedLeaves": {"a": LEAF},
        "aPair": [LEAF, 1],
        "oneOf": OTHER,
    }
    answer["maybeTree"] = {**answer, "maybeTree": None}

    assert OutputType.from_(Tree).parse(json.dumps(answer)).data == answer
    assert OutputType.from_(list[Leaf | Other]).parse(json.dumps([LEAF, OTHER])).data == [LEAF, OTHER]


@pytest.mark.parametrize(
    ("odd", "name"),
    [
        (Annotated[str, Field(validation_alias="in")], "in"),
        (Annotated[str, Field(serialization_alias="out")], "team"),
        (Annotated[str, Field(exclude=True)], "team"),
    ],
)
def test_a_field_of_a_typed_dict_has_the_name_of_the_schema(odd, name):
    Odd = TypedDict("Odd", {"team": odd})  # noqa: UP013 - made from a value

    assert OutputType.from_(Odd).parse(json.dumps({name: "x"})).data == {name: "x"}
    assert OutputType.from_(list[Odd]).parse(json.dumps([{name: "x"}])).data == [{name: "x"}]


class Secrets(BaseModel):
    word: SecretStr = Field(alias="passWord")
    raw: SecretBytes
    day: Secret[date]
    many: list[SecretStr]
    named: dict[str, SecretStr]
    keys: dict[SecretStr, int]
    maybe: SecretStr | None = None


def test_a_secret_is_delivered_as_the_model_wrote_it():
    answer = {
        "passWord": "hunter2",
        "raw": "bytes",
        "day": "2026-01-02",
        "many": ["a", "b"],
        "named": {"k": "v"},
        "keys": {"secret": 1},
        "maybe": "c",
    }

    assert OutputType.from_(Secrets).parse(json.dumps(answer)).data == answer
    assert OutputType.from_(SecretStr).parse('"hunter2"').data == "hunter2"
    assert OutputType.from_(TypedDict("Login", {"word": SecretStr})).parse('{"word": "w"}').data == {"word": "w"}


@pytest.mark.parametrize("kind", [SecretStr, SecretBytes, Secret[str], list[SecretStr], SecretStr | None])
def test_a_single_secret_is_delivered(kind):
    class One(BaseModel):
        word: kind

    class Outer(BaseModel):
        inner: One

    word = ["w"] if kind == list[SecretStr] else "w"
    answer = {"inner": {"word": word}}

    assert OutputType.from_(Outer).parse(json.dumps(answer)).data == answer
    assert OutputType.from_(kind).parse(json.dumps(word)).data == word


def test_a_computed_secret_of_a_nested_model_is_delivered():
    class Inner(BaseModel):
        word: str

        @computed_field
        @property
        def twice(self) -> SecretStr:
            return SecretStr(self.word * 2)

    class Outer(BaseModel):
        inner: Inner

    assert OutputType.from_(Outer).parse('{"inner": {"word": "a"}}').data == {"inner": {"word": "a", "twice": "aa"}}


def test_an_extra_secret_of_a_model_is_delivered():
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        __pydantic_extra__: dict[str, SecretStr]
        word: SecretStr

        @computed_field(alias="twoWords")
        @property
        def twice(self) -> SecretStr:
            return SecretStr(self.word.get_secret_value() * 2)

        @computed_field
        @property
        def leaf(self) -> Leaf:
            return Leaf(leafKind="leaf", innerName="x")

    parsed = OutputType.from_(Open).parse('{"word": "a", "more": "b"}')

    assert parsed.data == {"word": "a", "more": "b", "twoWords": "aa", "leaf": LEAF}
    assert list(OutputType.from_(Open).fields) == ["word", "twoWords", "leaf"]


def test_a_value_of_a_union_keeps_the_fields_of_its_own_class():
    class Base(BaseModel):
        one: str = Field(validation_alias="first")

    class Sub(Base):
        two: str = Field(validation_alias="second")

    answer = [{"first": "x"}, {"first": "y", "second": "z"}]

    assert OutputType.from_(list[Base | Sub]).parse(json.dumps(answer)).data == answer


def test_lazily_validated_items_are_validated():
    class Late(BaseModel):
        many: Iterable[int] = Field(alias="manyItems")

    assert OutputType.from_(Late).parse('{"manyItems": [1, 2]}').data == {"manyItems": [1, 2]}
    assert not OutputType.from_(Late).parse('{"manyItems": [1, "x"]}').ok


def test_a_secret_with_its_own_serializer_is_delivered_as_serialized():
    class Hashed(BaseModel):
        word: SecretStr

        @field_serializer("word")
        def shorten(self, word: SecretStr) -> str:
            return f"{len(word.get_secret_value())} letters"

    assert OutputType.from_(Hashed).parse('{"word": "abc"}').data == {"word": "3 letters"}


class Colour(Enum):
    RED = "red"


class Kinds(BaseModel):
    colour: Colour = Field(alias="theColour")
    day: date
    at: datetime
    took: timedelta
    id: UUID
    raw: bytes
    limit: float = float("inf")


def test_values_of_other_types_are_delivered_in_their_json_form():
    answer = {
        "theColour": "red", "day": "2026-01-02", "at": "2026-01-02T03:04:05Z", "took": "PT1M",
        "id": str(uuid4()), "raw": "abc",
    }  # fmt: skip

    assert OutputType.from_(Kinds).parse(json.dumps(answer)).data == {**answer, "limit": None}


class Refused(Exception):  # noqa: N818
    """An error of a user's own."""


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, NameError, Refused, re.error])
def test_whatever_a_validator_raises_makes_the_reply_invalid(error: type[Exception]) -> None:
    def broken(_: str) -> str:
        raise error("the answer")

    parsed = OutputType.from_(Annotated[str, pydantic.AfterValidator(broken)]).parse('"x"')

    assert parsed.error == f"$: output_type itself raised {error.__name__}"


def test_a_network_error_in_a_validator_does_not_make_the_reply_invalid() -> None:
    def away(_: str) -> str:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        OutputType.from_(Annotated[str, pydantic.AfterValidator(away)]).parse('"x"')


def test_an_error_in_a_validator_is_invalid_and_one_in_a_serializer_is_ignored():
    def broken(value: str) -> str:
        raise KeyError(value)

    odd = Annotated[str, pydantic.AfterValidator(broken)]
    parsed = OutputType.from_(odd).parse('"x"')

    assert parsed.error == "$: output_type itself raised KeyError"
    assert OutputType.from_(Raising).parse('{"teamName": "x"}').data == {"teamName": "x"}


class Bag(BaseModel):
    n: int | None = None
    t: str | None = None
    d: Any = None


@pytest.mark.parametrize("kind", [Bag, {"type": "object"}], ids=["pydantic", "schema"])
@pytest.mark.parametrize(
    "text",
    [
        f'{{"n": {"7" * 400}}}', f'{{"n": -{"7" * 5000}}}', f'{{"d": {"[" * 300}{"]" * 300}}}',
        f'{{"d": {"[" * 5000}{"]" * 5000}}}', f'{{"d": {"{" + chr(34) + "a" + chr(34) + ":"}' * 1 + "1}}",
        '{"d": NaN}', '{"d": -Infinity}', '{"d": 1e999}', '{"d": [{"a": ' + "9" * 309 + "}]}",
    ],
)  # fmt: skip
def test_data_that_cannot_be_stored_is_invalid_with_a_reason(kind, text):
    parsed = OutputType.from_(kind).parse(text)

    assert parsed.error or parsed.data == {"n": None, "t": None, "d": {"a": 1}} or parsed.data == {"d": {"a": 1}}
    assert parsed.ok is ("{" in text[6:] and "[" not in text)


@pytest.mark.parametrize("kind", [Bag, {"type": "object"}], ids=["pydantic", "schema"])
@pytest.mark.parametrize(
    ("written", "read"), [("a\\u0000b", "a\ufffdb"), ("half \\ud83d pair", "half \ufffd pair"), ("\\udc00", "\ufffd")]
)
def test_characters_that_stores_refuse_do_not_make_a_reply_invalid(kind, written, read):
    parsed = OutputType.from_(kind).parse(f'{{"t": "{written}"}}')

    assert parsed.data["t"] == read
    assert parsed.replaced == 1
