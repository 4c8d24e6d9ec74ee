"""sql-write with PostgreSQL: what stands in a real server afterwards, directly and behind PgBouncer in transaction mode."""
import json
import os
import pathlib
import random
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import certificate, run, tool, wait_for  # noqa: E402
from pg_server import Bouncer, Postgres  # noqa: E402
from sink_input import Channel, deletion, event, ndjson, positions  # noqa: E402


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.pg = cls.enterClassContext(Postgres())
        cls.server = cls.pg

    def setUp(self):
        self.pg.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public; ALTER DATABASE postgres RESET ALL")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.environment = dict(self.server.environment)

    def run_write(self, records, *options, url=None, env=None, **more):
        return run([tool("sql-write"), url or self.server.url, *options], stdin=ndjson(records), env={**self.environment, **(env or {})}, **more)

    def write(self, records, *options, exit=0, stderr="", **more):
        result = self.run_write(records, *options, **more)
        self.assertEqual(result.exit, exit, result.stderr)
        if stderr == "":
            self.assertEqual(result.stderr, "")
        else:
            self.assertIn(stderr, result.stderr)
        self.assertEqual(result.stdout, "")
        return result

    def popen(self, *options, channel=None, env=None, stdin=subprocess.PIPE):
        more = {"pass_fds": channel.options["pass_fds"]} if channel else {}
        variables = {**self.environment, **({"RECEIPTS_FD": channel.environment["RECEIPTS_FD"]} if channel else {}), **(env or {})}
        process = subprocess.Popen([tool("sql-write"), self.server.url, *options], stdin=stdin, stderr=subprocess.PIPE, text=True,
                                   env=variables, **more)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        for file in (process.stdin, process.stdout, process.stderr):
            if file is not None and not file.closed:
                try:
                    file.close()
                except BrokenPipeError:
                    pass
        process.kill()
        process.wait()

    def session(self):
        session = self.pg.session()
        self.addCleanup(self.end, session)
        return session

    def sql(self, text):
        return self.pg.sql(text)

    def waiters(self):
        """How many statements of clients wait for a lock."""
        return int(self.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type='Lock'")[0][0])


class Both:
    """What holds directly and behind PgBouncer."""
    SHARED = ("--column", "k=/k", "--column", "v=/v", "--max-in-flight", "4")

    # ---- tables

    def test_create_makes_the_table_from_the_records_and_the_same_line_again_changes_nothing(self):
        records = [event(n, {"bsu": {"power": 12 + n / 2, "n": n, "on": True, "text": "x"}}) for n in range(50)]
        self.write(records, "--create")
        self.assertEqual(dict(self.sql("SELECT column_name,data_type FROM information_schema.columns WHERE table_name='record'")),
                         {"source": "text", "id": "text", "subject": "text", "time": "timestamp with time zone",
                          "recordedtime": "timestamp with time zone", "power": "numeric", "n": "numeric", "on": "boolean", "text": "text"})
        before = self.sql("SELECT * FROM record ORDER BY id")
        self.write(records)
        self.assertEqual(self.sql("SELECT * FROM record ORDER BY id"), before)
        self.assertEqual(len(before), 50)
        self.write([event(50, {"later": [1, 2]})])  # the table is ours: it grows
        self.assertEqual(self.sql("SELECT later_0,later_1 FROM record WHERE id='50'"), [["1", "2"]])

    def test_declared_types_are_those_of_the_columns_that_are_made(self):
        self.write([event(1, {"i": 1, "f": 1, "b": 1, "j": {"a": [1]}, "t": "2018-07-01T00:00:00Z", "o": {"x": 1}})], "--create", "--key", "k",
                   "--column", "k=subject", "--column", "i=/i:int", "--column", "f=/f:float", "--column", "b=/b:bool", "--column", "j=/j:json",
                   "--column", "t=/t:time", "--column", "o=/o", "--column", "time=time")
        self.assertEqual(dict(self.sql("SELECT column_name,data_type FROM information_schema.columns WHERE table_name='record'")),
                         {"k": "text", "i": "bigint", "f": "double precision", "b": "boolean", "j": "jsonb", "t": "timestamp with time zone", "o": "jsonb",
                          "time": "timestamp with time zone"})
        self.assertEqual(self.sql("SELECT i,f,b,j,o FROM record"), [["1", "1", "t", '{"a": [1]}', '{"x": 1}']])

    def test_a_missing_table_is_the_operators(self):
        letters = self.folder / "letters"
        self.write([event(1, {"a": 1})], "--dead-letters", str(letters), exit=2, stderr="no such table: record (--create makes it)")
        self.assertFalse(letters.exists() and letters.read_text())

    def test_a_table_of_another_schema_is_named_with_a_dot(self):
        self.sql('DROP SCHEMA IF EXISTS "My fleet" CASCADE; CREATE SCHEMA "My fleet"; CREATE TABLE "My fleet".t(k int PRIMARY KEY)')
        self.addCleanup(self.sql, 'DROP SCHEMA "My fleet" CASCADE')
        self.write([{"k": 1}], "--table", "My fleet.t")
        self.write([{"k": 1}], "--table", "My fleet.u", "--key", "k", "--create")
        self.assertEqual(self.sql('SELECT * FROM "My fleet".t, "My fleet".u'), [["1", "1"]])

    def test_identifiers_are_quoted(self):
        name = 'a "b"; DROP TABLE x; --\\'
        self.write([{name: 1, "select": 2, "Power": 3}], "--table", 'or "der', "--key", "select", "--create")
        self.write([{name: 5, "select": 2, "Power": 6}], "--table", 'or "der', "--key", "select")
        self.assertIn([name], self.sql("SELECT column_name FROM information_schema.columns"))
        self.assertEqual(self.sql('SELECT "select","Power" FROM "or ""der"'), [["2", "6"]])

    def test_two_columns_that_differ_in_case_only_are_two(self):
        self.sql('CREATE TABLE record(k int PRIMARY KEY, "Power" int, power int)')
        self.write([{"k": 1, "Power": 2, "power": 3}])
        self.write([{"k": 2, "Power": 2, "power": 3}], "--column", "k=/k", "--column", "power=/power")
        self.assertEqual(self.sql("SELECT * FROM record ORDER BY k"), [["1", "2", "3"], ["2", None, "3"]])

    def test_a_table_and_its_children_in_one_stream_whatever_their_names(self):
        self.sql("CREATE TABLE z(id text PRIMARY KEY); CREATE TABLE a(id text REFERENCES z, line int, PRIMARY KEY(id,line))")
        self.write([{"kind": "z", "id": f"o{n}"} if line == 0 else {"kind": "a", "id": f"o{n}", "line": line} for n in range(50) for line in range(3)]
                   + [{"kind": "a", "id": "none", "line": 1}], "--table", "{kind}", exit=1, stderr="line 151: insert or update on table")
        self.assertEqual(self.sql("SELECT (SELECT count(*) FROM z), (SELECT count(*) FROM a)"), [["50", "100"]])
        self.assertEqual(self.write([event(n, subject=f"o{n}", type="a.deleted") for n in range(2)], "--table", "z", "--key", "id", "--column", "id=subject",
                                    exit=1, stderr="violates foreign key").stderr.count("\n"), 2)

    # ---- conflicts

    def test_of_one_batch_the_last_version_of_a_key_wins(self):
        chance = random.Random(1)
        for kind, keys in (("text", ["a", "b", "c"]), ("numeric", ["1", "1.0", "2"]), ("timestamptz", ["2018-07-01T00:00:00Z", "2018-07-01T02:00:00+02:00"])):
            with self.subTest(kind=kind):
                self.sql(f"DROP TABLE IF EXISTS record; CREATE TABLE record(k {kind} PRIMARY KEY, v int)")
                records = [{"k": chance.choice(keys), "v": n} for n in range(500)]
                self.write(records)
                last = {}
                for r in records:
                    last["same" if kind == "timestamptz" else r["k"].removesuffix(".0")] = str(r["v"])
                self.assertEqual(sorted(v for v, in self.sql("SELECT v FROM record")), sorted(last.values()))

    def test_update_ignore_and_newer(self):
        self.sql("CREATE TABLE record(k text PRIMARY KEY, t timestamptz, v int)")
        records = [{"k": "x", "t": f"2018-07-01T00:00:0{t}Z", "v": v} for v, t in enumerate([3, 5, 5, 4])]
        self.write(records, "--on-conflict", "ignore")
        self.assertEqual(self.sql("SELECT v FROM record"), [["0"]])
        self.write(records[1:], "--on-conflict", "ignore")
        self.assertEqual(self.sql("SELECT v FROM record"), [["0"]])
        self.write(records)
        self.assertEqual(self.sql("SELECT v FROM record"), [["3"]])
        self.write(records, "--on-conflict", "newer:t")
        self.assertEqual(self.sql("SELECT v FROM record"), [["2"]])  # of equal ones the later
        self.write([{"k": "x", "t": "2018-07-01T00:00:04.999999Z", "v": 9}], "--on-conflict", "newer:t")
        self.assertEqual(self.sql("SELECT v FROM record"), [["2"]])

    def test_versions_that_are_text_compare_as_what_they_are(self):
        self.sql("CREATE TABLE record(k text PRIMARY KEY, t text, v int)")
        for lists in (["2018-07-01T00:00:00.1Z", "2018-07-01T02:00:00.100000001+02:00", "2018-07-01T00:00:00.2Z"], ["9", "10", "1e3"],
                      ["a", "b", "ba"], ["2018-07-01T00:00:00Z", "2018-07-01T00:00:00.000000001Z"]):
            for order in (lists, lists[::-1]):
                for batch in ("1", "100"):
                    with self.subTest(order=order, batch=batch):
                        self.sql("TRUNCATE record")
                        self.write([{"k": "x", "t": t, "v": lists.index(t)} for t in order], "--on-conflict", "newer:t", "--batch-records", batch)
                        self.assertEqual(self.sql("SELECT v FROM record"), [[str(len(lists) - 1)]])

    def test_a_row_that_does_not_name_a_column_keeps_it_in_a_table_of_others_and_resets_it_with_column(self):
        self.sql("CREATE TABLE record(k text PRIMARY KEY, a int DEFAULT 7, b int)")
        self.write([{"k": "x", "a": 1}, {"k": "x", "b": 2}, {"k": "y", "b": 1}, {"k": "x", "a": 3}, {"k": "z", "a": None}])
        self.assertEqual(self.sql("SELECT * FROM record ORDER BY k"), [["x", "3", "2"], ["y", "7", "1"], ["z", None, None]])
        self.write([{"k": "x"}, {"k": "z", "a": None, "b": 5}, {"k": "y", "a": 1}], "--column", "k=/k", "--column", "a=/a", "--column", "b=/b")
        self.assertEqual(self.sql("SELECT * FROM record ORDER BY k"), [["x", "7", None], ["y", "1", None], ["z", None, "5"]])

    def test_any_mix_of_shapes_and_deletions_ends_as_one_by_one(self):
        seed = int(os.environ.get("SEED", random.randrange(1 << 32)))
        chance = random.Random(seed)
        for key in ("text", "numeric"):
            records = []
            for n in range(400):
                subject = str(chance.randrange(20))
                data = {name: n for name in "abc" if chance.random() < 0.5}
                records.append(deletion(subject) if chance.random() < 0.2 else event(n, data or {"a": n}, subject=subject))
            ends = []
            for batch in ("1", "1000"):
                self.sql(f"DROP TABLE IF EXISTS record; CREATE TABLE record(subject {key} PRIMARY KEY, a int, b int DEFAULT 7, c int)")
                self.write(records, "--batch-records", batch, "--key", "subject")
                ends.append(self.sql("SELECT * FROM record ORDER BY subject"))
            self.assertEqual(ends[0], ends[1], f"SEED={seed}")
            self.assertGreater(len(ends[0]), 5)

    def test_deletions_go_by_key_and_an_older_one_does_not_remove_a_newer_row(self):
        options = ("--key", "subject", "--on-conflict", "newer:time", "--create")
        self.write([event(1, {"a": 1}), event(2, {"a": 1}), deletion("bsu-00001", time="2018-06-01T00:00:00Z"), deletion("bsu-00002", time="2018-08-01T00:00:00Z")],
                   *options)
        self.assertEqual(self.sql("SELECT subject FROM record"), [["bsu-00001"]])

    def test_without_a_key_rows_are_appended_and_that_is_told(self):
        self.sql("CREATE TABLE record(id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int)")
        self.write([{"a": 1}, {"a": 1}], stderr="a record written twice stands twice")
        self.assertEqual(self.sql("SELECT * FROM record"), [["1", "1"], ["2", "1"]])

    # ---- values

    def test_values_keep_every_digit(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY, i bigint, n numeric, t timestamptz, u timestamp, j jsonb, ia bigint[], ta text[][], b bool, x text, ja jsonb[],"
                 " za timestamptz[])")
        self.write(['{"k":1,"i":9223372036854775807,"n":123456789012345678901234567890.0987654321,"t":"2018-07-01T02:00:00.123456+02:00",'
                    '"u":"2018-07-01T02:00:00.123456+02:00","j":{"a":[1.50,"\\u00e9",null]},"ia":[1,null,-9223372036854775808],'
                    '"ta":[["a\\"b","c\\\\d"],["NULL","{,}\\n"]],"b":false,"x":"tab\\tnewline\\n\\\\N","ja":[{"a":"\\"}"},[1,2],"s",null],"za":["2018-07-01T00:00:00.5Z"]}',
                    '{"k":2,"i":"-9223372036854775808","n":1e2,"ia":[],"x":"\\\\."}', '{"k":3,"i":null,"x":"\\\\N"}'], "--column", "k=/k",
                   *(word for c in "i n t u j ia ta b x ja za".split() for word in ("--column", f"{c}=/{c}")))
        self.assertEqual(self.sql("SELECT i,n,t AT TIME ZONE 'UTC',u,j,ia,b,x FROM record ORDER BY k"), [
            ["9223372036854775807", "123456789012345678901234567890.0987654321", "2018-07-01 00:00:00.123456", "2018-07-01 00:00:00.123456",
             '{"a": [1.50, "é", null]}', "{1,NULL,-9223372036854775808}", "f", "tab\tnewline\n\\N"],
            ["-9223372036854775808", "100", None, None, None, "{}", None, "\\."], [None, None, None, None, None, None, None, "\\N"]])
        self.assertEqual(self.sql("SELECT ta[1][1],ta[1][2],ta[2][1],ta[2][2],ja[1]->>'a',ja[2]->1,ja[3],ja[4],za[1] AT TIME ZONE 'UTC' FROM record WHERE k=1"),
                         [['a"b', "c\\d", "NULL", "{,}\n", '"}', "2", '"s"', None, "2018-07-01 00:00:00.5"]])

    def test_a_time_without_a_zone_is_utc_whatever_the_server_thinks(self):
        self.sql("ALTER DATABASE postgres SET timezone TO 'America/New_York'; CREATE TABLE record(k int PRIMARY KEY, t timestamptz)")
        self.write([{"k": 1, "t": "2018-07-01T00:00:00"}])
        self.assertEqual(self.sql("SELECT t AT TIME ZONE 'UTC' FROM record"), [["2018-07-01 00:00:00"]])

    def test_a_finer_time_is_rejected_unless_it_is_to_be_rounded(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY, t timestamptz, s timestamptz(0), a timestamptz[])")
        fine = ['{"k":1,"t":"2018-07-01T00:00:00.1234567Z"}', '{"k":2,"s":"2018-07-01T00:00:00.5Z"}', '{"k":3,"t":"2018-07-01T00:00:00.123456000Z"}',
                '{"k":4,"a":["2018-07-01T00:00:00.1234561Z"]}']
        result = self.write(fine, "--column", "k=/k", "--column", "t=/t", "--column", "s=/s", "--column", "a=/a", exit=1,
                            stderr="line 1: t: 2018-07-01T00:00:00.1234567Z has more than 6 digits")
        self.assertEqual(result.stderr.count("--round-time"), 3)
        self.assertEqual(self.sql("SELECT k FROM record"), [["3"]])
        self.write(fine, "--round-time", "--column", "k=/k", "--column", "t=/t", "--column", "s=/s", "--column", "a=/a")
        self.assertEqual(self.sql("SELECT t AT TIME ZONE 'UTC' FROM record WHERE k=1"), [["2018-07-01 00:00:00.123457"]])

    def test_a_whole_number_that_a_float_would_change_is_rejected(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY, f float8, i int8)")
        result = self.write(['{"k":1,"f":9007199254740993}', '{"k":2,"f":9007199254740992}', '{"k":3,"i":9223372036854775808}', '{"k":4,"i":1.5}'], exit=1,
                            stderr="line 1: f: 9007199254740993 loses digits")
        self.assertIn('line 3: i: value "9223372036854775808" is out of range for type bigint', result.stderr)
        self.assertIn('line 4: i: invalid input syntax for type bigint: "1.5"', result.stderr)
        self.assertEqual(self.sql("SELECT k FROM record"), [["2"]])

    def test_nul_follows_the_policy_in_texts_documents_and_arrays(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY, t text, j jsonb, a text[])")
        options = ("--column", "k=/k", "--column", "t=/t", "--column", "j=/j", "--column", "a=/a")
        records = ['{"k":1,"t":"a\\u0000b"}', '{"k":2,"j":{"x":"a\\u0000b\\\\u0000"}}', '{"k":3,"a":["a\\u0000b"]}', '{"k":4,"j":{"x":"\\\\u0000"}}']
        result = self.write(records, *options, exit=1, stderr="line 1: t: \\u0000")
        self.assertEqual(result.stderr.count("--nul remove"), 3)
        self.assertEqual(self.sql("SELECT k,j->>'x' FROM record"), [["4", "\\u0000"]])
        self.write(records, *options, "--nul", "remove")
        self.assertEqual(self.sql("SELECT coalesce(t,j->>'x',a[1]) FROM record ORDER BY k"), [["ab"], ["ab\\u0000"], ["ab"], ["\\u0000"]])

    # ---- bad rows

    def test_bad_rows_are_dead_lettered_with_the_servers_words_and_all_others_are_stored(self):
        self.sql("CREATE TABLE parent(id int PRIMARY KEY); INSERT INTO parent VALUES(1);"
                 "CREATE TABLE record(k int PRIMARY KEY, power float8 NOT NULL CHECK(power >= 0), u text UNIQUE, p int REFERENCES parent, j jsonb)")
        records = [{"k": n, "power": 1} for n in range(1, 1001)]
        records[99]["power"] = None
        records[199]["power"] = -1
        records[299]["power"] = "much"
        records[399]["k"] = "x"
        records[498]["u"] = records[499]["u"] = "same"
        records[599]["p"] = 2
        records[699]["k"] = 1 << 40
        letters = self.folder / "letters"
        self.write(records, "--dead-letters", str(letters), exit=1)
        reasons = {letter["line"]: letter["reason"] for letter in map(json.loads, letters.read_text().splitlines())}
        for line, reason in {100: 'null value in column "power" of relation "record" violates not-null constraint',
                             200: 'new row for relation "record" violates check constraint "record_power_check"',
                             300: 'power: invalid input syntax for type double precision: "much"', 400: 'k: invalid input syntax for type integer: "x"',
                             500: 'duplicate key value violates unique constraint "record_u_key"', 600: 'violates foreign key constraint "record_p_fkey"',
                             700: 'k: value "1099511627776" is out of range for type integer'}.items():
            self.assertIn(reason, reasons.pop(line))
        self.assertEqual(reasons, {})
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [["993"]])

    def test_with_every_second_row_bad_the_others_are_stored(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY, v int)")
        letters = self.folder / "letters"
        self.write([{"k": n, "v": n if n % 2 else "x"} for n in range(2000)], "--dead-letters", str(letters), exit=1)
        self.assertEqual(self.sql("SELECT count(*),sum(k) FROM record"), [["1000", "1000000"]])
        self.assertEqual(len(letters.read_text().splitlines()), 1000)

    def test_what_a_trigger_says_costs_only_its_row_and_what_it_mends_is_stored(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY, v int NOT NULL);"
                 "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF new.k = 50 THEN RAISE 'no fifty'; END IF;"
                 " new.v := coalesce(new.v, 1); RETURN new; END $$; CREATE TRIGGER t BEFORE INSERT ON record FOR EACH ROW EXECUTE FUNCTION f()")
        self.write([{"k": n, "v": None} for n in range(1, 101)], exit=1, stderr="line 50: no fifty")
        self.assertEqual(self.sql("SELECT count(*) FROM record WHERE v=1"), [["99"]])

    def test_a_deferred_constraint_that_fails_at_the_commit_costs_only_its_row(self):
        self.sql("CREATE TABLE parent(id int PRIMARY KEY); INSERT INTO parent VALUES(1);"
                 "CREATE TABLE record(k int PRIMARY KEY, p int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
        self.write([{"k": n, "p": 2 if n == 30 else 1} for n in range(1, 101)], exit=1, stderr='line 30: insert or update on table "record" violates')
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [["99"]])

    # ---- what is not the record's fault

    def test_what_is_the_operators_ends_with_2_and_dead_letters_nothing(self):
        self.sql("CREATE TABLE record(a int, b int); DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN PASSWORD 'pw-of-pipe'; GRANT SELECT ON record TO reader")
        for options, message in [(("--column", "c=/x"), "no column c"), (("--key", "c"), "no such column"),
                                 (("--key", "a"), "no unique or exclusion constraint"), (("--on-conflict", "newer:c"), "no such column")]:
            with self.subTest(options=options):
                letters = self.folder / "letters"
                self.write([{"a": 1, "b": 2}], *options, "--dead-letters", str(letters), exit=2, stderr=message)
                self.assertFalse(letters.exists() and letters.read_text())
        self.assertEqual(self.sql("SELECT * FROM record"), [])

    def test_a_missing_permission_is_waited_for_once_records_were_accepted(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY)")
        process = self.popen("--batch-records", "1")
        process.stdin.write('{"k":1}\n')
        process.stdin.flush()
        wait_for(lambda: self.sql("SELECT count(*) FROM record") == [["1"]], what="the first row")
        self.sql("ALTER TABLE record RENAME TO away")
        process.stdin.write('{"k":2}\n')
        process.stdin.flush()
        self.assertIn("waiting: ", line := process.stderr.readline())
        self.assertIn("record", line)
        self.sql("ALTER TABLE away RENAME TO record")
        process.stdin.close()
        self.assertEqual(process.wait(60), 0)
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [["2"]])

    def test_a_rule_that_is_changed_while_it_runs_holds_from_then_on(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY, v int CHECK(v < 10))")
        process = self.popen("--batch-records", "1")
        process.stdin.write('{"k":1,"v":1}\n')
        process.stdin.flush()
        wait_for(lambda: self.sql("SELECT count(*) FROM record") == [["1"]], what="the first row")
        self.sql("ALTER TABLE record DROP CONSTRAINT record_v_check")
        process.stdin.write('{"k":2,"v":11}\n')
        process.stdin.close()
        self.assertEqual(process.wait(60), 0)
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [["2"]])

    def test_a_deadlock_is_tried_again(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY, v int); INSERT INTO record VALUES(1,0),(2,0)")
        other = self.session()
        other.stdin.write("SET deadlock_timeout TO '1h'; BEGIN; UPDATE record SET v=1 WHERE k=2; SELECT 'ready';\n")
        self.assertEqual(other.stdout.readline(), "ready\n")
        process = self.popen()
        process.stdin.write('{"k":1,"v":5}\n{"k":2,"v":5}\n')
        process.stdin.close()
        wait_for(lambda: self.waiters() == 1, what="sql-write to wait for the row")
        other.stdin.write("UPDATE record SET v=1 WHERE k=1; COMMIT;\n")  # sql-write is the one that is chosen
        self.assertIn("deadlock detected", process.stderr.readline())
        self.assertEqual(process.wait(60), 0)
        self.assertEqual(self.sql("SELECT v FROM record"), [["5"], ["5"]])

    def test_a_serialisation_failure_is_tried_again(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY, v int); INSERT INTO record VALUES(1,0); ALTER DATABASE postgres SET default_transaction_isolation TO 'serializable'")
        if self.server is not self.pg:
            self.server.stop()
            self.server.start()
        other = self.session()
        other.stdin.write("BEGIN; UPDATE record SET v=1 WHERE k=1; SELECT 'ready';\n")
        self.assertEqual(other.stdout.readline(), "ready\n")
        process = self.popen()
        process.stdin.write('{"k":1,"v":5}\n')
        process.stdin.close()
        wait_for(lambda: self.waiters() == 1, what="sql-write to wait for the row")
        other.stdin.write("COMMIT;\n")
        self.assertIn("could not serialize access", process.stderr.readline())
        self.assertEqual(process.wait(60), 0)
        self.assertEqual(self.sql("SELECT v FROM record"), [["5"]])

    def test_a_restart_in_the_middle_loses_nothing(self):
        for connections in "1", "4":
            with self.subTest(connections=connections):
                self.sql("DROP TABLE IF EXISTS record; CREATE TABLE record(k int PRIMARY KEY, v int)")
                channel = Channel()
                process = self.popen("--batch-records", "100", *self.SHARED[:-1], connections, channel=channel)
                process.stdin.write(ndjson({"delivery": f"k7:{n}", "k": n} for n in range(1000)))
                process.stdin.flush()
                wait_for(lambda: int(self.sql("SELECT count(*) FROM record")[0][0]) >= 500, what="rows")
                self.pg.kill()
                self.pg.start()
                process.stdin.write(ndjson({"delivery": f"k7:{n}", "k": n} for n in range(1000, 2000)))
                process.stdin.close()
                self.assertEqual(process.wait(60), 0, process.stderr.read())
                receipts = channel.receipts()
                self.assertEqual((positions(receipts, "stored", "last"), positions(receipts, "rejected")), (set(range(2000)), set()))
                self.assertEqual(self.sql("SELECT count(*) FROM record"), [["2000"]])

    def test_a_read_only_server_is_waited_for(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY); ALTER DATABASE postgres SET default_transaction_read_only TO on")
        if self.server is not self.pg:
            self.server.stop()
            self.server.start()
        process = self.popen()
        process.stdin.write('{"k":1}\n')
        process.stdin.close()
        self.assertIn("read-only transaction", process.stderr.readline())
        self.sql("ALTER DATABASE postgres RESET ALL")
        if self.server is self.pg:
            self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name='sql-write'")
        else:
            self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type='client backend' AND pid<>pg_backend_pid()")
        self.assertEqual(process.wait(60), 0)
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [["1"]])

    def test_two_writers_at_once_lose_nothing_and_do_not_deadlock(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY, w int)")
        chance = random.Random(3)
        texts = []
        for w in range(2):
            keys = list(range(2000)) * 2
            chance.shuffle(keys)
            texts.append(ndjson({"k": k, "w": w} for k in keys))
        processes = [self.popen("--batch-records", "200") for _ in texts]
        threads = [threading.Thread(target=p.communicate, args=(text,)) for p, text in zip(processes, texts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([p.returncode for p in processes], [0, 0])
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [["2000"]])

    def test_a_transaction_that_a_killed_run_has_left_is_not_carried_out_after_its_successors(self):
        """It waits for a row in the server when its client is killed; what comes later is newer, and must stay."""
        for connections in (1, 1), (4, 1), (1, 4), (4, 2), (2, 4):
            with self.subTest(connections=connections):
                self.sql("DROP TABLE IF EXISTS record; CREATE TABLE record(k int PRIMARY KEY, v int); INSERT INTO record SELECT n,0 FROM generate_series(1,200) n")
                other = self.session()
                other.stdin.write("BEGIN; UPDATE record SET v=1 WHERE k=1; SELECT 'ready';\n")
                self.assertEqual(other.stdout.readline(), "ready\n")
                runs = []
                for run_of, count in zip((1, 2), connections):
                    process = self.popen(*self.SHARED[:-1], str(count), channel=Channel(), env={"RECEIPTS_SOURCE": "here"})
                    process.stdin.write(ndjson({"delivery": f"k7:{200 * run_of + n}", "k": n, "v": run_of} for n in range(run_of, 201)))
                    process.stdin.close()
                    runs.append(process)
                    if run_of == 1:
                        wait_for(lambda: self.waiters() == 1, what="the first to wait for the row")
                        process.kill()
                        process.wait()
                # Behind PgBouncer the first transaction may have been ended together with its client.
                wait_for(lambda: self.waiters() == 2 or runs[1].poll() is not None, what="the second to wait for the first")
                other.stdin.write("COMMIT;\n")
                self.assertEqual(runs[1].wait(60), 0)
                wait_for(lambda: self.sql("SELECT count(*) FROM pg_locks WHERE locktype='advisory'") == [["0"]], what="the first to be over")
                self.assertEqual(self.sql("SELECT DISTINCT v FROM record WHERE k>1"), [["2"]])

    def test_a_table_in_partitions_by_time_is_written_as_one_while_partitions_come(self):
        """What a hypertable of TimescaleDB asks for as well: each unique key includes the time."""
        self.sql("CREATE TABLE reading(subject text, time timestamptz, n int, PRIMARY KEY(subject,time)) PARTITION BY RANGE(time);"
                 "CREATE TABLE day1 PARTITION OF reading FOR VALUES FROM ('2018-07-01Z') TO ('2018-07-02Z')")

        def reading(n, day=1, subject=None):
            return {"subject": subject or f"s{n % 7}", "time": f"2018-07-{day:02}T00:00:{n % 60:02}.000001Z", "n": n}
        options = ("--table", "reading", "--column", "subject=subject", "--column", "time=/time:time", "--column", "n=/n")
        for conflict in (), ("--on-conflict", "newer:n"), ("--key", "subject,time", "--on-conflict", "update"):
            self.write([reading(n) for n in range(420)] * 2, *options, *conflict)
            self.assertEqual(self.sql("SELECT count(*),min(n) FROM reading"), [["420", "0"]], conflict)
        channel = Channel()
        process = self.popen(*options, "--batch-records", "50", channel=channel)
        for day in range(1, 6):
            self.sql("" if day == 1 else f"CREATE TABLE day{day} PARTITION OF reading FOR VALUES FROM ('2018-07-0{day}Z') TO ('2018-07-0{day + 1}Z')")
            process.stdin.write(ndjson({"delivery": f"k7:{day * 60 + n}", **reading(n, day)} for n in range(60)))
            process.stdin.flush()
            wait_for(lambda day=day: self.sql(f"SELECT count(*)>=60 FROM day{day}") == [["t"]], what="rows in the new partition")
        # One that comes by ATTACH, with rows of its own, is one of them, too.
        self.sql("CREATE TABLE day6(LIKE reading INCLUDING ALL); INSERT INTO day6 SELECT 's1','2018-07-06T00:00:01.000001Z',-1;"
                 "ALTER TABLE reading ATTACH PARTITION day6 FOR VALUES FROM ('2018-07-06Z') TO ('2018-07-07Z')")
        process.stdin.write(ndjson({"delivery": f"k7:{360 + n}", **reading(n, 6)} for n in range(60)))
        process.stdin.close()
        self.assertEqual(process.wait(60), 0, process.stderr.read())
        receipts = channel.receipts()
        self.assertEqual((positions(receipts, "stored", "last"), positions(receipts, "rejected")), (set(range(60, 420)), set()))
        self.assertEqual(self.sql("SELECT count(*),min(n) FROM day6"), [["60", "0"]])
        # No key without the time; and here, unlike there, a row that no partition is for is refused.
        self.write([reading(1)], *options, "--key", "subject", exit=2, stderr="no unique or exclusion constraint matching")
        self.write([reading(1), reading(1, 20), reading(2)], *options, exit=1, stderr="line 2: no partition of relation \"reading\" found for row")

    # ---- several connections

    def transactions(self):
        """How many have stored the rows that are there."""
        return int(self.sql("SELECT count(DISTINCT xmin::text) FROM record")[0][0])

    def test_several_connections_share_a_batch_by_key(self):
        for key in "int", "bigint", "text", "varchar":
            with self.subTest(key=key):
                self.sql(f"DROP TABLE IF EXISTS record; CREATE TABLE record(k {key}, v timestamptz, PRIMARY KEY(k,v))")
                channel = Channel()
                records = [{"delivery": f"k7:{n}", "k": n % 100, "v": f"2018-07-01T00:{n // 100:02}:00Z"} for n in range(2000)]
                done = run([tool("sql-write"), self.server.url, *self.SHARED], stdin=ndjson(records), pass_fds=channel.options["pass_fds"],
                           env={**self.environment, "RECEIPTS_FD": channel.environment["RECEIPTS_FD"]})
                self.assertEqual(done, (0, "", ""))
                receipts = channel.receipts()
                self.assertEqual((positions(receipts, "stored", "last"), positions(receipts, "rejected")), (set(range(2000)), set()))
                self.assertEqual(self.sql("SELECT count(*) FROM record"), [["2000"]])
                self.assertEqual(self.transactions(), 4)

    def test_over_several_connections_the_last_version_of_a_key_stays_or_the_newest(self):
        chance = random.Random(8)
        for conflict in "update", "newer:v", "ignore":
            for key in "int", "text":
                with self.subTest(conflict=conflict, key=key):
                    self.sql(f"DROP TABLE IF EXISTS record; CREATE TABLE record(subject {key} PRIMARY KEY, v int, w int)")
                    versions = list(range(6000))
                    chance.shuffle(versions)
                    records, want = [], {}
                    for v in versions:
                        subject = str(chance.randrange(30))
                        if conflict == "update" and chance.random() < 0.1:
                            records.append(deletion(subject))
                            want.pop(subject, None)
                            continue
                        records.append(event(v, {"v": v}, subject=subject))
                        if conflict == "update" or subject not in want or (conflict == "newer:v" and v > want[subject]):
                            want[subject] = v
                    self.write(records, "--column", "subject=subject", "--column", "v=/v", "--on-conflict", conflict, "--key", "subject",
                               "--batch-records", "300", "--max-in-flight", "4")
                    self.assertEqual({k: int(v) for k, v in self.sql("SELECT subject,v FROM record")}, want)
                    self.assertGreater(self.transactions(), 1)

    def test_over_several_connections_bad_rows_are_dead_lettered_and_all_others_are_stored(self):
        self.sql("CREATE TABLE parent(id int PRIMARY KEY); INSERT INTO parent VALUES(1);"
                 "CREATE TABLE record(k int PRIMARY KEY, v int NOT NULL CHECK(v >= 0), p int REFERENCES parent)")
        records = [{"delivery": f"k7:{n}", "k": n, "v": 1, "p": 1} for n in range(2000)]
        for n in range(3, 2000, 49):
            records[n].update(({"v": None}, {"v": -1}, {"v": "x"}, {"k": 1 << 40}, {"p": 2}, {"k": None})[n % 6])
        channel = Channel()
        done = run([tool("sql-write"), self.server.url, *self.SHARED, "--column", "p=/p"], stdin=ndjson(records), pass_fds=channel.options["pass_fds"],
                   env={**self.environment, "RECEIPTS_FD": channel.environment["RECEIPTS_FD"]})
        self.assertEqual(done, (0, "", ""))
        bad = set(range(3, 2000, 49))
        receipts = channel.receipts()
        self.assertEqual((positions(receipts, "stored", "last"), positions(receipts, "rejected")), (set(range(2000)) - bad, bad))
        for receipt in receipts:
            for n in positions([receipt], "rejected"):
                self.assertIn(("not-null", "check constraint", "invalid input syntax", "out of range", "foreign key", "no value for the key")[n % 6], receipt["reason"])
        self.assertEqual({int(k) for k, in self.sql("SELECT k FROM record")}, set(range(2000)) - bad)
        self.assertGreater(self.transactions(), 3)

    def test_where_the_order_of_rows_may_matter_one_connection_is_used_and_that_is_told(self):
        told = "the order of rows may matter to table record: one connection is used\n"
        for rule, warning in [("", ""), ("CREATE UNIQUE INDEX ON record(v)", told), ("ALTER TABLE record ADD EXCLUDE (v WITH =)", told),
                              ("ALTER TABLE record ADD FOREIGN KEY(v) REFERENCES record", told), ("ALTER TABLE record ALTER k TYPE numeric", told),
                              ("ALTER TABLE record ALTER k TYPE varchar(9)", told), ("ALTER TABLE record ALTER k TYPE char(9)", told),
                              ("CREATE RULE r AS ON DELETE TO record DO ALSO NOTIFY x", told),
                              ("CREATE POLICY p ON record USING (true); ALTER TABLE record ENABLE ROW LEVEL SECURITY", told),
                              ("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';"
                               "CREATE TRIGGER t BEFORE INSERT ON record FOR EACH ROW EXECUTE FUNCTION f()", told)]:
            with self.subTest(rule=rule):
                self.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE record(k int PRIMARY KEY, v int);" + rule)
                self.write([{"k": n, "v": n} for n in range(1000)], *self.SHARED, "--batch-records", "500", stderr=warning)
                self.assertEqual(self.sql("SELECT count(*) FROM record"), [["1000"]])
                self.assertEqual(self.transactions(), 2 if warning else 8)

    def test_over_several_connections_partitions_are_one_table_unless_one_has_a_rule_of_its_own(self):
        for rule, transactions in ("", 4), ("CREATE UNIQUE INDEX ON high(v)", 1):
            with self.subTest(rule=rule):
                self.sql("DROP TABLE IF EXISTS record; CREATE TABLE record(k int PRIMARY KEY, v int) PARTITION BY RANGE(k);"
                         "CREATE TABLE low PARTITION OF record FOR VALUES FROM (0) TO (500); CREATE TABLE high PARTITION OF record FOR VALUES FROM (500) TO (1000);" + rule)
                self.write([{"k": n, "v": n} for n in range(1000)], *self.SHARED, stderr=transactions == 1 and "one connection is used" or "")
                self.assertEqual((self.sql("SELECT count(*) FROM record"), self.transactions()), ([["1000"]], transactions))

    def test_keys_that_are_written_in_several_ways_keep_their_order(self):
        for key, other in ("int", "07"), ("int", " 7"), ("varchar(3)", "7   "):
            for more in (), ("--max-in-flight", "4"):
                with self.subTest(key=key, other=other, more=more):
                    self.sql(f"DROP TABLE IF EXISTS record; CREATE TABLE record(subject {key} PRIMARY KEY, v int)")
                    filling = [event(n, {"v": n}, subject=str(n)) for n in range(100, 200)]
                    self.write([*filling, event(1, {"v": 1}, subject="7"), deletion(other), event(2, {"v": 2}, subject="7")],
                               "--column", "subject=subject", "--column", "v=/v", "--key", "subject", *more,
                               stderr="one connection" if more and key != "int" else "")
                    self.assertEqual(self.sql("SELECT v FROM record WHERE v<100"), [["2"]])

    def test_several_connections_make_a_table_once(self):
        self.write([{"k": n, "v": n} for n in range(1000)], *self.SHARED[:1], "k=/k:int", *self.SHARED[2:], "--create", "--key", "k", "--batch-records", "500")
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [["1000"]])
        self.assertEqual(self.transactions(), 5)

    def test_several_connections_are_refused_where_they_cannot_keep_order(self):
        for url, options, message in [(f"sqlite:{self.folder}/a.db", self.SHARED, "SQLite has one writer"), (None, ("--max-in-flight", "2"), "needs --column"),
                                      (None, (*self.SHARED, "--table", "{type}"), "--table must name one"), (None, (*self.SHARED[:-1], "0"), "1 to 16"),
                                      (None, (*self.SHARED[:-1], "17"), "1 to 16")]:
            with self.subTest(options=options):
                result = self.write([], *options, url=url, exit=2, stderr="--max-in-flight: ")
                self.assertIn(message, result.stderr)

    def test_dry_run_needs_no_server(self):
        result = self.run_write([event(1, {"a": 1.50})], "--dry-run", url="postgresql://nobody@127.0.0.1:1/x")
        self.assertEqual((result.exit, result.stderr), (0, ""))
        self.assertEqual(json.loads(result.stdout)["row"]["a"], 1.5)


