"""From a `Query` to parametrised SQL. No value of a query ever becomes part of the text of a statement.

An attribute with a column is matched by its index. Patterns that no index answers (`*x*`, words of names) run on the
narrow index of the column, not on the rows, and hand over row ids, so that the list stays in the order of its own
index; where another condition already leaves few rows, they are asked of those rows instead. All other attributes are
matched by `dicom.matching` on the JSON of the row, last.
"""
# ruff: noqa: S608 - names of tables and columns are constants of `schema`; values are bound

from collections.abc import Sequence
from typing import Any

from backends.sqlite import schema
from backends.sqlite.connections import Connection
from backends.sqlite.sql import ALWAYS, NEVER, Sql, all_of, any_of, on_row, patterns_on, words_in
from dicomweb_server.dicom.attributes import LAST_CHANGED, PATIENT_DIGEST, SUMMARY, level_of
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import (
    AllOf,
    AnyOf,
    Condition,
    Empty,
    Has,
    Not,
    Pattern,
    Range,
    Term,
    Wildcard,
    Words,
)
from dicomweb_server.storage.query import Order, Query
from dicomweb_server.storage.records import Scope

_STUDY_UID, _SERIES_UID, _INSTANCE_UID = "0020000D", "0020000E", "00080018"
_SOP_CLASS, _POSITION = "00080016", "00200013"
_KEYS = {_STUDY_UID: Level.STUDY, _SERIES_UID: Level.SERIES, _INSTANCE_UID: Level.INSTANCE}

_NUMBERS = {
    "00201200": (Level.PATIENT, "studies"),
    "00201202": (Level.PATIENT, "series"),
    "00201204": (Level.PATIENT, "instances"),
    "00201206": (Level.STUDY, "series"),
    "00201208": (Level.STUDY, "instances"),
    "00201209": (Level.SERIES, "instances"),
    PATIENT_DIGEST: (Level.PATIENT, "digest"),
}
_STUDY_SETS = {schema.MODALITIES: "modalities", schema.SOP_CLASSES: "sop_classes"}
_FROM_SERIES = {
    Level.PATIENT: "(SELECT patient FROM study WHERE id = {series}.study)",
    Level.STUDY: "{series}.study",
    Level.SERIES: "{series}.id",
}


