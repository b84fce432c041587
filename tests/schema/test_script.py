from __future__ import annotations

from chimpbase._schema.script import split


def _texts(script: str) -> list[str]:
    return [statement.text for statement in split(script)]


def test_statements_are_cut_at_semicolons() -> None:
    assert _texts("select 1; select 2 ;\nselect 3") == ["select 1", "select 2", "select 3"]


def test_a_script_without_code_has_no_statements() -> None:
    assert _texts("") == []
    assert _texts(" -- only words;\n/* and /* more */ ; */ ;;\n") == []


def test_semicolons_inside_quotes_do_not_cut() -> None:
    quoted = [
        "select ';', 'it''s;'",
        r"select E'\';'",
        'select "a;""b;"',
        "select $$;$$",
        "do $body$ begin perform ';'; perform $$;$$; end $body$",
        "select 1 /* ; /* ; */ ; */ + 1",
        "select 1 -- ;\n + 1",
    ]
    assert _texts(";\n".join(quoted)) == quoted


def test_a_dollar_that_quotes_nothing_cuts_as_usual() -> None:
    assert _texts("prepare p as select $1; select a$b$c; select 1") == [
        "prepare p as select $1",
        "select a$b$c",
        "select 1",
    ]


def test_an_sql_standard_body_stays_whole() -> None:
    function = (
        "create function f(a int) returns int begin atomic\n"
        "  insert into t values (a);\n  select case when a = 1 then 2 else 3 end;\nend"
    )
    assert _texts(f"{function}; select 1") == [function, "select 1"]


def test_a_rule_of_two_commands_stays_whole() -> None:
    rule = "create rule r as on insert to t do also (insert into a values (1); insert into b values (2))"
    assert _texts(f"{rule};\nselect 1;") == [rule, "select 1"]


def test_a_statement_knows_its_line_and_verb() -> None:
    statements = split("-- one\n\nselect 1; -- two\n\nINSERT INTO t\nVALUES (1);\n(select 2)")
    assert [(statement.line, statement.verb) for statement in statements] == [(3, "select"), (5, "insert"), (7, "(")]
