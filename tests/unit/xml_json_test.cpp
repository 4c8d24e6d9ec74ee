#include "common/xml_json.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "common/path.h"
#include "common/xml_decoder.h"

using namespace inflight;

namespace {

// The records of a document, each with its line, and in the end what was wrong with it.
std::string records(XmlJson& xml, std::string_view document, std::size_t piece, std::size_t limit = 1 << 20) {
  std::string out;
  auto take = [&] {
    std::string json;
    Status const status = xml.write(json);
    out += fmt::format("{}: {}\n", xml.line(), status.ok() ? json : status.what());
    return Status{};
  };
  std::size_t at = 0;
  auto fill = [&](std::string& text) -> Result<bool> {
    std::size_t size = std::min(piece, document.size() - at);
    while (at + size < document.size() && (static_cast<unsigned char>(document[at + size]) & 0xc0) == 0x80) ++size;
    text.append(document, at, size);
    at += size;
    return at < document.size();
  };
  return out + xml.convert(fill, limit, take).what();
}

XmlJson of_each(std::string each) {
  XmlJson::Options options;
  options.each = std::move(each);
  auto made = XmlJson::make(options);
  REQUIRE(made.ok());
  return std::move(*made);
}

}  // namespace

TEST_CASE("a document is the same in pieces of every size, lines and columns too") {
  std::string const good =
      "<?xml version='1.0' encoding='UTF-8'?>\r\n<!DOCTYPE f PUBLIC '-//x' \"s\" [ <!-- [ -->\r\n ]>\r\n<f "
      "a='&#xe4;\r\n'>\r\n"
      "<!-- c -->\r<b>x\r\n\ry]]<![CDATA[]]]]><![CDATA[>\r\n]]> &amp;\r</b>\r\r\n<?p\r\ni?><b "
      "é='\r\n\"'\r\n>ö\uffe9</b\r\n>\r\n"
      "<c><b/></c><b/></f>\r\n";
  XmlJson xml = of_each("/f/b");
  for (std::string const& document :
       {good, good + "<!-- e -->\r\n<?p?>", good + "\r\n<x>", good.substr(0, good.size() - 8) + "<!--\r\n--->",
        good.substr(0, good.size() - 7) + "\r\n\r\n &x;", "\r\n\r\n" + good}) {
    std::string const whole = records(xml, document, document.size());
    for (std::size_t piece = 1; piece < document.size(); ++piece) CHECK(records(xml, document, piece) == whole);
  }
  CHECK(records(xml, good, 1) ==
        "7: {\"b\":\"x\\n\\ny]]]]>\\n &\"}\n14: {\"b\":{\"@é\":\" \\\"\",\"#text\":\"ö\uffe9\"}}\n18: {\"b\":null}\n");
}

TEST_CASE("what follows a document that was cut short is not influenced by it") {
  XmlJson xml = of_each("");
  std::string const document = "<a><b x='1'>t<c/></b></a>";
  std::string const whole = records(xml, document, 100);
  for (std::size_t size = 0; size < document.size(); ++size) {
    CHECK(records(xml, std::string_view(document).substr(0, size), 3).find("line 1") == 0);
    CHECK(records(xml, document, 100) == whole);
  }
}

TEST_CASE("a record over the limit is rejected, and the next one is there") {
  XmlJson xml = of_each("/f/b");
  std::string const text(3000, 'x');
  for (std::string const& large :
       {"<b>" + text + "</b>", "<b><c>" + text.substr(1500) + "</c><c>" + text.substr(1500) + "</c>t</b>",
        "<b><c a='" + text.substr(500) + "'/><c><b/>" + text + "</c>t<d/></b>"}) {
    CHECK(records(xml, "<f><b>1</b>\n" + large + "\n<b>3</b></f>", 100, 2600) ==
          "1: {\"b\":\"1\"}\n2: a record of more than 2600 bytes of text\n3: {\"b\":\"3\"}\n");
  }
  XmlJson one = of_each("");
  CHECK(records(one, "<f><b>1</b>" + text + "<b/></f>", 100, 2600) == "1: a record of more than 2600 bytes of text\n");
  CHECK(records(one, "<f/>", 100, 2600) == "1: {\"f\":null}\n");
}

