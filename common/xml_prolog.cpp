#include "common/xml_prolog.h"

#include <cstring>

namespace inflight {

namespace {

constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
constexpr std::string_view kPublicId =
    " \r\nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-'()+,./:=?;!*#@$_%";

bool is_version(std::string_view text) {
  return !text.empty() && text.find_first_not_of(kLetters) == std::string_view::npos;
}
bool is_encoding(std::string_view text) {
  return is_version(text) && (text[0] | 0x20) >= 'a' && (text[0] | 0x20) <= 'z';
}

}  // namespace

XmlStep XmlProlog::instruction(bool at_front) {
  in_.at += 2;
  char const* const target = in_.at;
  while (of(kXmlName, *in_.at) != 0) ++in_.at;
  if (in_.at == in_.end) return XmlStep::more;
  std::string_view const word(target, static_cast<std::size_t>(in_.at - target));
  bool const xml = word.size() == 3 && (word[0] | 0x20) == 'x' && (word[1] | 0x20) == 'm' && (word[2] | 0x20) == 'l';
  if (xml && at_front && word == "xml") return declaration();
  if (xml) return in_.fail_at(in_.token, "an XML declaration that is not at the very beginning");
  if (names_.find(word) == nullptr) return in_.fail_at(target, "a name was expected here");
  if (!is_xml_space(*in_.at) && !in_.starts("?>"))
    return in_.cut("?>") ? XmlStep::more : in_.fail("?> was expected here");
  if (XmlStep const step = in_.find("?>"); step != XmlStep::ok) return step;
  in_.at += 2;
  return XmlStep::ok;
}

// Production 23; at the end of `<?xml`.
XmlStep XmlProlog::declaration() {
  if (!last_declaration_.empty() && in_.starts(last_declaration_)) {
    in_.at += last_declaration_.size();
    return XmlStep::ok;
  }
  char const* const from = in_.at;
  if (XmlStep const step = in_.find("?>"); step != XmlStep::ok) return step;
  char const* const stop = in_.at;
  in_.at = from;
  std::string_view version, encoding, standalone;
  bool good = pseudo_attribute("version", stop, version) && is_version(version);
  if (good && pseudo_attribute("encoding", stop, encoding)) good = is_encoding(encoding);
  if (good && pseudo_attribute("standalone", stop, standalone)) good = standalone == "yes" || standalone == "no";
  in_.space();
  if (!good || in_.at != stop) return in_.fail_at(in_.token, "the XML declaration is not well-formed");
  in_.at = stop + 2;
  last_declaration_.assign(from, in_.at);
  return XmlStep::ok;
}

// Moves over ` key = "value"`, where that stands here.
bool XmlProlog::pseudo_attribute(std::string_view key, char const* stop, std::string_view& value) {
  char const* const before = in_.at;
  if (!in_.space() || !in_.starts(key)) return in_.at = before, false;
  in_.at += key.size();
  in_.space();
  bool const equals = *in_.at == '=';
  in_.at += equals ? 1 : 0;
  in_.space();
  char const quote = *in_.at;
  if (!equals || (quote != '"' && quote != '\'')) return in_.at = before, false;
  ++in_.at;
  auto const* const close =
      static_cast<char const*>(std::memchr(in_.at, quote, static_cast<std::size_t>(stop - in_.at)));
  if (close == nullptr) return in_.at = before, false;
  value = {in_.at, static_cast<std::size_t>(close - in_.at)};
  in_.at = close + 1;
  return true;
}

XmlStep XmlProlog::comment() {
  in_.at += 4;
  if (XmlStep const step = in_.find("--"); step != XmlStep::ok) return step;
  in_.at += 2;
  if (*in_.at != '>') return in_.fail("-- inside of a comment");
  ++in_.at;
  return XmlStep::ok;
}

XmlStep XmlProlog::literal(std::string_view& value) {
  char const quote = *in_.at;
  if (quote != '"' && quote != '\'') return in_.fail("a text in quotes was expected here");
  char const* const from = ++in_.at;
  if (XmlStep const step = in_.find({&quote, 1}); step != XmlStep::ok) return step;
  value = {from, static_cast<std::size_t>(in_.at - from)};
  ++in_.at;
  return XmlStep::ok;
}

XmlStep XmlProlog::doctype() {
  in_.at += 9;
  if (XmlStep const step = white_space(); step != XmlStep::ok) return step;
  XmlName* name = nullptr;
  if (XmlStep const step = names_.read(in_, name); step != XmlStep::ok) return step;
  if (XmlStep const step = external_id(); step != XmlStep::ok) return step;
  in_.space();
  if (*in_.at == '[') {
    if (XmlStep const step = internal_subset(); step != XmlStep::ok) return step;
    in_.space();
  }
  if (*in_.at != '>') return in_.fail("the > of the DOCTYPE was expected here");
  ++in_.at;
  return XmlStep::ok;
}

// Production 75, with the white space in front of it, where it is there.
XmlStep XmlProlog::external_id() {
  bool const spaced = in_.space();
  if (in_.cut("SYSTEM") || in_.cut("PUBLIC")) return XmlStep::more;
  bool const is_public = in_.starts("PUBLIC");
  if (!is_public && !in_.starts("SYSTEM")) return XmlStep::ok;
  if (!spaced) return in_.fail("white space was expected here");
  in_.at += 6;
  if (XmlStep const step = white_space(); step != XmlStep::ok) return step;
  std::string_view value;
  if (is_public) {
    char const* const from = in_.at;
    if (XmlStep const step = literal(value); step != XmlStep::ok) return step;
    if (value.find_first_not_of(kPublicId) != std::string_view::npos) return in_.fail_at(from, "no public identifier");
    if (XmlStep const step = white_space(); step != XmlStep::ok) return step;
  }
  return literal(value);
}

XmlStep XmlProlog::internal_subset() {
  ++in_.at;
  for (in_.space(); *in_.at != ']'; in_.space()) {
    if (in_.cut("<!--") || in_.cut("<!ENTITY") || in_.cut("<?")) return XmlStep::more;
    if (!in_.starts("<!--")) {
      return in_.fail(in_.starts("<!ENTITY") || *in_.at == '%' ? "the DOCTYPE declares an entity: none is expanded here"
                                                               : "the DOCTYPE declares something: no DTD is read");
    }
    if (XmlStep const step = comment(); step != XmlStep::ok) return step;
  }
  ++in_.at;
  return XmlStep::ok;
}

}  // namespace inflight