class Statement:
    """The statements of one query on one connection, inside a read transaction."""

    def __init__(self, connection: Connection, query: Query, *, inner: bool = False) -> None:
        self._connection = connection
        self._level = query.level
        self._query = query
        self._joins_header = False
        if not inner:
            connection.matching, connection.sorting = [], []
        scope = self._scope(query.scope)
        simple = [term for term in query.terms if _answered_by_index(term)]
        self._narrow = any(part.selective for part in scope)
        first = [self._term(term) for term in simple]
        self._narrow = self._narrow or any(part.selective for part in first)
        rest = [self._term(term) for term in query.terms if not _answered_by_index(term)]
        rest += [self._condition(condition) for condition in query.conditions]
        self._conditions = [*scope, *first, *sorted(rest, key=lambda part: "dicom_match" in part.text)]
        self._order = [text for order in query.order for text in self._ordered(order)]

    def ids(self) -> list[int]:
        """The rows of the page in order, and one more where there is one."""
        order = ", ".join([*self._order, "t.uid", *(["t.id"] if self._level is Level.SERIES else [])])
        text, values = self._from_where()
        return [
            row[0]
            for row in self._connection.execute(
                f"SELECT t.id {text} ORDER BY {order} LIMIT ? OFFSET ?",
                (*values, self._query.limit + 1, self._query.offset),
            )
        ]

    def count(self) -> int:
        """How many rows match."""
        text, values = self._from_where()
        return int(self._connection.execute(f"SELECT count(*) {text}", values).fetchone()[0])

    def plan(self) -> list[str]:
        """What SQLite says how it will do it."""
        text, values = self._from_where()
        order = ", ".join([*self._order, "t.uid"])
        return [
            row[3]
            for row in self._connection.execute(
                f"EXPLAIN QUERY PLAN SELECT t.id {text} ORDER BY {order} LIMIT ? OFFSET ?",
                (*values, self._query.limit + 1, self._query.offset),
            )
        ]

    def _from_where(self) -> tuple[str, tuple[Any, ...]]:
        table = "instance" if self._level is Level.INSTANCE else schema.TABLES[self._level]
        joined = " JOIN header h ON h.id = t.header" if self._joins_header else ""
        where = " AND ".join(part.text for part in self._conditions) or "1"
        return f"FROM {table} t{joined} WHERE {where}", tuple(v for part in self._conditions for v in part.values)

    # Scope

    def _scope(self, scope: Scope) -> list[Sql]:
        wanted = {Level.STUDY: scope.study_uid, Level.SERIES: scope.series_uid, Level.INSTANCE: scope.instance_uid}
        named = {level: uid for level, uid in wanted.items() if uid is not None}
        if not named:
            return []
        if self._level is Level.INSTANCE or Level.INSTANCE in named:
            return [self._scope_of_instances(named)]
        chosen, values = _series_of(named)
        if self._level is Level.SERIES:
            return [Sql(chosen.format("t"), values, selective=True)]
        if self._level is Level.STUDY and list(named) == [Level.STUDY]:
            return [Sql("t.uid = ?", values, selective=True)]
        column = _FROM_SERIES[self._level].format(series="s")
        return [Sql(f"t.id IN (SELECT {column} FROM series s WHERE {chosen.format('s')})", values, selective=True)]

    def _scope_of_instances(self, named: dict[Level, str]) -> Sql:
        parts: list[str] = []
        values: list[str] = []
        above: dict[Level, str] = {level: uid for level, uid in named.items() if level is not Level.INSTANCE}
        if above:
            chosen, values_above = _series_of(above)
            parts.append(f"{{0}}.series IN (SELECT s.id FROM series s WHERE {chosen.format('s')})")
            values += values_above
        if Level.INSTANCE in named:
            parts.append("{0}.uid = ?")
            values.append(named[Level.INSTANCE])
        chosen_instances = " AND ".join(parts)
        if self._level is Level.INSTANCE:
            return Sql(chosen_instances.format("t"), tuple(values), selective=True)
        column = _FROM_SERIES[self._level].format(series="s")
        return Sql(
            f"t.id IN (SELECT {column} FROM instance i JOIN series s ON s.id = i.series "
            f"WHERE {chosen_instances.format('i')})",
            tuple(values),
            selective=True,
        )

    # Terms

    def _term(self, term: Term) -> Sql:
        head, single = term.path[0], len(term.path) == 1
        if head == LAST_CHANGED:
            if self._level is Level.INSTANCE:
                return self._absent(term)
            return any_of(patterns_on("t.changed_at", term.any_of))
        if single and head in _KEYS:
            return self._key(head, term)
        if single and (head in _NUMBERS or head in _STUDY_SETS or head == schema.TRANSFER_SYNTAXES):
            return self._computed(head, term)
        if level_of(head).depth > self._level.depth:
            return self._absent(term)
        if single and head in schema.COLUMN_OF:
            return self._column(schema.COLUMN_OF[head], term)
        if single and head == _SOP_CLASS:
            self._joins_header = True
            return any_of(patterns_on("h.sop_class", term.any_of))
        return self._by_function(term)

    def _condition(self, condition: Condition) -> Sql:
        match condition:
            case Term():
                return self._term(condition)
            case AllOf(parts):
                return all_of([self._condition(part) for part in parts])
            case AnyOf(parts):
                return any_of([self._condition(part) for part in parts])
            case Not(part):
                found = self._condition(part)
                return Sql(f"(({found.text}) IS NOT TRUE)", found.values)
            case Has(level, parts):
                return self._has(level, parts)

    def _has(self, level: Level, parts: tuple[Condition, ...]) -> Sql:
        """The rows of this level above those of a deeper one."""
        if level.depth <= self._level.depth:
            return NEVER
        terms = tuple(part for part in parts if isinstance(part, Term))
        others = tuple(part for part in parts if not isinstance(part, Term))
        below = Statement(self._connection, Query(level=level, terms=terms, conditions=others), inner=True)
        text, values = below._from_where()
        column = {Level.STUDY: "t.id", Level.SERIES: "t.study", Level.INSTANCE: "t.series"}[level]
        if level is Level.INSTANCE and self._level is not Level.SERIES:
            column = "(SELECT study FROM series WHERE id = t.series)"
        if self._level is Level.PATIENT:
            column = f"(SELECT patient FROM study WHERE id = {column})"
        return Sql(f"{'' if below._narrow else '+'}t.id IN (SELECT {column} {text})", values, selective=below._narrow)

    def _absent(self, term: Term) -> Sql:
        """What an entity of this level never shows."""
        return ALWAYS if any(isinstance(pattern, Empty) for pattern in term.any_of) else NEVER

    def _key(self, head: str, term: Term) -> Sql:
        """A UID of the entity or of what it belongs to."""
        level = _KEYS[head]
        if level.depth > self._level.depth:
            return self._absent(term)
        own = "t.uid" if level is self._level else "uid"
        condition = any_of(patterns_on(own, term.any_of))
        if level is self._level:
            return Sql(condition.text, condition.values, selective=True)
        chosen = f"SELECT id FROM {schema.TABLES[level]} WHERE {condition.text}"
        if level is Level.STUDY and self._level is Level.INSTANCE:
            chosen = f"SELECT id FROM series WHERE study IN ({chosen})"
        column = "t.study" if self._level is Level.SERIES else "t.series"
        return Sql(f"{column} IN ({chosen})", condition.values, selective=True)

    def _computed(self, head: str, term: Term) -> Sql:
        if head == schema.TRANSFER_SYNTAXES:
            return self._transfer_syntax(term)
        level = _NUMBERS[head][0] if head in _NUMBERS else Level.STUDY
        if level.depth > self._level.depth:
            return self._absent(term)
        if head in _NUMBERS:
            return self._above(level, any_of(patterns_on(_NUMBERS[head][1], term.any_of)))
        found = self._values(schema.TABLES[level], head, term.any_of)
        empty = [Sql(f"{_STUDY_SETS[head]} = '[]'")] if Empty() in term.any_of else []
        if level is self._level and not empty:
            return self._rows(found)
        return self._above(level, any_of([Sql(f"id IN ({found.text})", found.values), *empty]))

    def _above(self, level: Level, condition: Sql) -> Sql:
        """A condition on the row of the entity that this one is or belongs to."""
        if level is self._level:
            return condition
        chosen = f"SELECT id FROM {schema.TABLES[level]} WHERE {condition.text}"
        if level is Level.PATIENT and self._level is not Level.STUDY:
            chosen = f"SELECT id FROM study WHERE patient IN ({chosen})"
        if level is not Level.SERIES and self._level is Level.INSTANCE:
            chosen = f"SELECT id FROM series WHERE study IN ({chosen})"
        column = {Level.STUDY: "t.patient", Level.SERIES: "t.study", Level.INSTANCE: "t.series"}[self._level]
        return Sql(f"{column} IN ({chosen})", condition.values)

    def _transfer_syntax(self, term: Term) -> Sql:
        if self._level is Level.PATIENT:
            return self._absent(term)
        if self._level is Level.INSTANCE:
            self._joins_header = True
            return any_of(patterns_on("h.transfer_syntax", term.any_of))
        return self._rows(self._values(schema.TABLES[self._level], schema.TRANSFER_SYNTAXES, term.any_of))

    def _rows(self, found: Sql) -> Sql:
        """The ids of rows as a condition that leaves the order of the list to the list."""
        return Sql(f"+t.id IN ({found.text})", found.values)

    def _values(self, table: str, tag: str, patterns: Sequence[Pattern]) -> Sql:
        condition = any_of(patterns_on("value", patterns))
        return Sql(f"SELECT id FROM {table}_value WHERE tag = ? AND {condition.text}", (tag, *condition.values))

    def _column(self, column: schema.Column, term: Term) -> Sql:
        """An attribute with a column: any of the patterns on its first value or on the further ones."""
        table = schema.TABLES[self._level]
        row = "t"
        if self._level is Level.INSTANCE:
            row, self._joins_header = "h", True
        parts = []
        plain = [pattern for pattern in term.any_of if not isinstance(pattern, (Empty, Words))]
        # One that no index answers is looked for in the narrow index, and the others then at the same time.
        parts += self._column_parts(table, row, column, plain, scans=any(_scans(pattern) for pattern in plain))
        for pattern in term.any_of:
            if isinstance(pattern, Words) and column.words:
                parts.append(self._scan(table, row, words_in(column.words, pattern)))
        if Empty() in term.any_of:
            function = self._function(term, f"{row}.attributes")
            parts.append(Sql(f"({row}.{column.name} IS NULL AND {function.text})", function.values))
        return any_of(parts)

    def _column_parts(
        self, table: str, row: str, column: schema.Column, patterns: Sequence[Pattern], *, scans: bool
    ) -> list[Sql]:
        if not patterns:
            return []
        conditions = patterns_on("{0}" + column.name, patterns)
        parts = [on_row(condition, row) for condition in conditions]
        if scans:
            parts = [self._scan(table, row, any_of(conditions))]
        further = self._connection.execute(
            f"SELECT 1 FROM {table}_value WHERE tag = ? LIMIT 1",
            (column.tag,),
        ).fetchone()
        if further:
            found = self._values(table, column.tag, patterns)
            # Held back from the planner where it would sort many rows that come from the list's own index in order.
            hold = scans or any(isinstance(pattern, Range) for pattern in patterns)
            parts.append(Sql(f"{'+' if hold else ''}{row}.id IN ({found.text})", found.values, selective=not hold))
        return parts

    def _scan(self, table: str, row: str, condition: Sql) -> Sql:
        if self._narrow:
            return on_row(condition, row)
        hold = "" if row == "h" else "+"  # few headers have many instances: those lead
        return Sql(f"{hold}{row}.id IN (SELECT id FROM {table} WHERE {condition.text.format('')})", condition.values)

    def _by_function(self, term: Term) -> Sql:
        head = term.path[0]
        if self._level is not Level.INSTANCE:
            return self._function(term, "t.attributes")
        if level_of(head) is Level.INSTANCE:
            if head in SUMMARY:
                return self._function(term, "t.summary")
            return self._function(term, "(SELECT metadata FROM content WHERE id = t.id)", name="dicom_match_metadata")
        function = self._function(term, "attributes")
        scope = self._query.scope
        if scope.study_uid is None:
            return Sql(f"t.header IN (SELECT id FROM header WHERE {function.text})", function.values)
        chosen = "study = (SELECT id FROM study WHERE uid = ?)"
        return Sql(
            f"t.header IN (SELECT id FROM header WHERE {chosen} AND {function.text})",
            (scope.study_uid, *function.values),
        )

    def _function(self, term: Term, data: str, name: str = "dicom_match") -> Sql:
        self._connection.matching.append(term)
        return Sql(f"{name}(?, {data})", (len(self._connection.matching) - 1,))

    # Order

    def _ordered(self, order: Order) -> list[str]:
        text = self._order_key(order.tag)
        # SQLite sorts NULL before all values, so that it is last by itself when descending.
        return [f"{text} DESC" if order.descending else f"{text} ASC NULLS LAST"] if text else []

    def _order_key(self, tag: str) -> str:
        if tag in _KEYS:
            return self._order_uid(_KEYS[tag])
        if tag == LAST_CHANGED:
            return "" if self._level is Level.INSTANCE else "t.changed_at"
        if tag in _NUMBERS:
            level, name = _NUMBERS[tag]
            return f"t.{name}" if level is self._level else ""
        if tag in _STUDY_SETS or tag == schema.TRANSFER_SYNTAXES:
            name = _STUDY_SETS.get(tag, "transfer_syntaxes")
            return f"json_extract(t.{name}, '$[0]')" if self._level in (Level.STUDY, Level.SERIES) else ""
        level = level_of(tag)
        if level.depth > self._level.depth:
            return ""
        if self._level is not Level.INSTANCE:
            return f"t.{schema.COLUMN_OF[tag].name}" if tag in schema.COLUMN_OF else self._sorted("t.attributes", tag)
        return self._order_instances(tag, level)

    def _order_uid(self, level: Level) -> str:
        if level is self._level:
            return "t.uid"
        if level.depth > self._level.depth:
            return ""
        if self._level is Level.INSTANCE:
            self._joins_header = True
            return "h.study_uid" if level is Level.STUDY else "h.series_uid"
        return "(SELECT uid FROM study WHERE id = t.study)"

    def _order_instances(self, tag: str, level: Level) -> str:
        if tag == _POSITION:
            return "nullif(t.position, 9e999)" if self._descends(tag) else "t.position"
        if level is Level.INSTANCE and tag != _SOP_CLASS:
            if tag in SUMMARY:
                return self._sorted("t.summary", tag)
            return self._sorted("(SELECT metadata FROM content WHERE id = t.id)", tag, name="dicom_sort_metadata")
        self._joins_header = True
        if tag == _SOP_CLASS:
            return "h.sop_class"
        return f"h.{schema.COLUMN_OF[tag].name}" if tag in schema.COLUMN_OF else self._sorted("h.attributes", tag)

    def _descends(self, tag: str) -> bool:
        return any(order.tag == tag and order.descending for order in self._query.order)

    def _sorted(self, data: str, tag: str, name: str = "dicom_sort") -> str:
        self._connection.sorting.append(tag)
        return f"{name}({len(self._connection.sorting) - 1}, {data})"


def _series_of(named: dict[Level, str]) -> tuple[str, tuple[str, ...]]:
    """The condition on a series row, to be formatted with its alias."""
    parts = {Level.STUDY: "{0}.study = (SELECT id FROM study WHERE uid = ?)", Level.SERIES: "{0}.uid = ?"}
    return " AND ".join(parts[level] for level in named), tuple(named.values())


def _answered_by_index(term: Term) -> bool:
    return len(term.path) == 1 and not any(_scans(pattern) for pattern in term.any_of)


def _scans(pattern: Pattern) -> bool:
    """Whether no index on values leads to what matches."""
    return isinstance(pattern, (Words, Empty)) or (isinstance(pattern, Wildcard) and pattern.pattern[0] in "*?")
