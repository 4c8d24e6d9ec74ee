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


if __name__ == "__main__":
    unittest.main()
