#include "common/xml_scanner.h"

#include <fmt/format.h>

#include <algorithm>

namespace inflight {

namespace {

constexpr XmlTable kText = xml_table("<&]\"\\");
constexpr XmlTable kCdata = xml_table("\"\\");
constexpr XmlTable kDoubleQuoted = xml_table("<&\"\\");
constexpr XmlTable kSingleQuoted = xml_table("<&'\"\\");

void append_escaped(std::string& out, std::uint32_t code) {
  if (code == '"' || code == '\\') out += '\\';
  if (code >= 0x20) return append_code(out, code);
  out += code == '\n' ? "\\n" : code == '\t' ? "\\t" : "\\r";
}

}  // namespace

void XmlScanner::begin_document(std::size_t limit) {
  names_.begin_document();
  tree_.begin_document(limit);
  open_.clear();
  begun_ = had_root_ = had_doctype_ = record_done_ = false;
  record_line_ = 1;
  if (in_.starts("\xef\xbb\xbf")) in_.at = in_.token = in_.at + 3;
}

Result<bool> XmlScanner::next() {
  for (;;) {
    XmlStep step = XmlStep::more;
    if (in_.at < in_.end) {
      in_.token = in_.at;
      step = token();
      if (step == XmlStep::bad) return in_.error;
      tree_.check_size();
      if (record_done_) {
        in_.token = in_.at;
        record_done_ = false;
        return true;
      }
      if (step == XmlStep::ok && in_.at < in_.end) continue;
      if (step == XmlStep::ok) in_.token = in_.at;
    } else if (in_.whole) {
      step = XmlStep::ok;
    }
    if (in_.whole) {
      Status const status = at_end(step);
      return status.ok() ? Result<bool>(false) : status;
    }
    if (Status status = in_.refill(); !status.ok()) return status;
  }
}

Status XmlScanner::at_end(XmlStep step) {
  if (!open_.empty()) {
    (void)in_.fail_at(in_.end, fmt::format("the document ends inside of <{}>", open_.back()->text));
  } else if (step == XmlStep::more) {
    (void)in_.fail_at(in_.end, "the document ends too early");
  } else if (!had_root_) {
    (void)in_.fail_at(in_.end, "there is no element");
  }
  return in_.error;
}

XmlStep XmlScanner::token() {
  if (*in_.at == '<') {
    XmlStep const step = markup();
    begun_ = begun_ || step == XmlStep::ok;
    return step;
  }
  begun_ = true;
  return open_.empty() ? space_outside() : text();
}

XmlStep XmlScanner::markup() {
  if (in_.at + 1 == in_.end) return XmlStep::more;
  switch (in_.at[1]) {
    case '/':
      return end_tag();
    case '?':
      return prolog_.instruction(!begun_);
    case '!':
      if (in_.cut("<!--") || in_.cut("<![CDATA[") || in_.cut("<!DOCTYPE")) return XmlStep::more;
      if (in_.starts("<!--")) return prolog_.comment();
      if (in_.starts("<![CDATA[")) return cdata();
      if (in_.starts("<!DOCTYPE")) {
        if (had_doctype_ || had_root_) return in_.fail_at(in_.token, "a DOCTYPE that is not before the root element");
        XmlStep const step = prolog_.doctype();
        had_doctype_ = step == XmlStep::ok;
        return step;
      }
      return in_.at + 2 == in_.end ? XmlStep::more : in_.fail_at(in_.at, "<! that begins nothing known");
    default:
      return start_tag();
  }
}

// Tags.

XmlStep XmlScanner::start_tag() {
  ++in_.at;
  if (open_.empty() && had_root_) return in_.fail_at(in_.token, "a second root element");
  XmlName* name = nullptr;
  if (XmlStep const step = names_.read(in_, name); step != XmlStep::ok) return step;
  XmlTree::Tag const tag = tree_.begin_tag(*name, names_.new_mark());
  bool is_empty = false;
  if (XmlStep const step = attributes(tag, is_empty); step != XmlStep::ok) return tree_.undo(tag), step;
  if (open_.size() == kMaxDepth)
    return in_.fail_at(in_.token, fmt::format("more than {} elements inside each other", kMaxDepth));
  bool const was_kept = tree_.keeps();
  tree_.open(tag, *name);
  if (tag.is_kept && !was_kept && in_.in_pieces()) record_line_ = in_.token_line();
  had_root_ = true;
  open_.push_back(name);
  if (is_empty) close();
  return XmlStep::ok;
}

// Up to the end of the tag.
XmlStep XmlScanner::attributes(XmlTree::Tag const& tag, bool& is_empty) {
  for (;;) {
    bool const spaced = in_.space();
    if (*in_.at == '>') return ++in_.at, XmlStep::ok;
    if (*in_.at == '/') {
      if (in_.at + 1 == in_.end) return XmlStep::more;
      if (in_.at[1] != '>') return in_.fail("a > was expected behind /");
      in_.at += 2;
      is_empty = true;
      return XmlStep::ok;
    }
    if (!spaced) return in_.fail("white space or the end of the tag was expected here");
    char const* const place = in_.at;
    XmlTree::Attribute attribute;
    if (XmlStep const step = names_.read(in_, attribute.name); step != XmlStep::ok) return step;
    in_.space();
    if (*in_.at != '=') return in_.fail("a = was expected behind the attribute's name");
    ++in_.at;
    in_.space();
    if (XmlStep const step = attribute_value(attribute.begin, attribute.end); step != XmlStep::ok) return step;
    if (attribute.name->attribute_mark == tag.mark)
      return in_.fail_at(place, fmt::format("the attribute {} stands there twice", attribute.name->text));
    attribute.name->attribute_mark = tag.mark;
    if (tree_.attributes_of(tag) == kMaxAttributes) return in_.fail_at(place, "too many attributes");
    tree_.add_attribute(tag, attribute);
  }
}

// AttValue, production 10, normalized as in section 3.3.3.
XmlStep XmlScanner::attribute_value(std::uint32_t& begin, std::uint32_t& end) {
  std::string& out = tree_.escaped();
  char const quote = *in_.at;
  if (quote != '"' && quote != '\'') return in_.fail("a value in quotes was expected here");
  XmlTable const& special = quote == '"' ? kDoubleQuoted : kSingleQuoted;
  begin = static_cast<std::uint32_t>(out.size());
  char const* at = in_.at + 1;
  for (char const* run = at;;) {
    while (of(special, *at) == 0) ++at;
    in_.at = at;
    if (static_cast<unsigned char>(*at) == 0xef) {
      if (XmlStep const step = in_.check_character(); step != XmlStep::ok) return step;
      at = in_.at;
      continue;
    }
    out.append(run, static_cast<std::size_t>(at - run));
    if (*at == quote) break;
    switch (*at) {
      case '&': {
        std::uint32_t code = 0;
        if (XmlStep const step = reference(code); step != XmlStep::ok) return step;
        append_escaped(out, code);
        break;
      }
      case '\r':
        if (in_.cut("\r\n")) return XmlStep::more;
        out += ' ';
        in_.at += in_.starts("\r\n") ? 2 : 1;
        break;
      case '\n':
      case '\t':
        out += ' ';
        ++in_.at;
        break;
      case '"':
      case '\\':
        out += '\\', out += *at;
        ++in_.at;
        break;
      case '<':
        return in_.fail("a < in an attribute");
      default:
        return in_.ended();
    }
    run = at = in_.at;
  }
  ++in_.at;
  end = static_cast<std::uint32_t>(out.size());
  return XmlStep::ok;
}

XmlStep XmlScanner::end_tag() {
  in_.at += 2;
  if (open_.empty()) return in_.fail_at(in_.token, "an end tag without a start tag");
  std::string const& name = open_.back()->text;
  if (static_cast<std::size_t>(in_.end - in_.at) <= name.size() && !in_.whole) return XmlStep::more;
  if (!in_.starts(name) || of(kXmlName, in_.at[name.size()]) != 0)
    return in_.fail(fmt::format("the end tag of <{}> was expected here", name));
  in_.at += name.size();
  in_.space();
  if (*in_.at != '>') return in_.fail("a > was expected here");
  ++in_.at;
  close();
  return XmlStep::ok;
}

void XmlScanner::close() {
  open_.pop_back();
  record_done_ = tree_.close(names_.new_mark());
}

// Character data.

// `&…;`. Where it is one of ours, `code` is its character.
XmlStep XmlScanner::reference(std::uint32_t& code) {
  char const* const from = in_.at++;
  auto wrong = [&](std::string_view what) {
    if (in_.at == in_.end && !in_.whole) return in_.at = from, XmlStep::more;
    return in_.fail_at(from, what);
  };
  if (*in_.at == '#') {
    ++in_.at;
    bool const hex = *in_.at == 'x';
    in_.at += hex ? 1 : 0;
    char const* const digits = in_.at;
    code = 0;
    for (;; ++in_.at) {
      char const c = *in_.at;
      unsigned digit = 16;
      if (c >= '0' && c <= '9') digit = static_cast<unsigned>(c - '0');
      if (hex && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')))
        digit = static_cast<unsigned>((c | 0x20) - 'a') + 10;
      if (digit == 16) break;
      code = std::min(code * (hex ? 16 : 10) + digit, 0x110000U);
    }
    if (*in_.at != ';' || in_.at == digits) return wrong("a & that begins no reference");
    if (!is_xml_char(code)) return in_.fail_at(from, "a reference to a character that is not allowed in XML");
    ++in_.at;
    return XmlStep::ok;
  }
  char const* const begin = in_.at;
  while (of(kXmlName, *in_.at) != 0) ++in_.at;
  std::string_view const entity(begin, static_cast<std::size_t>(in_.at - begin));
  if (*in_.at != ';' || entity.empty()) return wrong("a & that begins no reference");
  ++in_.at;
  code = entity == "lt"     ? '<'
         : entity == "gt"   ? '>'
         : entity == "amp"  ? '&'
         : entity == "quot" ? '"'
         : entity == "apos" ? '\''
                            : 0;
  return code != 0 ? XmlStep::ok
                   : in_.fail_at(from, fmt::format("the entity &{:.40}; is not known: no DTD is read", entity));
}

XmlStep XmlScanner::space_outside() {
  in_.space();
  in_.token = in_.at;
  if (*in_.at == '<' || in_.at == in_.end) return XmlStep::ok;
  return in_.fail_at(in_.at, had_root_ ? "text behind the root element" : "text before the root element");
}

// Up to the next markup or the end of the text. What has been added is done with, so that no text is too long.
XmlStep XmlScanner::text() {
  if (tree_.has_no_text()) in_.space();
  char const* at = in_.at;
  for (char const* run = at;;) {
    while (of(kText, *at) == 0) ++at;
    in_.at = at;
    if (static_cast<unsigned char>(*at) == 0xef) {
      if (XmlStep const step = in_.check_character(); step != XmlStep::ok) return step;
      at = in_.at;
      continue;
    }
    if (at > run) tree_.add_plain({run, static_cast<std::size_t>(at - run)});
    in_.token = at;
    switch (*at) {
      case '<':
        return XmlStep::ok;
      case '&': {
        std::uint32_t code = 0;
        if (XmlStep const step = reference(code); step != XmlStep::ok) return step;
        add_code(code);
        break;
      }
      case ']':
        if (in_.cut("]]>")) return XmlStep::more;
        if (in_.starts("]]>")) return in_.fail("]]> outside of a CDATA section");
        tree_.add_plain("]");
        ++in_.at;
        break;
      case '\r':
        if (in_.cut("\r\n")) return XmlStep::more;
        tree_.add_escape('\n');
        in_.at += in_.starts("\r\n") ? 2 : 1;
        break;
      case '\n':
      case '\t':
      case '"':
      case '\\':
        tree_.add_escape(*at);
        ++in_.at;
        break;
      default:
        return at == in_.end ? XmlStep::ok : in_.ended();
    }
    run = at = in_.token = in_.at;
  }
}

void XmlScanner::add_code(std::uint32_t code) {
  if (code == '"' || code == '\\' || code < 0x20) return tree_.add_escape(static_cast<char>(code));
  character_.clear();
  append_code(character_, code);
  tree_.add_plain(character_);
}

XmlStep XmlScanner::cdata() {
  in_.at += 9;
  if (open_.empty()) return in_.fail_at(in_.token, "text outside of the root element");
  char const* run = in_.at;
  if (XmlStep const step = in_.find("]]>"); step != XmlStep::ok) return step;
  char const* const stop = in_.at;
  for (char const* at = run; at < stop;) {
    if (of(kCdata, *at) == 0 || static_cast<unsigned char>(*at) == 0xef) {
      ++at;
      continue;
    }
    tree_.add_plain({run, static_cast<std::size_t>(at - run)});
    bool const pair = *at == '\r' && at[1] == '\n';
    tree_.add_escape(*at == '\r' ? '\n' : *at);
    run = at += pair ? 2 : 1;
  }
  tree_.add_plain({run, static_cast<std::size_t>(stop - run)});
  in_.at = stop + 3;
  return XmlStep::ok;
}

}  // namespace inflight
