"""xml2json against xmltodict and expat, over real and made-up documents, and as a stage that tells receipts."""
import base64
import json
import os
import pathlib
import random
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from xml.parsers.expat import ExpatError

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import xmltodict  # of Debian's python3-xmltodict, which yq brings
from harness import run, tool


def event(data, number=1, **attributes):
    made = {"specversion": "1.0", "id": str(number), "source": "/test", "type": "bsu.reading", "datacontenttype": "application/xml"}
    return {**made, **({} if data is None else {"data": data}), **attributes}


def filter_events(events, *options):
    """The records that came out, and the reason of each rejection by its line."""
    with tempfile.TemporaryDirectory() as folder:
        letters = pathlib.Path(folder) / "letters"
        lines = "".join((e if isinstance(e, str) else json.dumps(e)) + "\n" for e in events)
        done = run([tool("xml2json"), "--dead-letters", str(letters), *options], stdin=lines, timeout=600)
        rejected = {}
        if letters.exists():
            for line in letters.read_text().split("\n")[:-1]:  # not splitlines(): U+2028 ends no line
                letter = json.loads(line)
                rejected[letter["line"]] = letter["reason"]
    assert done.exit == (1 if rejected else 0), (done.exit, done.stderr)
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]], rejected


def convert(xml, *options):
    """The data that one document becomes, or the reason why it is rejected."""
    records, rejected = filter_events([event(xml)], *options)
    return records[0]["data"] if records else rejected[1]


def expected(xml):
    """What xmltodict makes of it; None where expat says that it is not well-formed."""
    try:
        return json.loads(json.dumps(xmltodict.parse(xml)))
    except ExpatError:
        return None


class Convention(unittest.TestCase):
    def same(self, xml, json_text):
        self.assertEqual(convert(xml), json.loads(json_text), xml)
        self.assertEqual(expected(xml), json.loads(json_text), xml)

    def test_attributes_text_and_arrays_are_as_in_xmltodict(self):
        self.same("<a/>", '{"a":null}')
        self.same("<a></a>", '{"a":null}')
        self.same("<a> \n\t </a>", '{"a":null}')
        self.same("<a> b  c </a>", '{"a":"b  c"}')
        self.same("<a x='1'/>", '{"a":{"@x":"1"}}')
        self.same("<a x='1'> t </a>", '{"a":{"@x":"1","#text":"t"}}')
        self.same("<a x=''>0</a>", '{"a":{"@x":"","#text":"0"}}')
        self.same("<a><b>1</b><c/><b x='2'/><b>3</b></a>", '{"a":{"b":["1",{"@x":"2"},"3"],"c":null}}')
        self.same("<a><b/><b/></a>", '{"a":{"b":[null,null]}}')
        self.same("<a>x<b>1</b> y <c/>\n</a>", '{"a":{"b":"1","c":null,"#text":"x y"}}')
        self.same("<a>  <b/>x  <b/>  </a>", '{"a":{"b":[null,null],"#text":"x"}}')
        self.same("<a><a><a>1</a></a><a>2</a></a>", '{"a":{"a":[{"a":"1"},"2"]}}')

    def test_order_of_members_is_attributes_then_elements_then_text(self):
        out = run([tool("xml2json"), "--raw"], stdin="<a y='1' x='2'>t<c/><b/><c/></a>").stdout
        self.assertEqual(out, '{"a":{"@y":"1","@x":"2","c":[null,null],"b":null,"#text":"t"}}\n')

    def test_cdata_comments_and_instructions_cut_no_text(self):
        self.same("<a>x<!-- no -->y<?p q?>z<![CDATA[<&>]]>]]</a>", '{"a":"xyz<&>]]"}')
        self.same("<a><![CDATA[  ]]></a>", '{"a":null}')
        self.same("<a><![CDATA[]]]]><![CDATA[>]]></a>", '{"a":"]]>"}')

    def test_references_white_space_and_line_ends_are_resolved(self):
        self.same("<a b='&lt;&#65;&#x10FFFF;&quot;\\&#10;\t\r\nx'>&amp;&#9;&apos;\"\\\r\n.\r.</a>",
                  r'{"a":{"@b":"<A\udbff\udfff\"\\\n  x","#text":"&\t' + r"'\"\\\n.\n." + '"}}')
        self.same("<a>\u00a0\u2003x\u3000\u0085</a>", '{"a":"x"}')
        self.same("<a>&#160; &#13;&#10;</a>", '{"a":null}')
        self.same("<ä:ö é='\U0001f600'>\ud7ff\ue000\ufffd\x7f</ä:ö>", '{"ä:ö":{"@é":"😀","#text":"\ud7ff\ue000\ufffd\x7f"}}')

    def test_a_plain_doctype_passes(self):
        self.same('<?xml version="1.0"?><!DOCTYPE a><a/>', '{"a":null}')
        self.same('<!DOCTYPE a SYSTEM "file:///etc/passwd" [<!-- ]> --> ]><a>1</a>', '{"a":"1"}')
        self.same("<!DOCTYPE html PUBLIC '-//W3C//DTD' \"http://127.0.0.1:1/\"><html/>", '{"html":null}')

    def test_namespaces_are_kept_or_stripped(self):
        xml = "<p:a xmlns:p='u' xmlns='v' p:x='1' x='2'><q:b/><b p:y='3'/></p:a>"
        self.same(xml, '{"p:a":{"@xmlns:p":"u","@xmlns":"v","@p:x":"1","@x":"2","q:b":null,"b":{"@p:y":"3"}}}')
        self.assertEqual(convert("<p:a xmlns:p='u' p:x='1'><q:b/><b p:y='3'/></p:a>", "--strip-ns"), {"a": {"@x": "1", "b": [None, {"@y": "3"}]}})
        self.assertEqual(convert("<a x='1' p:x='2' q:x='3' xmlns='u'/>", "--strip-ns"), {"a": {"@x": "1", "@p:x": "2", "@q:x": "3"}})