class Directly(Both, Case):
    def test_a_wrong_password_database_or_role_ends_with_2_and_tells_no_secret(self):
        for url, password, message in [(self.pg.url, "secret-1", "password authentication failed"), (self.pg.url, "", "no password supplied"),
                                       (self.pg.url.replace("/postgres", "/none"), None, 'database "none" does not exist'),
                                       (self.pg.url.replace("pipe@", "nobody@"), None, "authentication failed"),
                                       (self.pg.url.replace("pipe@", "pipe:secret-1@"), None, "does not belong on a command line"),
                                       (self.pg.url + "?password=secret-1", None, "does not belong on a command line"),
                                       (self.pg.url + "?sslmode=require", None, "server does not support SSL"), (self.pg.url + "?sslmode=so", None, "invalid sslmode"),
                                       ("postgresql://127.0.0.1:port/x", None, "invalid"), ("postgresql://x?nonsense=1", None, "nonsense")]:
            with self.subTest(url=url, password=password):
                env = {} if password is None else {"PGPASSWORD": password}
                result = self.run_write([event(1)], url=url, env=env)
                self.assertEqual(result.exit, 2, result.stderr)
                self.assertIn(message, result.stderr)
                self.assertNotIn("secret-1", result.stderr)
                self.assertEqual(result.stderr.count("\n"), 1, result.stderr)

    def test_a_password_file_and_the_environment_are_libpqs(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY)")
        pgpass = self.folder / "pgpass"
        pgpass.write_text(f"127.0.0.1:{self.pg.port}:postgres:pipe:{self.environment['PGPASSWORD']}\n")
        pgpass.chmod(0o600)
        self.environment.pop("PGPASSWORD")
        self.write([{"k": 1}], url="postgresql:", env={"PGPASSFILE": str(pgpass), "PGHOST": "127.0.0.1", "PGPORT": str(self.pg.port), "PGUSER": "pipe",
                                                       "PGDATABASE": "postgres"})
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [["1"]])

    def test_too_many_connections_are_waited_for_and_nothing_is_rejected(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY); DROP ROLE IF EXISTS few; CREATE ROLE few LOGIN PASSWORD 'pw-of-pipe' CONNECTION LIMIT 1;"
                 "GRANT ALL ON record TO few")
        url = self.pg.url.replace("pipe@", "few@")
        self.sql("GRANT ALL ON SCHEMA public TO few")
        holder = subprocess.Popen(["psql", "-X", "-q", "-t", "-A", "-d", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment)
        self.addCleanup(self.end, holder)
        holder.stdin.write("SELECT 'ready';\n")
        holder.stdin.flush()
        self.assertEqual(holder.stdout.readline(), "ready\n")
        process = subprocess.Popen([tool("sql-write"), url], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment)
        self.addCleanup(self.end, process)
        process.stdin.write('{"k":1}\n')
        process.stdin.close()
        self.assertIn("too many connections", process.stderr.readline())
        holder.stdin.close()
        self.assertEqual(process.wait(60), 0)
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [["1"]])
        self.write([{"k": 2}], "--give-up", "1ms", url="postgresql://pipe@127.0.0.1:1/postgres", exit=75, stderr="Connection refused")

    def test_with_too_few_connections_it_goes_on_over_those_that_it_has(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY, v int); DROP ROLE IF EXISTS few; CREATE ROLE few LOGIN PASSWORD 'pw-of-pipe' CONNECTION LIMIT 4;"
                 "GRANT ALL ON record TO few; GRANT ALL ON SCHEMA public TO few")
        channel = Channel()
        process = subprocess.Popen([tool("sql-write"), self.pg.url.replace("pipe@", "few@"), *self.SHARED, "--batch-records", "1000"], text=True,
                                   stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=channel.options["pass_fds"],
                                   env={**self.environment, "RECEIPTS_FD": channel.environment["RECEIPTS_FD"]})
        self.addCleanup(self.end, process)
        for round, limit in enumerate([4, 4, 2, 2, 1, 1]):
            # Those that it has are taken away: all of them are asked for anew. What some of them then stored is not stored again.
            if round % 2 == 0:
                self.sql(f"ALTER ROLE few CONNECTION LIMIT {limit}")
                self.sql("SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE usename='few'")
            process.stdin.write(ndjson({"delivery": f"k7:{n}", "k": n, "v": round} for n in range(1000 * round, 1000 * round + 1000)))
            process.stdin.flush()
            wait_for(lambda: self.sql(f"SELECT count(*) FROM record WHERE v={round}") == [["1000"]], what=f"the rows of round {round}")
            if round % 2 == 1:
                self.assertEqual(self.sql(f"SELECT count(DISTINCT xmin::text) FROM record WHERE v={round}"), [[str(limit)]])
        process.stdin.close()
        self.assertEqual(process.wait(60), 0)
        warnings = process.stderr.read()
        self.assertEqual(warnings.count("goes on with fewer connections"), 1, warnings)
        self.assertIn("too many connections for role", warnings)
        receipts = channel.receipts()
        self.assertEqual((positions(receipts, "stored", "last"), positions(receipts, "rejected")), (set(range(6000)), set()))

    def test_a_row_that_row_level_security_refuses_is_the_records_a_missing_grant_the_operators(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY); DROP ROLE IF EXISTS other; CREATE ROLE other LOGIN PASSWORD 'pw-of-pipe'; GRANT USAGE ON SCHEMA public TO other")
        url = self.pg.url.replace("pipe@", "other@")
        self.write([{"k": 1}], url=url, exit=2, stderr="permission denied for table record")
        self.sql("GRANT ALL ON record TO other; ALTER TABLE record ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON record USING(k < 10)")
        self.write([{"k": 1}, {"k": 11}, {"k": 2}], url=url, exit=1, stderr="line 2: new row violates row-level security policy")
        self.assertEqual(self.sql("SELECT k FROM record ORDER BY k"), [["1"], ["2"]])

    def test_a_full_disk_is_waited_for_and_loses_nothing(self):
        """A limit on temporary files stands for the disk of the server: both are the class of 53."""
        self.sql("CREATE TABLE record(k int PRIMARY KEY, t text); ALTER DATABASE postgres SET temp_file_limit TO '64kB'; ALTER DATABASE postgres SET work_mem TO '64kB'")
        self.sql("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device'"
                 " USING ERRCODE='53100'; END $$; CREATE TRIGGER t BEFORE INSERT ON record FOR EACH STATEMENT EXECUTE FUNCTION f()")
        channel = Channel()
        process = self.popen(channel=channel)
        process.stdin.write(ndjson({"delivery": f"k7:{n}", "k": n, "t": "x"} for n in range(100)))
        process.stdin.close()
        self.assertIn("No space left on device", process.stderr.readline())
        self.sql("DROP TRIGGER t ON record")
        self.assertEqual(process.wait(60), 0)
        receipts = channel.receipts()
        self.assertEqual((positions(receipts, "stored", "last"), positions(receipts, "rejected")), (set(range(100)), set()))

    def test_a_disk_that_is_really_full_is_waited_for_until_there_is_room(self):
        """The table is on a file system of its own, which is made larger."""
        small = pathlib.Path(tempfile.mkdtemp(prefix="inflight-small-"))
        self.addCleanup(small.rmdir)
        if os.geteuid() != 0 or run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=777", "tmpfs", str(small)]).exit != 0:
            self.skipTest("mounting a small file system is not permitted here: a full disk is only imitated (the test before)")
        self.addCleanup(run, ["umount", "-l", str(small)])
        (small / "space").mkdir()
        shutil.chown(small / "space", "postgres", "postgres")
        self.pg.sql(f"CREATE TABLESPACE small LOCATION '{small}/space'")
        self.addCleanup(self.sql, "DROP TABLESPACE small")
        self.addCleanup(self.sql, "DROP TABLE IF EXISTS record")
        self.sql("CREATE TABLE record(k int PRIMARY KEY USING INDEX TABLESPACE small, t text) TABLESPACE small; ALTER TABLE record ALTER t SET STORAGE PLAIN")
        channel = Channel()
        (self.folder / "in").write_text(ndjson({"delivery": f"k7:{n}", "k": n, "t": "x" * 1000} for n in range(20000)))
        with open(self.folder / "in", "rb") as records:
            process = self.popen("--batch-records", "500", "--column", "k=/k", "--column", "t=/t", channel=channel, stdin=records)
        self.assertTrue(select.select([process.stderr], [], [], 60)[0], "nothing is said of it")
        self.assertRegex(process.stderr.readline(), "^sql-write: waiting: .*No space left on device")
        before = int(self.sql("SELECT count(*) FROM record")[0][0])
        self.assertGreater(before, 0)
        self.assertIsNone(process.poll())
        self.assertEqual(run(["mount", "-o", "remount,size=64m", str(small)]).exit, 0)
        self.assertEqual(process.wait(120), 0)
        receipts = channel.receipts()
        self.assertEqual((positions(receipts, "stored", "last"), positions(receipts, "rejected")), (set(range(20000)), set()))
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [["20000"]])

    def test_a_cancelled_statement_is_made_smaller_and_a_single_row_is_waited_for(self):
        self.sql("CREATE TABLE record(k int PRIMARY KEY); ALTER DATABASE postgres SET statement_timeout TO '300ms'")
        self.sql("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN new; END $$;"
                 "CREATE TRIGGER t BEFORE INSERT ON record FOR EACH ROW EXECUTE FUNCTION f()")
        self.write([{"k": n} for n in range(40)])
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [["40"]])

    def test_an_unlogged_table_and_fsync_off_are_told(self):
        self.sql("CREATE UNLOGGED TABLE record(k int PRIMARY KEY)")
        self.write([{"k": 1}], stderr="record is unlogged")

    def test_a_database_of_another_encoding_rejects_what_it_cannot_hold(self):
        self.sql("DROP DATABASE IF EXISTS latin") if self.sql("SELECT 1 FROM pg_database WHERE datname='latin'") else None
        self.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        url = self.pg.url.replace("/postgres", "/latin")
        self.write([{"k": 1, "t": "é"}, {"k": 2, "t": "😀"}, {"k": 3, "t": "x"}], "--create", "--key", "k", url=url, exit=1, stderr="line 2: ")
        self.assertEqual(self.pg.sql("SELECT k,t FROM record ORDER BY k", "latin"), [["1", "é"], ["3", "x"]])

    def test_two_runs_of_one_source_share_the_lock_and_others_do_not(self):
        """Two writers of other sources go on while one transaction hangs."""
        self.sql("CREATE TABLE record(k int PRIMARY KEY)")
        other = self.session()
        other.stdin.write("BEGIN; INSERT INTO record VALUES(1); SELECT 'ready';\n")
        self.assertEqual(other.stdout.readline(), "ready\n")
        hanging = self.popen(channel=Channel(), env={"RECEIPTS_SOURCE": "a"})
        hanging.stdin.write('{"delivery":"k7:1","k":1}\n')
        hanging.stdin.close()
        wait_for(lambda: self.waiters() == 1, what="the one to wait")
        self.write([{"k": 2}], env={"RECEIPTS_SOURCE": "b"})
        other.stdin.write("COMMIT;\n")
        self.assertEqual(hanging.wait(60), 0)


