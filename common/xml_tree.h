// One record's elements, grouped and trimmed as the convention has it, while the scanner reads them.
//
// A record is the document's element, or each element of a path; what is outside of every record leaves nothing here.
// All texts are held in one string, escaped for JSON as they come in, elements and attributes in one list each: a
// record costs no allocation once there was one of its size.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/xml_names.h"
#include "common/xml_shape.h"

namespace inflight {

class XmlTree {
 public:
  static constexpr std::size_t kMaxElements = 1 << 18;           // of one record
  static constexpr std::size_t kMaxText = std::size_t{1} << 30;  // places in it are 32-bit numbers
  static constexpr std::uint32_t kRoot = 1;                      // the record's element; 0 is none

  struct Attribute {
    XmlName* name = nullptr;
    std::uint32_t begin = 0, end = 0;  // of its value
    bool keeps_prefix = false;         // --strip-ns would have made two of the same name
    XmlType type = XmlType::none;

    [[nodiscard]] std::string_view key() const { return keeps_prefix ? name->key : name->local->key; }
  };
  struct Node {
    XmlName* name = nullptr;  // in JSON
    std::uint32_t first_attribute = 0, attributes = 0;
    std::uint32_t first_child = 0;  // the first of each name, in the order of their first appearance
    std::uint32_t next = 0;         // the next of these
    std::uint32_t next_same = 0;    // the next of the same name
    std::uint32_t first_piece = 0, last_piece = 0;
    XmlShape::Place shape = XmlShape::kNothing;
    bool is_array = false;

    [[nodiscard]] bool is_scalar() const { return attributes == 0 && first_child == 0; }
  };

  // `each`: the names from the document's element to a record's; none: the document's element is the record.
  XmlTree(std::vector<std::string> each, XmlShape const& shape, bool strip_ns)
      : shape_(shape), each_(std::move(each)), strip_ns_(strip_ns) {}

  // For the scanner.

  // A record of more than `limit` bytes of text, at most kMaxText, is given up: nothing more of it is kept, and
  // given_up() says why. One with more than kMaxElements is, too.
  void begin_document(std::size_t limit);
  // To be asked after each token, which are bounded by themselves.
  void check_size() {
    if (escaped_.size() > limit_) give_up_size();
  }
  void clear();  // the record has been taken

  // An element whose start tag is being read; nothing of it is here yet but its attributes.
  struct Tag {
    std::size_t attributes = 0, escaped = 0;  // how much there was before it
    std::uint64_t mark = 0;
    XmlShape::Place shape = XmlShape::kNothing;
    bool is_step = false;  // of `each`
    bool is_kept = false;
  };
  [[nodiscard]] Tag begin_tag(XmlName const& name, std::uint64_t mark) const;
  // Where the values of its attributes are put, escaped.
  [[nodiscard]] std::string& escaped() { return escaped_; }
  void add_attribute(Tag const& tag, Attribute attribute) {
    XmlName& name = *attribute.name;
    if (strip_ns_) {
      if (name.declares_namespace) return;
      attribute.keeps_prefix = name.local->key_mark == tag.mark;
      name.local->key_mark = tag.mark;
    }
    if (tag.shape != XmlShape::kNothing) attribute.type = shape_.type(shape_.below(tag.shape, "@", name.local->text));
    attributes_.push_back(attribute);
  }
  [[nodiscard]] std::size_t attributes_of(Tag const& tag) const { return attributes_.size() - tag.attributes; }
  // The tag was cut off, and will be read anew.
  void undo(Tag const& tag);
  void open(Tag const& tag, XmlName const& name);
  // True: that was the element of a record of `each`.
  [[nodiscard]] bool close(std::uint64_t mark);

  // Text of the open element that JSON takes as it is.
  void add_plain(std::string_view text) {
    if (!keeps()) return;
    if (frames_.back().piece == 0) text = left_trimmed(text);
    if (!text.empty()) add(text, right_trimmed(text).size());
  }
  // A character that JSON escapes: white space, " or a backslash.
  void add_escape(char c);
  [[nodiscard]] bool keeps() const { return !frames_.empty() && frames_.back().node != 0; }
  // White space would be in front of the open element's text, and so be left out.
  [[nodiscard]] bool has_no_text() const { return frames_.back().piece == 0; }

  // For whoever reads the record.

  // Why there is nothing of the record but this; empty where it is here.
  [[nodiscard]] std::string const& given_up() const { return given_up_; }
  [[nodiscard]] Node const& node(std::uint32_t index) const { return nodes_[index]; }
  [[nodiscard]] Attribute const& attribute(std::uint32_t index) const { return attributes_[index]; }
  [[nodiscard]] std::string_view value(Attribute const& attribute) const {
    return std::string_view(escaped_).substr(attribute.begin, attribute.end - attribute.begin);
  }
  // Of a node that has a piece. `scratch` holds it where it is in several.
  [[nodiscard]] std::string_view text(Node const& node, std::string& scratch) const;
  // At least as many bytes as the record has in JSON.
  [[nodiscard]] std::size_t bound() const { return bound_ + escaped_.size(); }
  // The parent of records was there, though perhaps no record.
  [[nodiscard]] bool had_parent() const { return had_parent_; }

 private:
  // A piece of an element's text; children and comments cut it in pieces.
  struct Piece {
    std::uint32_t begin = 0, end = 0, next = 0;
  };
  struct Frame {
    std::uint32_t node = 0;  // 0: outside of every record
    std::uint32_t last_child = 0;
    std::uint32_t piece = 0;        // the last one
    std::uint32_t solid_piece = 0;  // the last one that is not all white space, and where that ends in it
    std::uint32_t solid_end = 0;
  };

  static std::string_view left_trimmed(std::string_view text);
  static std::string_view right_trimmed(std::string_view text);
  void add(std::string_view text, std::size_t solid);
  void group(Node& node, std::uint64_t mark);
  void give_up(std::string why);
  void give_up_size();

  XmlShape const& shape_;
  std::vector<std::string> each_;
  bool strip_ns_;
  std::vector<Node> nodes_;
  std::vector<Attribute> attributes_;
  std::vector<Piece> pieces_;
  std::string escaped_;
  std::vector<Frame> frames_;
  std::size_t record_frame_ = 0;  // of the record's element
  std::size_t limit_ = kMaxText;
  std::string given_up_;
  std::size_t bound_ = 0;
  std::size_t matched_ = 0;  // steps of `each` that are open
  bool had_parent_ = false;
};

}  // namespace inflight