class Shape(unittest.TestCase):
    def test_infer_takes_the_quotes_off_json_numbers_as_written(self):
        xml = "<a b='1.50' c='007'><d>-0.10e5</d><e>+1</e><f>true</f><g>True</g><h>12345678901234567890</h><i>1.</i><j/>0</a>"
        out = run([tool("xml2json"), "--raw", "--infer"], stdin=xml).stdout
        self.assertEqual(out, '{"a":{"@b":1.50,"@c":"007","d":-0.10e5,"e":"+1","f":true,"g":"True","h":12345678901234567890,"i":"1.","j":null,"#text":0}}\n')

    def test_types_and_arrays_are_declared_by_path(self):
        options = ("--type", "/a/n=int", "--type", "/a/n/@u=bool", "--type", "/a/x=float", "--array", "/a/n", "--array", "/a/e")
        xml = "<a><n u='1'>+007</n><x>.50</x><x>5.</x><x>-1e3</x><x/><e/><y><n>7</n></y></a>"
        out = run([tool("xml2json"), "--raw", *options], stdin=xml).stdout
        self.assertEqual(out, '{"a":{"n":[{"@u":true,"#text":7}],"x":[0.50,5,-1e3,null],"e":[null],"y":{"n":"7"}}}\n')
        self.assertEqual(convert("<a><n>1.5</n></a>", *options), "/a/n: '1.5' is no int")
        self.assertEqual(convert("<a><n u='x'/></a>", *options), "/a/n: 'x' is no bool")
        self.assertEqual(convert("<a><x>NaN</x></a>", *options), "/a/x: 'NaN' is no float")
        self.assertEqual(convert("<a>7</a>", "--type", "/a/#text=int"), {"a": "7"})
        self.assertEqual(convert("<a b=''>7</a>", "--type", "/a/#text=int"), {"a": {"@b": "", "#text": 7}})

    def test_time_and_subject_come_from_the_payload_or_reject(self):
        xml = "<bsu id='7 \"x'><t>2018-07-01T13:00:00.5+02:00</t><m n='1'/><m n='2'/></bsu>"
        (record,), _ = filter_events([event(xml, time="1999-01-01T00:00:00Z")], "--time", "/bsu/t", "--subject", "/bsu/@id")
        self.assertEqual((record["time"], record["subject"]), ("2018-07-01T11:00:00.5Z", '7 "x'))
        (record,), _ = filter_events([event(xml)], "--subject", "/bsu/m/1/@n")
        self.assertEqual(record["subject"], "2")
        for path in ("/bsu/x", "/bsu/m", "/bsu/m/2/@n", "/bsu", "/x/t", "/bsu/t/#text", "/bsu/t/y", "/bsu/@time"):
            self.assertIn("names nothing here", convert(xml, "--time", path), path)
        self.assertIn("is not of the --time-format", convert("<a>now</a>", "--time", "/a"))
        self.assertIn("is not of the --time-format", convert(xml, "--time", "/bsu/t", "--time-format", "unix"))
        (record,), _ = filter_events([event("<a><t z='x'>1530403200001</t></a>")], "--time", "/a/t/#text", "--time-format", "unixms")
        self.assertEqual(record["time"], "2018-07-01T00:00:00.001Z")

    def test_each_makes_records_with_lasting_ids(self):
        xml = "<fleet><x><bsu>no</bsu></x><bsu id='1'><bsu/></bsu> <bsu>t</bsu>\n<bsu/></fleet>"
        for _ in range(2):
            records, _ = filter_events([event(xml, "e")], "--each", "/fleet/bsu")
            self.assertEqual([r["id"] for r in records], ["e/1", "e/2", "e/3"])
            self.assertEqual([r["data"] for r in records], [{"bsu": {"@id": "1", "bsu": None}}, {"bsu": "t"}, {"bsu": None}])
        self.assertEqual(filter_events([event("<fleet/>")], "--each", "/fleet/bsu"), ([], {}))
        self.assertIn("there is no /fleet/bsu", convert("<other/>", "--each", "/fleet/bsu"))
        self.assertIn("line 1, column 34", convert("<fleet><bsu>1</bsu><bsu>2</bsu></x>", "--each", "/fleet/bsu"))

    def test_wrong_usage_is_told_before_anything_is_read(self):
        for options in (["--type", "/a=text"], ["--type", "/a"], ["--array", "a"], ["--each", "/a//b"], ["--time", "t"],
                        ["--time-format", "%Q"], ["--subject", "/a~2"], ["--jobs", "x"]):
            done = run([tool("xml2json"), *options])
            self.assertEqual((done.exit, done.stdout), (2, ""), options)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)