class Tls(unittest.TestCase):
    """A server with a certificate, reached under a name that is not this machine's."""

    def test_over_a_network_the_certificate_must_be_valid_unless_sslmode_says_otherwise(self):
        with tempfile.TemporaryDirectory() as folder, Postgres() as pg:
            crt, key = certificate(folder, "DNS:db.test")
            for source, name in ((crt, "crt"), (key, "key")):
                (pg.dir / name).write_bytes(pathlib.Path(source).read_bytes())
                pg.give(name)
                (pg.dir / name).chmod(0o600)
            url = f"postgresql://pipe@{{}}:{pg.port}/postgres?hostaddr=127.0.0.1{{}}"
            pg.sql("CREATE TABLE record(k int PRIMARY KEY)")

            def write(host, more="", **env):
                return run([tool("sql-write"), url.format(host, more)], stdin='{"k":1}\n', env={**pg.environment, **env})
            plain = write("db.test")
            self.assertEqual(plain.exit, 2, plain.stderr)
            self.assertIn("TLS is asked for unless sslmode says otherwise", plain.stderr)
            self.assertEqual(write("db.test", "&sslmode=disable"), (0, "", ""))
            self.assertEqual(write("localhost"), (0, "", ""))
            pg.stop()
            pg.start("ssl=on", f"ssl_cert_file={pg.dir}/crt", f"ssl_key_file={pg.dir}/key")
            untrusted = write("db.test")
            self.assertEqual(untrusted.exit, 2)
            self.assertIn("certificate verify failed", untrusted.stderr)
            self.assertEqual(write("db.test", SSL_CERT_FILE=crt), (0, "", ""))
            other = write("other.test", SSL_CERT_FILE=crt)
            self.assertEqual(other.exit, 2)
            self.assertIn("does not match host name", other.stderr)
            self.assertEqual(write("other.test", "&sslmode=require"), (0, "", ""))


