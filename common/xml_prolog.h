// What of an XML document leaves nothing behind: its declaration, a DOCTYPE, processing instructions and comments (XML
// 1.0, productions 11 to 30).
//
// Each function is called where the markup begins, and moves over it.
#pragma once

#include <string>

#include "common/xml_cursor.h"
#include "common/xml_names.h"

namespace inflight {

class XmlProlog {
 public:
  XmlProlog(XmlCursor& in, XmlNames& names) : in_(in), names_(names) {}

  // `<?`. Only at the very front is it the XML declaration. The text is UTF-8 by now: the encoding that it declares has
  // had its effect.
  XmlStep instruction(bool at_front);
  // `<!--`
  XmlStep comment();
  // `<!DOCTYPE`. Nothing of a DTD is read: one that is somewhere else is not fetched, one that stands here must declare
  // nothing.
  XmlStep doctype();

 private:
  XmlStep declaration();
  bool pseudo_attribute(std::string_view key, char const* stop, std::string_view& value);
  XmlStep literal(std::string_view& value);
  XmlStep external_id();
  XmlStep internal_subset();
  XmlStep white_space() { return in_.space() ? XmlStep::ok : in_.fail("white space was expected here"); }

  XmlCursor& in_;
  XmlNames& names_;
  std::string last_declaration_;  // which was good
};

}  // namespace inflight