class Events(unittest.TestCase):
    def test_only_the_data_changes(self):
        line = ('{"specversion":"1.0", "id":"7", "x":1.50, "datacontenttype":"text/xml; charset=latin1", '
                '"data":"<?xml version=\'1.0\' encoding=\'latin1\'?>\\n<a>\\u00e4\\ud83d\\ude00\\/</a>", "y" : [ 1 ]}')
        out = run([tool("xml2json")], stdin=line + "\n").stdout
        self.assertEqual(out, '{"specversion":"1.0", "id":"7", "x":1.50,"datacontenttype":"application/json",'
                              '"data":{"a":"ä😀/"},"y" : [ 1 ]}\n')

    def test_bytes_count_in_their_own_encoding(self):
        text = "<?xml version='1.0' encoding='{}'?><a>\u00e4\u00df</a>"
        for name in ("utf-8", "iso-8859-1", "latin1", "windows-1252", "iso-8859-15", "utf-16", "cp437"):
            data = text.format(name).encode(name)
            (record,), _ = filter_events([event(None, data_base64=base64.b64encode(data).decode())])
            self.assertEqual(record["data"], {"a": "\u00e4\u00df"}, name)
            self.assertNotIn("data_base64", record)
        for codec in ("utf-8-sig", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
            data = "<a b='\u00e4'>\U0001f600</a>".encode(codec)
            (record,), _ = filter_events([event(None, data_base64=base64.b64encode(data).decode())])
            self.assertEqual(record["data"], {"a": {"@b": "\u00e4", "#text": "\U0001f600"}}, codec)

    def test_bytes_of_no_encoding_are_rejected(self):
        for data, reason in ((b"<a>\xff</a>", "not UTF-8"), (b"<a>\xc3</a>", "not UTF-8"), (b"<a>\xed\xa0\x80</a>", "not UTF-8"), (b"<a>\xc3", "not UTF-8"),
                             (b"<?xml version='1.0' encoding='klingon'?><a/>", "klingon"), (b"<?xml version='1.0' encoding='utf-16'?><a/>", "its bytes are not"),
                             (b"<?xml version='1.0' encoding='us-ascii'?><a>\xe4</a>", "not us-ascii"), ("<a/>".encode("utf-16") + b"x", "not UTF-16")):
            _, rejected = filter_events([event(None, data_base64=base64.b64encode(data).decode())])
            self.assertIn(reason, rejected[1], data)
        self.assertIn("no base64", filter_events([event(None, data_base64="x")])[1][1])

    def test_deletions_and_json_pass_and_the_rest_is_rejected(self):
        passing = [event(None, type="x.deleted"), event({"reason": "timeout"}, datacontenttype="application/json")]
        self.assertEqual(filter_events(passing), (passing, {}))
        _, rejected = filter_events([event(None), event(None, dataref="http://127.0.0.1/x"), event({"a": 1}), {"a": 1}, event(""), event("   ")])
        self.assertEqual(sorted(rejected), [1, 2, 3, 4, 5, 6])
        self.assertIn("hydrate", rejected[2])
        self.assertIn("there is no element", rejected[5])

    def test_malformed_xml_is_rejected_with_line_and_column(self):
        for xml, place in (("<a>", "line 1, column 4"), ("<a>\n<b></a>", "line 2, column 6"), ("<a>\r\n\r &x;</a>", "line 3, column 2"),
                           ("<ä x='1' x='2'/>", "line 1, column 10"), ("<a/>\n<b/>", "line 2, column 1"), ("<a/>x", "line 1, column 5"),
                           ("<a>\x01</a>", "line 1, column 4"), ("<a>]]></a>", "line 1, column 4"), ("<a><!-- -- --></a>", "line 1, column 11"),
                           (" <?xml version='1.0'?><a/>", "line 1, column 2"), ("<a b='<'/>", "line 1, column 7"), ("x", "line 1, column 1")):
            self.assertIn(place, str(convert(xml)), xml)
            self.assertIsNone(expected(xml), xml)

    def test_an_entity_bomb_costs_nothing(self):
        bomb = "<!DOCTYPE a [<!ENTITY a0 'ha'>" + "".join(f"<!ENTITY a{i} '{f'&a{i - 1};' * 10}'>" for i in range(1, 12)) + "]><a>&a11;</a>"
        self.assertEqual(convert(bomb), "line 1, column 14: the DOCTYPE declares an entity: none is expanded here")
        self.assertIn("declares an entity", convert("<!DOCTYPE a [<!ENTITY % x SYSTEM 'file:///etc/passwd'>%x;]><a/>"))
        self.assertIn("no DTD is read", convert("<!DOCTYPE a SYSTEM 'http://127.0.0.1:1/'><a>&nbsp;</a>"))

    def test_depth_and_attributes_are_capped(self):
        self.assertNotIsInstance(convert("<a>" * 400 + "</a>" * 400), str)
        self.assertIn("inside each other", convert("<a>" * 401 + "</a>" * 401))
        self.assertIn("inside each other", convert("<a>" * 1_000_000))
        self.assertEqual(len(convert("<a " + " ".join(f"x{i}=''" for i in range(1024)) + "/>")["a"]), 1024)
        self.assertIn("too many attributes", convert("<a " + " ".join(f"x{i}=''" for i in range(1025)) + "/>"))

    def test_wide_and_mixed_documents_are_not_quadratic(self):
        names = "".join(f"<n{i}/>" for i in range(50_000))
        self.assertEqual(len(convert(f"<a>{names}{names}</a>")["a"]), 50_000)
        self.assertEqual(convert("<a>" + "x<b/>" * 200_000 + "</a>")["a"]["#text"], "x" * 200_000)


class Raw(unittest.TestCase):
    def test_files_become_bare_records_and_a_bad_one_stops_no_other(self):
        with tempfile.TemporaryDirectory() as folder:
            files = [os.path.join(folder, name) for name in ("good.xml", "bad.xml", "also.xml")]
            for name, text in zip(files, ("<a>1</a>", "<a>\n<b></a>", "<?xml version='1.0' encoding='iso-8859-1'?><a>\xe4</a>")):
                pathlib.Path(name).write_bytes(text.encode("latin1"))
            done = run([tool("xml2json"), *files])
            self.assertEqual((done.exit, done.stdout), (1, '{"a":"1"}\n{"a":"ä"}\n'))
            self.assertEqual(done.stderr, f"xml2json: {files[1]}: line 2, column 6: the end tag of <b> was expected here\n")
            missing = run([tool("xml2json"), os.path.join(folder, "none.xml")])
            self.assertEqual(missing.exit, 2)

    def test_each_gives_one_record_per_element_with_its_time_and_subject(self):
        xml = "<f xmlns:x='u'><bsu id='1' t='5'/><bsu id='2' t='x'/><bsu id='3' t='6'>ö</bsu></f>"
        done = run([tool("xml2json"), "--raw", "--each", "/f/bsu", "--time", "/bsu/@t", "--time-format", "unix", "--subject", "/bsu/@id"], stdin=xml)
        self.assertEqual(done.stdout, '{"bsu":{"@id":"1","@t":"5"},"time":"1970-01-01T00:00:05Z","subject":"1"}\n'
                                      '{"bsu":{"@id":"3","@t":"6","#text":"ö"},"time":"1970-01-01T00:00:06Z","subject":"3"}\n')
        self.assertEqual(done.exit, 1)
        self.assertIn("the record at line 1", done.stderr)

    def test_a_large_file_takes_little_memory_and_loses_nothing_at_the_seams(self):
        # Pieces of every length, so that each kind of token is cut by the end of a buffer somewhere.
        def unit(i):
            return (f"<!-- {'c' * (i % 7)} -->\r\n<bsu id='{i}' n=\"&#228;&quot;\"><![CDATA[<{'d' * (i % 11)}]]> &amp;é\r\n{'x' * (i % 97)}"
                    f"<m k='ö'/><m>]{i}]</m></bsu>skipped &lt; <other a='1'>{'y' * (i % 13)}</other><?p {i}?>")
        with tempfile.TemporaryDirectory() as folder:
            name = os.path.join(folder, "large.xml")
            with open(name, "w", encoding="utf-8", newline="") as file:
                file.write("<?xml version='1.0'?><!DOCTYPE f><f>")
                for i in range(150_000):
                    file.write(unit(i))
                file.write("</f>\n")
            self.assertGreater(os.path.getsize(name), 25_000_000)
            limited = ["bash", "-c", 'ulimit -v 65536; exec "$@"', "bash", tool("xml2json"), "--each", "/f/bsu", name]
            done = run(limited, timeout=600)
            self.assertEqual((done.exit, done.stderr), (0, ""))
            lines = done.stdout.split("\n")[:-1]
            self.assertEqual(len(lines), 150_000)
            for i, line in enumerate(lines):
                self.assertEqual(json.loads(line), {"bsu": {"@id": str(i), "@n": 'ä"', "m": [{"@k": "ö"}, f"]{i}]"],
                                                            "#text": f"<{'d' * (i % 11)} &é\n{'x' * (i % 97)}".strip()}})

    def test_a_document_read_byte_by_byte_is_the_same(self):
        xml = "<?xml version='1.0' encoding='UTF-8'?><!DOCTYPE a PUBLIC 'p' \"s\"><a é='&#xe4;\r\n'>\r\nö&amp;<![CDATA[]]]]>]]<!-- c --><?p i?> <b/>\r</a>"
        slow = run(["bash", "-c", '(while IFS= read -r -n1 -d "" c; do printf %s "$c"; done) | "$0" --raw', tool("xml2json")], stdin=xml)
        self.assertEqual((slow.exit, json.loads(slow.stdout)), (0, expected(xml)))


class Independent(unittest.TestCase):
    def test_real_files_become_what_xmltodict_makes_of_them(self):
        same = []
        files = sorted(f for f in pathlib.Path("/usr/share").rglob("*") if f.suffix in (".xml", ".svg", ".xsl", ".xsd", ".rng") and f.is_file())
        events, wanted = [], []
        for file in files:
            data = file.read_bytes() if file.stat().st_size < 500_000 and len(wanted) < 1000 else b"<!DOCTYPE"
            if b"<!DOCTYPE" in data:  # xmltodict applies what a DTD declares; see man/xml2json.1
                continue
            try:
                wanted.append((file, xmltodict.parse(data)))
            except (ExpatError, ValueError, LookupError):
                wanted.append((file, None))
            events.append(event(None, len(wanted), data_base64=base64.b64encode(data).decode()))
        records, rejected = filter_events(events, "--max-record", "64MiB")
        made = {int(r["id"]): r["data"] for r in records}
        for number, (file, want) in enumerate(wanted, 1):
            self.assertEqual(made.get(number), None if want is None else json.loads(json.dumps(want)), f"{file}: {rejected.get(number)}")
            same += [file] if want is not None else []
        self.assertGreaterEqual(len(same), 100, "too few XML files under /usr/share: scripts/setup installs shared-mime-info for this test")

    def test_generated_trees_become_what_python_says_they_are(self):
        chance = random.Random(7)

        def tree(depth):
            element = ElementTree.Element(chance.choice(["a", "b", "ä", "long-name_1.x"]))
            for key in chance.sample(["x", "y", "é"], chance.randrange(3)):
                element.set(key, "".join(chance.choices("a<&\"' \t\n\\ö😀", k=chance.randrange(6))))
            children = [tree(depth - 1) for _ in range(chance.randrange(5) if depth else 0)]
            element.extend(children)
            for piece in [element, *children]:
                text = "".join(chance.choices("ab<>&\"' \t\n\\ö😀\u00a0]", k=chance.randrange(8)))
                setattr(piece, "text" if piece is element else "tail", text)
            return element

        def data(element):
            made = {"@" + key: value for key, value in element.attrib.items()}
            for child in element:
                made.setdefault(child.tag, []).append(data(child))
            made = {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in made.items()}
            text = ((element.text or "") + "".join(child.tail or "" for child in element)).strip()
            if text and made:
                made["#text"] = text
            return made or text or None

        trees = [tree(4) for _ in range(2000)]
        records, rejected = filter_events([event(ElementTree.tostring(t, encoding="unicode"), i) for i, t in enumerate(trees)], "--jobs", "2")
        self.assertEqual(rejected, {})
        for made, t in zip(records, trees):
            self.assertEqual(made["data"], {t.tag: data(t)})

    def test_mutated_documents_are_accepted_and_rejected_as_by_expat(self):
        chance = random.Random(3)
        bases = ["<?xml version='1.0' encoding='UTF-8' standalone='yes'?>\n<!-- c --><?pi d?><a b='1' c:d=\"2&#10;&lt;\"> t &amp; <e/>x<![CDATA[ < ]]>y"
                 "<e f='1'>z</e>\r\n<g xmlns='u'>&#x41;&quot;</g>\u00a0</a>\n<!-- e -->\n",
                 "<bsu id='7'><power u='kW'>1.5</power><m n='1'/><m n='2'>x</m></bsu>", "<ä é='ü'>ö<b>\u2003</b></ä>"]
        pieces = ["<", ">", "&", "'", '"', "/", "]]>", "--", "<!--", "-->", "<?", "?>", "<![CDATA[", "&#", "&amp;", "&#x;", "&#0;", "&#xFFFE;", "&#55296;",
                  "&x;", " ", "\n", "\r", "\t", "\x00", "\x0b", "\ufffe", "\uffff", "\u00a0", "=", "a", "xml", "<?xml ?>", "<?xml version='1.0'?>", "<a>",
                  "</a>", "<b/>", ":", "-", ".", "1", "\u00b7", "\u0300", "\U00010400", "]", " b='2'", " standalone='no'", "&lt", "٣", "<!", "\u2028", "["]
        documents = []
        for _ in range(10_000):
            text = chance.choice(bases)
            for _ in range(chance.choice([1, 1, 1, 2, 3])):
                at = chance.randrange(len(text) + 1)
                until = min(len(text), at + chance.choice([0, 0, 1, 2, 5]))
                text = text[:at] + (chance.choice(pieces) if until == at or chance.random() < 0.5 else "") + text[until:]
            documents.append(text)
        records, rejected = filter_events([event(text, i) for i, text in enumerate(documents)])
        made = {int(r["id"]): r["data"] for r in records}
        for i, text in enumerate(documents):
            self.assertEqual(made.get(i), expected(text), (text, rejected.get(i + 1)))
        self.assertGreater(len(made), 500)
        self.assertGreater(len(rejected), 500)


class Receipts(unittest.TestCase):
    def stage(self, lines, *options):
        """Run as a stage of a source; what it wrote, and what it told on the channel."""
        heard, channel = os.pipe()
        info = os.fstat(channel)
        environment = {**os.environ, "RECEIPTS_FD": f"{channel}:{info.st_dev}:{info.st_ino}:k7"}
        done = run([tool("xml2json"), *options], stdin=lines, env=environment, pass_fds=[channel])
        os.close(channel)
        with open(heard, encoding="utf-8") as file:
            return done, [json.loads(line) for line in file]

    def line(self, position, xml, **attributes):
        return json.dumps({"delivery": f"k7:{position}", **event(xml, **attributes)}) + "\n"

    def test_pieces_are_numbered_and_rejections_and_drops_told(self):
        lines = (self.line(17, "<f><b>1</b><b>2</b><b>3</b></f>") + self.line(18, "<f><b/></f>") + self.line(19, "<f></x>") + self.line(20, "<f/>") +
                 self.line("21/2.", "<f><b/><b/></f>") + self.line(22, None, type="x.deleted"))
        for jobs in ("1", "2"):
            done, told = self.stage(lines, "--each", "/f/b", "--jobs", jobs)
            self.assertEqual((done.exit, done.stderr), (0, ""))
            self.assertEqual([json.loads(line)["delivery"] for line in done.stdout.splitlines()],
                             ["k7:17/1", "k7:17/2", "k7:17/3.", "k7:18", "k7:21/2./1", "k7:21/2./2.", "k7:22"])
            self.assertTrue(all(line.startswith('{"delivery":"') for line in done.stdout.splitlines()))
            by_status = {(t["delivery"], t["status"]) for t in told}
            self.assertEqual(by_status, {("k7:19", "rejected"), ("k7:20", "dropped")})
            reason = next(t["reason"] for t in told if t["status"] == "rejected")
            self.assertEqual(reason, "line 1, column 6: the end tag of <f> was expected here")

    def test_half_a_line_is_neither_processed_nor_rejected(self):
        done, told = self.stage(self.line(1, "<a/>") + self.line(2, "<a/>")[:-1])
        self.assertEqual((done.exit, len(done.stdout.splitlines())), (70, 1))
        self.assertEqual([t for t in told if "delivery" in t], [])
        self.assertEqual(told[-1]["exit"], 70)

    def test_a_stage_that_dropped_the_delivery_is_told(self):
        done, told = self.stage(json.dumps(event("<a/>")) + "\n")
        self.assertEqual((done.exit, done.stdout), (2, ""))
        self.assertIn("drops .delivery", done.stderr)
        self.assertEqual(told[-1]["exit"], 2)

    def test_a_channel_that_was_closed_is_told(self):
        done = run([tool("xml2json")], env={**os.environ, "RECEIPTS_FD": "9:1:1:k7"})
        self.assertEqual(done.exit, 2)
        self.assertIn("not the receipts channel", done.stderr)

    def test_a_reader_that_closes_early_is_no_failure(self):
        lines = self.line(1, "<a>" + "x" * 1000 + "</a>").replace('"delivery": "k7:1", ', "") * 5000
        for jobs in ("1", "2"):
            done = run(["bash", "-c", '"$0" --jobs "$1" | head -n 1 >/dev/null; exit "${PIPESTATUS[0]}"', tool("xml2json"), jobs], stdin=lines)
            self.assertEqual((done.exit, done.stderr), (0, ""), jobs)


if __name__ == "__main__":
    unittest.main()