TEST_CASE("what is outside of every record costs nothing of the limit") {
  XmlJson xml = of_each("/f/b");
  std::string document = "<f>";
  for (int i = 0; i < 1000; ++i) document += "<c a='0123456789'>0123456789</c>";
  CHECK(records(xml, document + "<b/></f>", 100, 200) == "1: {\"b\":null}\n");
}

TEST_CASE("a record of too many elements is rejected, and the next one is there") {
  XmlJson xml = of_each("/f/b");
  std::string document = "<f><b>";
  for (int i = 0; i < (1 << 18) + 1; ++i) document += "<c/>";
  document += "</b><b/></f>";
  CHECK(records(xml, document, 1 << 16, 16 << 20) == "1: more than 262144 elements in a record\n1: {\"b\":null}\n");
}

TEST_CASE("--each may name the root element") {
  XmlJson xml = of_each("/a");
  CHECK(records(xml, "<a>1</a>", 1) == "1: {\"a\":\"1\"}\n");
  CHECK(records(xml, "<b>1</b>", 1) == "there is no /a, nor what it would be in");
}

TEST_CASE("a token over the limit ends the document with its place") {
  XmlJson xml = of_each("");
  std::string const text(3000, 'x');
  for (std::string const& token : {"<!--" + text + "-->", "<b a='" + text + "'/>", "<![CDATA[" + text + "]]>",
                                   "<?p " + text + "?>", "<" + text + "/>"}) {
    CHECK(records(xml, "<a>\n" + token + "</a>", 100, 1000) ==
          "line 2, column 1: a tag, comment or section of more than 1000 bytes");
  }
}

TEST_CASE("bytes are decoded the same in pieces of every size") {
  std::string const text = "<?xml version='1.0'?><a b='\u00e4'>\U0001f600\uffee</a>";
  auto as = [&](std::size_t width, bool big, bool mark) {
    std::string out;
    auto put = [&](std::uint32_t unit) {
      for (std::size_t i = 0; i < width; ++i) out += static_cast<char>(unit >> 8 * (big ? width - 1 - i : i) & 0xff);
    };
    if (mark) put(0xfeff);
    for (std::size_t i = 0; i < text.size();) {
      auto const c = static_cast<unsigned char>(text[i]);
      std::size_t const length = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
      std::uint32_t code = length == 1 ? c : c & (0xffU >> (length + 1));
      for (std::size_t k = 1; k < length; ++k) code = code << 6 | (static_cast<unsigned char>(text[i + k]) & 0x3fU);
      i += length;
      if (width == 2 && code > 0xffff) {
        put(0xd800 + ((code - 0x10000) >> 10));
        code = 0xdc00 + (code & 0x3ff);
      }
      put(code);
    }
    return out;
  };
  for (std::string const& bytes :
       {text, "\xef\xbb\xbf" + text, as(2, false, false), as(2, false, true), as(2, true, false), as(2, true, true),
        as(4, false, false), as(4, false, true), as(4, true, false), as(4, true, true)}) {
    for (std::size_t piece = 1; piece <= bytes.size(); ++piece) {
      XmlDecoder decoder;
      std::string out;
      for (std::size_t at = 0; at < bytes.size(); at += piece)
        CHECK(decoder.decode(std::string_view(bytes).substr(at, piece), at + piece >= bytes.size(), out).ok());
      CHECK(out == text);
    }
  }
  std::string const latin1 = "<?xml version='1.0' encoding='latin1'?><a>\xe4</a>";
  for (std::size_t piece = 1; piece <= latin1.size(); ++piece) {
    XmlDecoder decoder;
    std::string out;
    for (std::size_t at = 0; at < latin1.size(); at += piece)
      CHECK(decoder.decode(latin1.substr(at, piece), at + piece >= latin1.size(), out).ok());
    CHECK(out == "<?xml version='1.0' encoding='latin1'?><a>\u00e4</a>");
  }
}
