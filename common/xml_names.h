// The names of elements and attributes: each is checked once and kept from document to document, since the next
// document has the same ones, most often in the same order.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/xml_cursor.h"

namespace inflight {

struct XmlName {
  std::string text;          // as in the XML
  std::string key;           // `"@text":`, a member of JSON
  XmlName* local = nullptr;  // what it is in JSON: itself, or the name without prefix
  bool declares_namespace = false;
  // Of whoever goes through an element's attributes or children: the mark of the element in which it was met last.
  std::uint64_t attribute_mark = 0, key_mark = 0, child_mark = 0;
  std::uint32_t last_child = 0;  // of that name, there
};

class XmlNames {
 public:
  // Bytes of names that one document may have, and that are kept for the next one.
  static constexpr std::size_t kMaxBytes = std::size_t{12} << 20, kKeptBytes = std::size_t{2} << 20;

  explicit XmlNames(bool strip_ns) : strip_ns_(strip_ns) {}

  // No name that was given before is valid any more.
  void begin_document();
  // The next record begins, which may well have the names of the one before.
  void begin_record() { place_ = 0; }
  // The name that stands here (production 5), moved over. One that ends where the text does may go on.
  XmlStep read(XmlCursor& in, XmlName*& name) {
    if (place_ < trail_.size()) {
      XmlName* const likely = trail_[place_];
      std::size_t const size = likely->text.size();
      if (static_cast<std::size_t>(in.end - in.at) > size && std::memcmp(in.at, likely->text.data(), size) == 0 &&
          of(kXmlName, in.at[size]) == 0) {
        in.at += size;
        name = likely;
        ++place_;
        return XmlStep::ok;
      }
    }
    return read_other(in, name);
  }
  // Null: it is no name.
  [[nodiscard]] XmlName* find(std::string_view text);
  // Another one than any before.
  [[nodiscard]] std::uint64_t new_mark() { return ++mark_; }

 private:
  XmlStep read_other(XmlCursor& in, XmlName*& name);
  void follow(XmlName* name);

  bool strip_ns_;
  std::unordered_map<std::string_view, std::unique_ptr<XmlName>> names_;
  std::size_t bytes_ = 0;
  std::vector<XmlName*> trail_;  // the names of the last records, in their order
  std::size_t place_ = 0;        // in it, of the next name
  std::uint64_t mark_ = 0;
};

}  // namespace inflight
