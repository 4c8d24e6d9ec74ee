"""sql-read, from PostgreSQL and SQLite: all rows once, in order, digits and all; and what it does not lose when it is killed."""
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness import BIN, run, tool, wait_for  # noqa: E402
from pg_server import Bouncer, Postgres  # noqa: E402


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.pg = cls.enterClassContext(Postgres())

    def setUp(self):
        self.pg.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.environment = {**self.pg.environment, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def tool(self, name, *words, stdin="", exit=0, **more):
        result = run([tool(name), *words], stdin=stdin, env=self.environment, cwd=self.folder, **more)
        self.assertEqual(result.exit, exit, result)
        return result

    def urls(self):
        return self.pg.url, f"sqlite:{self.folder}/x.db"

    def fill(self, count):
        self.pg.sql(f"CREATE TABLE t(k int PRIMARY KEY, v text); INSERT INTO t SELECT n, 'v'||n FROM generate_series(1,{count}) n")


class SqlRead(Case):
    def test_what_sql_write_has_stored_comes_back(self):
        """On SQLite as far as it goes: its times and documents are texts."""
        lines = ['{"k a":"b","int":9223372036854775807,"text":"tab\\t \\"quoted\\" é 😀","Select":-1,"real":0.1}',
                 '{"k a":"a","int":-9223372036854775808,"text":null,"Select":0,"real":-2.5}']
        for url in self.urls():
            with self.subTest(url=url):
                self.tool("sql-write", url, "--create", "--key", "k a", "--table", "or \"der", stdin="\n".join(lines) + "\n")
                back = self.tool("sql-read", url, "--table", "or \"der").stdout.splitlines()
                self.assertEqual([json.loads(line) for line in back], [json.loads(lines[1]), json.loads(lines[0])])

    def test_everything_that_postgresql_holds_goes_round_byte_for_byte(self):
        self.pg.sql("CREATE TABLE a(k int PRIMARY KEY, i bigint, n numeric, t timestamptz, u timestamp, j jsonb, js json, ia bigint[], ta text[], b bool, x bytea, d date,"
                    " \"Quo\"\"ted\" text, f float8); CREATE TABLE b(LIKE a INCLUDING ALL);"
                    "INSERT INTO a VALUES(1, 9223372036854775807, 12345678901234567890.1234567890, '2018-07-01T00:00:00.123456Z', '2018-07-01 02:00:00',"
                    " '{\"a\": [1.50, null, \"\\\\\"]}', E'{\"a\":\\n 1.0}', '{1,NULL,-9223372036854775808}', E'{\"a\\\\\"b\",NULL,\"{,}\\n\"}', true, '\\x00ff', '2018-07-01',"
                    " E'tab\\t\\\\', 0.1); INSERT INTO a(k) VALUES(2); INSERT INTO a VALUES(3, NULL, 'NaN', 'infinity', '-infinity', 'null', 'null', '{}', '{}', false, '', 'infinity', '', 'NaN');")
        first = self.tool("sql-read", self.pg.url, "--table", "a").stdout
        # What a row does not name would not be told apart from NULL: --column is not used, so it is named.
        self.tool("sql-write", self.pg.url, "--table", "b", *(w for c in ["k", "i", "n", "t", "u", "j", "js", "ia", "ta", "b", "x", "d", 'Quo"ted', "f"]
                                                              for w in ("--column", f"{c}=/{c}")), stdin=first)
        self.assertEqual(self.tool("sql-read", self.pg.url, "--table", "b").stdout, first)
        cells = [c for c in "k i n t u ia ta b x d f".split()] + ['"Quo""ted"', "j"]
        same = " AND ".join(f"a.{c} IS NOT DISTINCT FROM b.{c}" for c in cells if c != "j")
        self.assertEqual(self.pg.sql(f"SELECT a.k, {same} FROM a JOIN b USING(k) ORDER BY 1"), [["1", "t"], ["2", "t"], ["3", "t"]])
        record = json.loads(first.splitlines()[0])
        self.assertEqual((record["i"], record["t"], record["u"]), (9223372036854775807, "2018-07-01T00:00:00.123456+00:00", "2018-07-01T02:00:00"))
        self.assertIn('"n":12345678901234567890.1234567890,', first)

    def test_columns_queries_and_the_order_of_the_key(self):
        for url in self.urls():
            with self.subTest(url=url):
                rows = [{"s": f"u{n % 3}", "t": n, "v": n * n} for n in range(9)]
                self.tool("sql-write", url, "--create", "--key", "s,t", "--table", "r", stdin="".join(json.dumps(r) + "\n" for r in rows))
                expected = sorted(({"t": r["t"], "s": r["s"]} for r in rows), key=lambda r: (r["s"], r["t"]))
                back = self.tool("sql-read", url, "--table", "r", "--columns", "t,s").stdout
                self.assertEqual([json.loads(line) for line in back.splitlines()], expected)
                self.assertTrue(back.startswith('{"t":0,"s":"u0"}\n'), back)
                some = self.tool("sql-read", url, "--query", "SELECT t AS x, v FROM r WHERE v > 10 -- those", "--key", "x", "--limit", "2").stdout
                self.assertEqual(some, '{"x":4,"v":16}\n{"x":5,"v":25}\n')

    def test_mistakes_end_with_2_and_say_what_is_wrong(self):
        self.pg.sql("CREATE TABLE t(a int, b int); INSERT INTO t VALUES(1,1),(1,2),(2,NULL)")
        self.tool("sql-write", self.urls()[1], "--create", "--table", "t", stdin='{"a":1,"b":1}\n{"a":1,"b":2}\n')
        for url in self.urls():
            for words, message in [((), "give either --table or --query"), (("--table", "t", "--query", "x"), "give either"), (("--query", "SELECT 1"), "needs a --key"),
                                   (("--table", "none"), "no"), (("--table", "t"), "primary key"), (("--table", "t", "--key", "c"), "c"),
                                   (("--table", "t", "--key", "a"), "two rows of key"), (("--query", "SELECT FROM ,", "--key", "a"), "syntax error"),
                                   (("--table", "t", "--columns", "c", "--key", "a"), "c")]:
                with self.subTest(url=url, words=words):
                    self.assertIn(message, self.tool("sql-read", url, *words, exit=2).stderr)
        self.assertIn("a NULL in b", self.tool("sql-read", self.pg.url, "--table", "t", "--key", "b", exit=2).stderr)
        self.assertIn("not a database", self.tool("sql-read", "mysql://x", "--table", "t", exit=2).stderr)
        self.assertIn("command line", self.tool("sql-read", "postgresql://u:secret@h/x", "--table", "t", exit=2).stderr)
        self.tool("sql-read", f"sqlite:{self.folder}/none.db", "--table", "t", exit=2)
        self.assertFalse((self.folder / "none.db").exists())

    def test_memory_does_not_grow_with_the_rows(self):
        self.pg.sql("CREATE TABLE t(k int PRIMARY KEY, v text); INSERT INTO t SELECT n, repeat('x',1000) FROM generate_series(1,150000) n")
        limited = run(["bash", "-c", f"ulimit -v 120000; {tool('sql-read')} '{self.pg.url}' --table t | wc -l"], env=self.environment)
        self.assertEqual((limited.stdout.strip(), limited.stderr), ("150000", ""))

    def test_a_server_that_restarts_in_the_middle_is_waited_for_and_no_row_is_lost_or_doubled(self):
        self.fill(200000)
        process = subprocess.Popen([tool("sql-read"), self.pg.url, "--table", "t"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment)
        rows = [process.stdout.readline()]  # the pipe fills, and the server waits
        self.pg.kill()
        self.pg.start()
        rows += process.stdout.readlines()
        self.assertEqual(process.wait(60), 0)
        self.assertIn("waiting: ", process.stderr.read())
        process.stdout.close()
        process.stderr.close()
        self.assertEqual([json.loads(row)["k"] for row in rows], list(range(1, 200001)))

    def test_a_run_that_has_failed_is_not_complete(self):
        words = ("--table", "t", "--state", "s", "--", f"sql-write {self.pg.url} --table copy --column k=/k --column v=/v")
        self.assertNotIn("complete", self.tool("sql-read", self.pg.url, *words, exit=2).stderr)
        self.fill(10)
        self.pg.sql("CREATE TABLE copy(k int PRIMARY KEY, v text)")
        self.assertIn("s: complete", self.tool("sql-read", self.pg.url, *words).stderr)
        self.assertEqual(self.pg.sql("SELECT count(*) FROM copy"), [["10"]])

    def test_a_key_that_is_none_ends_the_same_line_with_2_however_often_and_never_with_complete(self):
        """The row that shares its key with the last one, or has none, is not behind it."""
        self.pg.sql("CREATE TABLE t(a int, b numeric, c int); INSERT INTO t VALUES(1,1,1),(1,1,2); CREATE TABLE copy(a int, b numeric, c int)")
        self.tool("sql-write", self.urls()[1], "--create", "--table", "t", stdin='{"a":1,"b":1,"c":1}\n{"a":1,"b":1,"c":2}\n')
        sink = f"sql-write {self.pg.url} --table copy --column a=/a --column b=/b --column c=/c"
        for url in self.urls():
            for again in range(3):
                with self.subTest(url=url, again=again):
                    ended = self.tool("sql-read", url, "--table", "t", "--key", "a,b", "--state", f"s{url[:2]}", "--", sink, exit=2)
                    self.assertIn("two rows of key", ended.stderr)
        self.pg.sql("DELETE FROM t; INSERT INTO t VALUES(1,1,1),(1,NULL,2),(NULL,3,3)")
        for key in ("a,b", "b", "a"):
            self.pg.sql("DELETE FROM t WHERE a=1 AND b IS NULL" if key == "a" else "")
            for again in range(3):
                with self.subTest(key=key, again=again):
                    ended = self.tool("sql-read", self.pg.url, "--table", "t", "--key", key, "--state", f"null{key}", "--", sink, exit=2)
                    self.assertIn("a NULL in ", ended.stderr)

    def test_rows_whose_keys_are_the_same_to_the_database_though_not_to_the_letter_are_all_copied(self):
        self.pg.sql("CREATE TABLE t(n numeric, v int); INSERT INTO t VALUES(1.0,1),(1.00,2),(1.000,3),(2,4); CREATE TABLE copy(v int PRIMARY KEY)")
        for _ in range(3):  # one of the same key may come again
            self.tool("sql-read", self.pg.url, "--table", "t", "--key", "n", "--state", "s", "--limit", "1", "--",
                      f"sql-write {self.pg.url} --table copy --column v=/v")
        self.tool("sql-read", self.pg.url, "--table", "t", "--key", "n", "--state", "s", "--", f"sql-write {self.pg.url} --table copy --column v=/v")
        self.assertEqual(self.pg.sql("SELECT v FROM copy ORDER BY v"), [["1"], ["2"], ["3"], ["4"]])

    def test_give_up_ends_with_75(self):
        result = self.tool("sql-read", "postgresql://pipe@127.0.0.1:1/x", "--table", "t", "--give-up", "1ms", exit=75)
        self.assertIn("gave up: ", result.stderr)

    def test_behind_pgbouncer_too(self):
        self.fill(1000)
        with Bouncer(self.pg) as bouncer:
            self.assertEqual(self.tool("sql-read", bouncer.url, "--table", "t").stdout.count("\n"), 1000)

    # ---- with a pipeline

    def copy(self, *more, exit=0):
        return self.tool("sql-read", self.pg.url, "--table", "t", "--state", "s", *more, "--",
                         f"sql-write {self.pg.url} --table copy --column k=/k --column v=/v --batch-records 500", exit=exit)

    def test_a_state_goes_on_where_the_table_goes_on_though_rows_have_come_and_gone(self):
        self.fill(5000)
        self.pg.sql("CREATE TABLE copy(k int PRIMARY KEY, v text)")
        self.copy("--limit", "2000")
        self.assertEqual(self.pg.sql("SELECT count(*),max(k) FROM copy"), [["2000", "2000"]])
        self.pg.sql("DELETE FROM t WHERE k<1000; INSERT INTO t SELECT n,'late' FROM generate_series(-50,-1) n")
        self.copy()
        self.assertEqual(self.pg.sql("SELECT count(*),max(k),min(k) FROM copy"), [["5000", "5000", "1"]])
        self.assertIn("complete already", self.copy().stderr)

    def test_kill_9_of_any_process_and_the_same_line_again_loses_nothing_and_doubles_nothing(self):
        """Behind what was killed the table changes, so that counting rows would not find the place again."""
        seed = int(os.environ.get("SEED", random.randrange(1 << 32)))
        chance = random.Random(seed)
        self.fill(30000)
        self.pg.sql("UPDATE t SET v = v || repeat('x', 400)")  # more than what is on its way
        self.pg.sql("CREATE TABLE copy(k int PRIMARY KEY, v text)")
        command = [tool("sql-read"), self.pg.url, "--table", "t", "--state", "s", "--takeover", "5s", "--",
                   f"sql-write {self.pg.url} --table copy --column k=/k --column v=/v --batch-records 50"]  # long enough for a kill
        under_way = 0
        for killed in range(6):
            process = subprocess.Popen(command, env=self.environment, cwd=self.folder, start_new_session=True)
            before = int(self.pg.sql("SELECT count(*) FROM copy")[0][0])
            wait_for(lambda: process.poll() is not None or int(self.pg.sql("SELECT count(*) FROM copy")[0][0]) > before, what="progress")
            time.sleep(chance.random() * 0.05)
            process.kill() if killed == 0 or chance.random() < 0.7 else process.terminate()
            process.wait()
            under_way += int(self.pg.sql("SELECT count(*) FROM copy")[0][0]) < 30000
            self.pg.sql(f"DELETE FROM t WHERE k IN (SELECT k FROM t ORDER BY k LIMIT {chance.randrange(300)}) AND k IN (SELECT k FROM copy)")
        self.assertGreater(under_way, 0, f"SEED={seed}")
        done = run(command, env=self.environment, cwd=self.folder)
        self.assertEqual(done.exit, 0, done)
        self.assertEqual(self.pg.sql("SELECT count(*),count(DISTINCT k),min(k),max(k) FROM copy"), [["30000", "30000", "1", "30000"]], f"SEED={seed}")

    def test_a_row_that_was_rejected_out_of_turn_has_one_letter_though_all_is_killed(self):
        """The first rows wait until the end: what comes after them is settled out of turn."""
        (self.folder / "stage.py").write_text(OUT_OF_TURN)
        self.fill(40)
        self.pg.sql("INSERT INTO t SELECT n, 'same' FROM generate_series(41,42) n")
        command = [tool("sql-read"), self.pg.url, "--table", "t", "--columns", "v", "--key", "k", "--state", "s", "--takeover", "1s", "--", "python3", "stage.py"]

        def letters():
            path = self.folder / "s.dead.ndjson"
            return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

        wanted = ["v20", "v21", "v22", "v40"]
        (self.folder / "bad").write_text("\n".join([*wanted, "same"]))
        process = subprocess.Popen(command, env=self.environment, cwd=self.folder, start_new_session=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        wait_for(lambda: len(letters()) == 6, what="the letters")
        process.kill()
        process.wait()
        self.pg.sql("UPDATE t SET v='v20b' WHERE k=20")  # another row now, which may have a letter of its own
        wanted.append("v20b")
        (self.folder / "bad").write_text("\n".join([*wanted, "same"]))
        (self.folder / "whole").touch()
        done = run(command, env=self.environment, cwd=self.folder, timeout=60)
        self.assertEqual(done.exit, 0, done)
        expected = [("same", ["41"]), ("same", ["42"]), ("v20b", ["20"]), *((v, [v[1:]]) for v in wanted if v != "v20b")]
        self.assertEqual(sorted((letter["event"]["v"], json.loads(letter["mark"])) for letter in letters()), sorted(expected))
        stored = (self.folder / "stored").read_text().split()
        self.assertEqual(set(stored), {f"v{n}" for n in range(1, 41) if n not in (20, 21, 22, 40)})


# Rejects what `bad` names, and stores the rest when its input has ended, and `whole` is there.
OUT_OF_TURN = r"""
import json, os, sys, time
fd, _, _, token = os.environ["RECEIPTS_FD"].split(":")
def say(**what):
    os.write(int(fd), (json.dumps(what) + "\n").encode())
say(sink="stage")
kept = []
for line in sys.stdin:
    row = json.loads(line)
    if row["v"] in open("bad").read().split():
        say(delivery=row["delivery"], status="rejected", by="stage", reason="bad")
    else:
        kept.append(row)
while not os.path.exists("whole"):
    time.sleep(0.05)
for row in kept:
    with open("stored", "a") as stored:
        stored.write(row["v"] + "\n")
    say(delivery=row["delivery"], status="stored")
"""


if __name__ == "__main__":
    unittest.main()