class Timescale(Case):
    """Where the extension is installed."""
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if cls.pg.sql("SELECT 1 FROM pg_available_extensions WHERE name='timescaledb'") == []:
            raise unittest.SkipTest("TimescaleDB is not installed")
        cls.pg = cls.server = cls.enterClassContext(Postgres("shared_preload_libraries=timescaledb", "timescaledb.telemetry_level=off"))

    def test_a_hypertable_gets_its_chunks_while_it_is_written(self):
        self.sql("CREATE EXTENSION timescaledb; CREATE TABLE reading(subject text, time timestamptz, n int, PRIMARY KEY(subject,time));"
                 "SELECT create_hypertable('reading','time',chunk_time_interval=>interval '1 day')")
        rows = [{"subject": f"s{n % 7}", "time": f"2018-07-{1 + n // 100:02}T00:{n % 100 // 2:02}:00Z", "n": n} for n in range(1000)]
        for more in (), ("--on-conflict", "newer:n"):
            self.write(rows, "--table", "reading", "--column", "subject=subject", "--column", "time=/time:time", "--column", "n=/n", *more)
        want = {(row["subject"], row["time"]) for row in rows}
        self.assertEqual(self.sql("SELECT count(*) FROM reading"), [[str(len(want))]])


class BehindPgBouncer(Both, Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = cls.enterClassContext(Bouncer(cls.pg))


if __name__ == "__main__":
    unittest.main()
