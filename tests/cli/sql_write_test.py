"""sql-write with sqlite: what stands in the database afterwards, read by python's own sqlite3."""
import json
import os
import pathlib
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import run, tool, wait_for  # noqa: E402
from sink_input import Channel, deletion, event, ndjson, positions  # noqa: E402


class SqlWrite(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.file = self.folder / "test.db"

    def write(self, records, *options, exit=0, stderr="", **more):
        result = run([tool("sql-write"), f"sqlite:{self.file}", *options], stdin=ndjson(records), **more)
        self.assertEqual(result.exit, exit, result.stderr)
        if stderr == "":
            self.assertEqual(result.stderr, "")
        else:
            self.assertIn(stderr, result.stderr)
        self.assertEqual(result.stdout, "")
        return result

    def sql(self, text, *values):
        with sqlite3.connect(self.file) as database:
            rows = database.execute(text, values).fetchall()
        database.close()
        return rows

    def table(self, sql):
        self.sql(sql)

    def columns(self, table="record"):
        return {name: kind for _, name, kind, *_ in self.sql(f"PRAGMA table_info('{table}')")}

    # ---- a new file

    def test_a_new_file_gets_the_table_from_the_records(self):
        self.write([event(1, {"bsu": {"@id": "x7", "power": {"@unit": "kW", "#text": "12.50"}, "cell": [{"v": 3.2}, {"v": 3.3}], "n": 5}})])
        self.assertEqual(self.columns(), {"source": "TEXT", "id": "TEXT", "subject": "TEXT", "time": "TEXT", "recordedtime": "TEXT",
                                          "bsu_id": "TEXT", "power_unit": "TEXT", "power": "TEXT", "cell_0_v": "REAL",
                                          "cell_1_v": "REAL", "n": "INTEGER"})
        self.assertEqual(self.sql("SELECT source,id,bsu_id,power,cell_1_v,n FROM record"), [("test", "1", "x7", "12.50", 3.3, 5)])

    def test_the_same_line_again_changes_nothing(self):
        records = [event(n, {"bsu": {"power": str(n)}}) for n in range(100)]
        self.write(records)
        before = self.sql("SELECT * FROM record ORDER BY id")
        self.write(records)
        self.assertEqual(self.sql("SELECT * FROM record ORDER BY id"), before)
        self.assertEqual(len(before), 100)

    def test_later_keys_add_columns_in_the_same_run_and_the_next(self):
        self.write([event(1, {"a": 1}), event(2, {"a": 1, "b": "x"})])
        self.write([event(3, {"c": 2.5})])
        self.assertEqual(self.sql("SELECT id,a,b,c FROM record ORDER BY id"), [("1", 1, None, None), ("2", 1, "x", None), ("3", None, None, 2.5)])

    def test_a_key_that_was_null_gets_its_column_when_it_has_a_value(self):
        self.write([event(1, {"a": None, "b": 1}), event(2, {"a": "x", "b": 1})])
        self.assertEqual(self.columns()["a"], "TEXT")
        self.assertEqual(self.sql("SELECT a FROM record ORDER BY id"), [(None,), ("x",)])

    def test_bare_records_without_key_are_appended_and_that_is_told_once(self):
        result = self.write([{"a": 1}, {"a": 1}], stderr="a record written twice stands twice")
        self.assertEqual(result.stderr.count("\n"), 1)
        self.assertEqual(self.sql("SELECT a FROM record"), [(1,), (1,)])

    def test_bare_records_with_a_key_are_upserted(self):
        self.write([{"k": "x", "v": 1}, {"k": "x", "v": 2}], "--key", "k")
        self.assertEqual(self.sql("SELECT k,v FROM record"), [("x", 2)])

    def test_empty_input_makes_no_table(self):
        self.write([])
        self.assertEqual(self.sql("SELECT * FROM sqlite_schema"), [])

    def test_raw_data_is_a_column_of_its_own(self):
        self.write([event(1, "<bsu/>")])
        self.assertEqual(self.sql("SELECT data FROM record"), [("<bsu/>",)])

    # ---- a file that is there

    def test_another_table_needs_create(self):
        self.table("CREATE TABLE other(a)")
        self.write([event(1, {"a": 1})], exit=2, stderr="no such table: record")
        self.assertEqual(self.sql("SELECT name FROM sqlite_schema"), [("other",)])
        self.write([event(1, {"a": 1})], "--create")
        self.assertEqual(self.sql("SELECT a FROM record"), [(1,)])

    def test_an_existing_table_takes_the_keys_that_match_and_the_rest_is_told_once(self):
        self.table("CREATE TABLE record(subject TEXT PRIMARY KEY, power REAL, type TEXT)")
        result = self.write([event(n, {"bsu": {"power": "1.5", "new": "x"}}) for n in range(3)], stderr="no column new: left out")
        self.assertEqual(result.stderr.count("new"), 1)
        self.assertEqual(self.sql("SELECT power,type FROM record"), [(1.5, "bsu.reading")] * 3)

    def test_a_column_that_is_not_named_keeps_its_value_in_a_table_of_others(self):
        self.table("CREATE TABLE record(subject TEXT PRIMARY KEY, power REAL, note TEXT)")
        self.table("INSERT INTO record VALUES('bsu-00001', 1, 'mine')")
        self.write([event(1, {"power": 2})], stderr="")
        self.assertEqual(self.sql("SELECT power,note FROM record"), [(2.0, "mine")])

    def test_a_row_is_what_its_newest_record_says(self):
        self.write([event(1, {"a": 1, "b": 2}), event(1, {"a": 3})])
        self.assertEqual(self.sql("SELECT a,b FROM record"), [(3, None)])

    def test_a_missing_value_is_the_default_and_null_is_null(self):
        self.table("CREATE TABLE t(k TEXT PRIMARY KEY, a INTEGER DEFAULT 7)")
        options = ("--table", "t", "--key", "k", "--column", "k=/k", "--column", "a=/a")
        self.write([{"k": "missing"}, {"k": "null", "a": None}, {"k": "reset", "a": 1}, {"k": "reset"}], *options)
        self.assertEqual(dict(self.sql("SELECT k,a FROM t")), {"missing": 7, "null": None, "reset": 7})

    # ---- options

    def test_columns_by_path_and_type(self):
        self.write([event(1, {"bsu": {"power": {"#text": "12.50"}, "n": "7", "on": "true", "deep": {"x": [1, 2]}, "raw": 1.50}})],
                   "--table", "reading", "--key", "subject,time", "--column", "subject=subject", "--column", "time=time",
                   "--column", "power=/bsu/power/#text:float", "--column", "n=/bsu/n:int", "--column", "on=/bsu/on:bool",
                   "--column", "deep=/bsu/deep:json", "--column", "raw=/bsu/raw:text")
        self.assertEqual(self.sql('SELECT power,n,"on",deep,raw FROM reading'), [(12.5, 7, 1, '{"x": [1, 2]}', "1.5")])
        self.assertEqual(list(self.columns("reading")), ["subject", "time", "power", "n", "on", "deep", "raw"])

    def test_options_from_a_file_keep_hashes_and_commas(self):
        (self.folder / "opts").write_text("# the mapping\ntable = reading\nkey = subject,time\ncolumn = subject=subject\ncolumn = time=time\n"
                                          "column = power=/bsu/power/#text:float\n")
        self.write([event(1, {"bsu": {"power": {"#text": "12.50"}}})], "--options", str(self.folder / "opts"))
        self.assertEqual(self.sql("SELECT * FROM reading"), [("bsu-00001", "2018-07-01T00:00:01Z", 12.5)])

    def test_of_one_key_in_two_spellings_the_later_record_wins_whatever_the_column_makes_of_it(self):
        spellings = [("TEXT", ['"a"', '"\\u0061"']), ("TEXT COLLATE NOCASE", ['"a"', '"A"']), ("INTEGER", ["1", '"1"']),
                     ("INTEGER", ["1", '" 1"']), ("INTEGER", ["1", "1.0", '"+1"']), ("REAL", ["1", "1.0", "1e0", '"1"']),
                     ("NUMERIC", ["1", "1.0", '" 1"'])]
        for number, (kind, written) in enumerate(spellings):
            for order in (written, written[::-1]):
                with self.subTest(kind=kind, order=order):
                    self.table(f"DROP TABLE IF EXISTS t{number}")
                    self.table(f"CREATE TABLE t{number}(k {kind}, v TEXT, PRIMARY KEY(k)) WITHOUT ROWID")
                    self.write([f'{{"k":{k},"v":"{v}"}}' for v, k in enumerate(order)], "--table", f"t{number}", "--column", "k=/k",
                               "--column", "v=/v")
                    self.assertEqual(self.sql(f"SELECT v FROM t{number}"), [(str(len(order) - 1),)])

    def test_rows_whose_order_matters_to_the_table_are_written_in_theirs(self):
        self.table("CREATE TABLE u(k TEXT PRIMARY KEY, u TEXT UNIQUE)")
        self.table("CREATE TABLE parent(k TEXT PRIMARY KEY, above TEXT REFERENCES parent)")
        self.table("CREATE TABLE logged(k TEXT PRIMARY KEY)")
        self.table("CREATE TABLE log(k TEXT)")
        self.table("CREATE TRIGGER l AFTER INSERT ON logged BEGIN INSERT INTO log VALUES(new.k); END")
        self.write([{"k": "b", "u": "x"}, {"k": "b", "u": "y"}, {"k": "a", "u": "x"}], "--table", "u", "--column", "k=/k", "--column", "u=/u")
        self.assertEqual(self.sql("SELECT k,u FROM u ORDER BY k"), [("a", "x"), ("b", "y")])
        self.write([{"k": "z"}, {"k": "a", "above": "z"}], "--table", "parent", "--column", "k=/k", "--column", "above=/above")
        self.assertEqual(self.sql("SELECT k,above FROM parent ORDER BY k"), [("a", "z"), ("z", None)])
        self.write([{"k": "z"}, {"k": "a"}], "--table", "logged", "--column", "k=/k")
        self.assertEqual(self.sql("SELECT k FROM log ORDER BY rowid"), [("z",), ("a",)])

    def test_with_columns_named_deletions_templates_and_reasons_are_as_without(self):
        letters = self.folder / "letters"
        options = ("--table", "t_{type}", "--key", "subject", "--column", "subject=subject", "--column", "n=/n:int", "--dead-letters", str(letters))
        self.write([event(1, {"n": 1}, type="a"), event(2, {"n": "x"}, type="a"), event(3, {"n": 3}, type="b"), event(4, {"n": 4}, type="b")], *options, exit=1)
        self.assertEqual(self.sql("SELECT * FROM t_a"), [("bsu-00001", 1)])
        self.assertEqual(self.sql("SELECT n FROM t_b ORDER BY n"), [(3,), (4,)])
        letter = json.loads(letters.read_text())
        self.assertEqual((letter["line"], letter["event"]["subject"], letter["reason"]), (2, "bsu-00002", 'n: "x" is not a 64-bit integer'))
        letters.unlink()
        self.table("CREATE TABLE t_deleted(subject TEXT PRIMARY KEY, n INTEGER)")
        self.table("INSERT INTO t_deleted VALUES('bsu-00003', 1), ('bsu-00004', 1)")
        self.write([event(3, subject="bsu-00003", type="deleted")], *options)
        self.assertEqual(self.sql("SELECT * FROM t_deleted"), [("bsu-00004", 1)])

    def test_a_file_that_cannot_be_written_ends_with_2_and_is_left_alone(self):
        self.write([event(1, {"a": 1})])
        before = self.file.read_bytes()
        # Neither file nor folder lets us write; root is asked as nobody.
        self.file.chmod(0o444)
        self.folder.chmod(0o555)
        self.addCleanup(self.folder.chmod, 0o755)
        drop = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
        result = subprocess.run([tool("sql-write"), f"sqlite:{self.file}"], input=ndjson([event(2, {"a": 1})]), text=True, capture_output=True,
                                **drop)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        self.assertEqual(self.file.read_bytes(), before)

    def test_update_and_ignore(self):
        records = [{"k": "x", "v": 1}, {"k": "x", "v": 2}]
        self.write(records, "--key", "k", "--on-conflict", "ignore")
        self.assertEqual(self.sql("SELECT v FROM record"), [(1,)])
        self.write(records, "--key", "k")
        self.assertEqual(self.sql("SELECT v FROM record"), [(2,)])

    def test_newer_never_lets_an_older_version_overwrite_a_newer(self):
        newest = "2018-07-01T00:00:00.5Z"
        versions = ["2018-07-01T00:00:00Z", newest, "2018-07-01T02:00:00.4+02:00", "2018-06-30T23:59:59.999999999Z"]
        for _ in range(6):
            random.shuffle(versions)
            self.write([{"k": "x", "t": t, "v": t} for t in versions], "--key", "k", "--on-conflict", "newer:t")
            self.assertEqual(self.sql("SELECT v FROM record"), [(newest,)])
        self.write([{"k": "x", "t": newest, "v": "equal"}], "--key", "k", "--on-conflict", "newer:t")
        self.assertEqual(self.sql("SELECT v FROM record"), [("equal",)])

    def test_newer_compares_numbers_as_numbers(self):
        for kind in ("TEXT", "INTEGER"):
            self.table(f"CREATE TABLE {kind}_(k TEXT PRIMARY KEY, n {kind})")
            self.write([{"k": "x", "n": 9}, {"k": "x", "n": 10}, {"k": "x", "n": 9}], "--table", f"{kind}_", "--on-conflict", "newer:n")
            self.assertEqual([str(n) for n, in self.sql(f"SELECT n FROM {kind}_")], ["10"])

    def test_a_record_without_the_version_is_rejected(self):
        self.write([{"k": "x", "n": 1}, {"k": "x"}], "--key", "k", "--on-conflict", "newer:n", exit=1, stderr="line 2: no value for n")

    def test_one_stream_fills_a_table_and_its_children(self):
        self.table("CREATE TABLE parent(id TEXT PRIMARY KEY)")
        self.table("CREATE TABLE child(id TEXT REFERENCES parent, line INTEGER, PRIMARY KEY(id, line))")
        self.write([{"kind": "parent", "id": "a"}, {"kind": "child", "id": "a", "line": 1}, {"kind": "child", "id": "a", "line": 2},
                    {"kind": "child", "id": "b", "line": 1}], "--table", "{kind}", exit=1, stderr="line 4: FOREIGN KEY constraint failed")
        self.assertEqual(self.sql("SELECT * FROM child"), [("a", 1), ("a", 2)])

    def test_a_template_makes_tables_in_a_new_file_and_later(self):
        self.write([{"kind": "a b", "k": 1}], "--table", "t_{+kind}", "--key", "k", exit=0)
        self.write([{"kind": "c", "k": 1}], "--table", "t_{+kind}", "--key", "k")
        self.assertEqual(self.sql("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY 1"), [("t_a%20b",), ("t_c",)])

    def test_deletions_go_by_key(self):
        options = ("--key", "subject")
        self.write([event(1, {"a": 1}), event(2, {"a": 1}), deletion("bsu-00001")], *options)
        self.assertEqual(self.sql("SELECT subject FROM record"), [("bsu-00002",)])
        self.write([deletion("bsu-00002")], *options, "--on-delete", "ignore")
        self.write([deletion("bsu-00002")], *options, "--on-delete", "reject", exit=1, stderr="deletion")
        self.assertEqual(self.sql("SELECT subject FROM record"), [("bsu-00002",)])

    def test_an_older_deletion_does_not_remove_a_newer_row(self):
        options = ("--key", "subject", "--on-conflict", "newer:time")
        self.write([event(1, {"a": 1}), deletion("bsu-00001", time="2018-06-01T00:00:00Z")], *options)
        self.assertEqual(len(self.sql("SELECT * FROM record")), 1)
        self.write([deletion("bsu-00001", time="2018-08-01T00:00:00Z")], *options)
        self.assertEqual(len(self.sql("SELECT * FROM record")), 0)

    def test_dry_run_writes_nothing(self):
        result = run([tool("sql-write"), f"sqlite:{self.file}", "--dry-run"], stdin=ndjson([event(1, {"a": 1.50})]))
        self.assertEqual(result.exit, 0, result.stderr)
        self.assertEqual(json.loads(result.stdout)["row"]["a"], 1.5)
        self.assertFalse(self.file.exists())

    # ---- values

    def test_integers_keep_64_bits_and_text_keeps_its_digits(self):
        self.table("CREATE TABLE record(k TEXT PRIMARY KEY, i INTEGER, t TEXT, r REAL)")
        self.write(['{"k":"max","i":9223372036854775807,"t":12.50,"r":1e3}', '{"k":"min","i":-9223372036854775808,"t":1E5}',
                    '{"k":"text","i":"9007199254740993"}'])
        self.assertEqual(self.sql("SELECT i,t,r FROM record ORDER BY k"),
                         [(9223372036854775807, "12.50", 1000.0), (-9223372036854775808, "1E5", None), (9007199254740993, None, None)])

    def test_an_integer_that_would_lose_digits_rejects_its_row(self):
        self.table("CREATE TABLE record(k TEXT PRIMARY KEY, i INTEGER, r REAL)")
        result = self.write(['{"k":"a","i":9223372036854775808}', '{"k":"b","i":"18446744073709551615"}', '{"k":"c","r":9007199254740993}',
                             '{"k":"d","i":1}'], exit=1, stderr="line 1: i: 9223372036854775808 is beyond 64 bits")
        self.assertIn("line 3: r: 9007199254740993 loses digits", result.stderr)
        self.assertEqual(self.sql("SELECT k FROM record"), [("d",)])

    def test_identifiers_are_quoted(self):
        name = 'a "b"; DROP TABLE x; --'
        self.write([{name: 1, "select": 2, "k": 3}], "--table", "or der", "--key", "select")
        self.assertEqual(set(self.columns("or der")), {name, "select", "k"})

    def test_names_that_differ_in_case_only_are_one_column(self):
        self.write([{"k": 1, "Power": 1}, {"K": 2, "power": 2}], "--key", "k")
        self.assertEqual(self.sql("SELECT k,power FROM record ORDER BY k"), [(1, 1), (2, 2)])

    def test_nul_follows_the_policy(self):
        records = ['{"k":1,"t":"a\\u0000b"}', '{"k":2,"t":"caf\\u00e9 \\ud83d\\ude00"}']
        self.write(records, "--key", "k", exit=1, stderr="line 1: t: \\u0000")
        self.assertEqual(self.sql("SELECT t FROM record"), [("café 😀",)])
        self.write(records, "--key", "k", "--nul", "remove")
        self.assertEqual(self.sql("SELECT t FROM record WHERE k=1"), [("ab",)])

    def test_escapes_of_several_columns_do_not_mix(self):
        self.write(['{"k":"\\u0061\\n","a":"\\tx","b":"\\"y\\""}'], "--key", "k")
        self.assertEqual(self.sql("SELECT k,a,b FROM record"), [("a\n", "\tx", '"y"')])

    # ---- what goes wrong

    def test_a_row_that_violates_a_constraint_is_rejected_with_the_column_and_all_others_are_stored(self):
        self.table("CREATE TABLE record(k INTEGER PRIMARY KEY, power REAL NOT NULL CHECK(power >= 0), u TEXT UNIQUE) STRICT")
        records = [{"k": n, "power": 1} for n in range(1, 1001)]
        records[99]["power"] = None
        records[199]["power"] = -1
        records[299]["power"] = "much"
        records[399]["k"] = "x"
        records[498]["u"] = records[499]["u"] = "same"
        result = self.write(records, exit=1, stderr="line 100: NOT NULL constraint failed: record.power")
        self.assertIn("line 200: CHECK constraint failed: power", result.stderr)
        self.assertIn("line 300: cannot store TEXT value in REAL column record.power", result.stderr)
        self.assertIn("line 400: k: datatype mismatch", result.stderr)
        self.assertIn("line 500: UNIQUE constraint failed: record.u", result.stderr)
        self.assertEqual(result.stderr.count("\n"), 5)
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [(995,)])

    def test_a_typed_column_rejects_what_is_no_such_thing(self):
        result = self.write([{"k": 1, "n": "abc"}, {"k": 2, "n": "5"}], "--key", "k", "--column", "k=/k", "--column", "n=/n:int", exit=1,
                            stderr='line 1: n: "abc" is not a 64-bit integer')
        self.assertEqual(result.stderr.count("\n"), 1)
        self.assertEqual(self.sql("SELECT k,n FROM record"), [(2, 5)])

    def test_a_trigger_that_rolls_back_costs_only_its_row(self):
        self.table("CREATE TABLE record(k INTEGER PRIMARY KEY)")
        self.table("CREATE TRIGGER no BEFORE INSERT ON record WHEN new.k = 50 BEGIN SELECT RAISE(ROLLBACK, 'no fifty'); END")
        self.write([{"k": n} for n in range(1, 101)], exit=1, stderr="line 50: no fifty")
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [(99,)])

    def test_a_deferred_constraint_that_fails_at_the_commit_costs_only_its_row(self):
        self.table("CREATE TABLE parent(id INTEGER PRIMARY KEY)")
        self.table("CREATE TABLE record(k INTEGER PRIMARY KEY, p INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
        self.table("INSERT INTO parent VALUES(1)")
        self.write([{"k": n, "p": 2 if n == 30 else 1} for n in range(1, 101)], exit=1, stderr="line 30: FOREIGN KEY constraint failed")
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [(99,)])

    def test_rejected_records_go_to_the_dead_letters(self):
        letters = self.folder / "dead"
        self.write([{"k": None, "v": 1}, {"k": 1, "v": 2}, "no json"], "--key", "k", "--dead-letters", str(letters), exit=1)
        found = [json.loads(line) for line in letters.read_text().splitlines()]
        self.assertEqual(sorted(letter["line"] for letter in found), [1, 3])
        self.assertTrue(any("key column k" in letter["reason"] for letter in found))

    def test_mistakes_in_the_command_end_with_2_and_write_nothing(self):
        self.table("CREATE TABLE record(a, b)")
        for options, message in [
            (("--column", "power"), "not name=PATH"),
            (("--column", "a=/x~2"), "JSON Pointer"),
            (("--column", "a=/x", "--column", "A=/y"), "stands twice"),
            (("--column", "c=/x"), "no column c"),
            (("--key", "c"), "no such column"),
            (("--key", "a", "--column", "b=/b"), "no --column names it"),
            (("--key", "a"), "does not match any PRIMARY KEY or UNIQUE"),
            (("--on-conflict", "later"), "not update, ignore or newer:COLUMN"),
            (("--on-conflict", "newer:c"), "no such column"),
            (("--table", "{x"), "without its }"),
            (("--nul", "keep"), "not one of"),
        ]:
            with self.subTest(options=options):
                result = self.write([{"a": 1, "b": 2}], *options, exit=2, stderr=message)
                self.assertEqual(result.stderr.count("\n"), 1 + result.stderr.count("no --key:"))
        self.assertEqual(self.sql("SELECT * FROM record"), [])

    def test_databases_that_cannot_be_used_end_with_2(self):
        (self.folder / "text").write_text("this is no database, however long it may be\n" * 50)
        for url, message in [(f"sqlite:{self.folder}/no/such.db", "unable to open database file: No such file"), (f"sqlite:{self.folder}", "unable to open"),
                             (f"sqlite:{self.folder}/text", "file is not a database"), ("sqlite:", "without a file"),
                             ("mysql://x", "not a database"), ("postgresql://u:secret@h/db", "does not belong on a command line")]:
            with self.subTest(url=url):
                result = run([tool("sql-write"), url], stdin=ndjson([event(1, {"a": 1})]))
                self.assertEqual(result.exit, 2)
                self.assertIn(message, result.stderr)
                self.assertNotIn("secret", result.stderr)

    def test_a_database_that_somebody_locks_is_waited_for_and_that_is_told(self):
        self.write([event(1, {"a": 1})])
        other = sqlite3.connect(self.file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        process = subprocess.Popen([tool("sql-write"), f"sqlite:{self.file}"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdin.write(ndjson([event(2, {"a": 1})]))
        process.stdin.close()
        self.assertIn("waiting: ", process.stderr.readline())
        other.execute("COMMIT")
        other.close()
        self.assertEqual(process.wait(60), 0)
        process.stderr.close()
        self.assertEqual(self.sql("SELECT count(*) FROM record"), [(2,)])

    def test_give_up_ends_with_75_and_rejects_nothing(self):
        self.write([event(1, {"a": 1})])
        other = sqlite3.connect(self.file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        self.write([event(2, {"a": 1})], "--give-up", "10ms", exit=75, stderr="gave up: ")
        other.close()

    def test_a_full_disk_is_waited_for_and_loses_nothing(self):
        self.write([event(0, {"text": "x"})])
        channel = Channel()
        text = ndjson({"delivery": f"k7:{n}", **event(n, {"text": "x" * 500})} for n in range(2000)).encode()
        with open(self.folder / "input", "wb+") as file:
            file.write(text)
            file.seek(0)
            # A limit on the size of files stands for the disk; python leaves its signal ignored, so that the write fails.
            process = subprocess.Popen([tool("sql-write"), f"sqlite:{self.file}", "--batch-records", "100"], stdin=file,
                                       stderr=subprocess.PIPE, restore_signals=False, text=True,
                                       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY)),
                                       env=channel.environment, pass_fds=channel.options["pass_fds"])
        self.assertIn("waiting: ", process.stderr.readline())
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self.assertEqual(process.wait(120), 0, process.stderr.read())
        process.stderr.close()
        receipts = channel.receipts()
        self.assertEqual(positions(receipts, "stored", "last"), set(range(2000)))
        self.assertEqual(positions(receipts, "rejected"), set())
        self.assertEqual(self.sql("SELECT count(*),sum(length(text)) FROM record"), [(2000, 1000000)])

    def test_two_writers_at_once_lose_nothing(self):
        lines = [ndjson([event(n, {f"k{n % 7}": n, "w": w}, source=f"w{w}") for n in range(3000)]) for w in range(2)]
        commands = [subprocess.Popen([tool("sql-write"), f"sqlite:{self.file}", "--create", "--batch-records", "100"], stdin=subprocess.PIPE)
                    for _ in lines]
        threads = [threading.Thread(target=c.communicate, args=(text.encode(),)) for c, text in zip(commands, lines)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([c.returncode for c in commands], [0, 0])
        self.assertEqual(self.sql("SELECT source,count(*),count(k3) FROM record GROUP BY 1"), [("w0", 3000, 429), ("w1", 3000, 429)])

    # ---- under a source

    def test_it_announces_itself_and_tells_stored_and_rejected(self):
        channel = Channel()
        records = [{"delivery": f"k7:{n}", **event(n, {"a": n})} for n in range(10)]
        del records[5]["id"]
        self.write(records, **channel.options)
        receipts = channel.receipts()
        self.assertEqual(receipts[0]["sink"], "sql-write")
        self.assertEqual(positions(receipts, "stored"), {0, 1, 2, 3, 4, 6, 7, 8})
        self.assertEqual(positions(receipts, "last"), {9})
        rejected = [r for r in receipts if r.get("status") == "rejected"]
        self.assertEqual([(r["delivery"], r["reason"]) for r in rejected], [("k7:5", "no value for the key column id")])
        self.assertNotIn("delivery", self.columns())

    def test_a_record_over_the_limit_is_rejected_by_its_position_wherever_that_stands(self):
        channel = Channel()
        records = [{**event(n, {"a": "x" * (2000 if n == 2 else 1)}), "delivery": f"k7:{n}"} for n in range(5)]
        self.write(records, "--max-record", "1000", **channel.options)
        rejected = [r for r in channel.receipts() if r.get("status") == "rejected"]
        self.assertEqual([r["delivery"] for r in rejected], ["k7:2"])
        self.assertIn("over --max-record", rejected[0]["reason"])

    def test_the_receipt_of_the_newest_unnumbered_position_waits_for_the_next(self):
        channel = Channel()
        process = subprocess.Popen([tool("sql-write"), f"sqlite:{self.file}"], stdin=subprocess.PIPE, env=channel.environment,
                                   pass_fds=channel.options["pass_fds"], text=True)
        os.set_blocking(channel.reader, False)
        heard = b""

        def hear(text):
            nonlocal heard
            try:
                heard += os.read(channel.reader, 65536)
            except BlockingIOError:
                pass
            return text in heard

        process.stdin.write(ndjson([{"delivery": "k7:1", **event(1, {"a": 1})}]))
        process.stdin.flush()
        wait_for(lambda: self.file.exists() and self.sql("SELECT count(*) FROM sqlite_schema WHERE name='record'") == [(1,)]
                 and self.sql("SELECT count(*) FROM record") == [(1,)], what="the first row")
        self.assertFalse(hear(b"stored"))
        process.stdin.write(ndjson([{"delivery": "k7:2", **event(2, {"a": 1})}]))
        process.stdin.flush()
        wait_for(lambda: hear(b'"k7:1","status":"stored"'), what="the receipt of the first")
        self.assertNotIn(b"k7:2", heard)
        process.stdin.close()
        self.assertEqual(process.wait(30), 0)
        os.set_blocking(channel.reader, True)
        self.assertEqual(positions(channel.receipts(), "last"), {2})

    def test_what_was_told_stored_is_stored_after_kill_9_at_random_moments_and_the_rerun_completes_it(self):
        seed = int(os.environ.get("SEED", random.randrange(1 << 32)))
        chance = random.Random(seed)
        records = [event(n, {"bsu": {"power": f"{n}.50", f"k{n % 5}": n}}) for n in range(4000)]
        text = ndjson({"delivery": f"k7:{n}", **record} for n, record in enumerate(records)).encode()
        for _ in range(15):
            for suffix in ("", "-wal", "-shm"):
                pathlib.Path(f"{self.file}{suffix}").unlink(missing_ok=True)
            told = set()
            for attempt in range(3):
                channel = Channel()
                with open(self.folder / "input", "wb+") as file:
                    file.write(text)
                    file.seek(0)
                    process = subprocess.Popen([tool("sql-write"), f"sqlite:{self.file}", "--batch-records", "200"], stdin=file,
                                               env=channel.environment, pass_fds=channel.options["pass_fds"])
                    if attempt < 2:
                        time.sleep(chance.random() * 0.12)
                        process.send_signal(signal.SIGKILL)
                    code = process.wait(60)
                told |= positions(channel.receipts(), "stored", "last")
                tables = self.sql("SELECT name FROM sqlite_schema") if self.file.exists() else []
                stored = {int(n) for n, in self.sql("SELECT id FROM record")} if tables else set()
                self.assertLessEqual(told, stored, f"told, not stored; SEED={seed}")
            self.assertEqual(code, 0, f"SEED={seed}")
            self.assertEqual(told, set(range(4000)), f"SEED={seed}")
            rows = self.sql("SELECT id,power,coalesce(k0,k1,k2,k3,k4) FROM record")
            self.assertEqual(sorted(rows, key=lambda row: int(row[0])), [(str(n), f"{n}.50", n) for n in range(4000)], f"SEED={seed}")


if __name__ == "__main__":
    unittest.main()
