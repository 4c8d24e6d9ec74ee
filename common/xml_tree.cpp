#include "common/xml_tree.h"

#include <fmt/format.h>

#include <algorithm>

namespace inflight {

namespace {

// White space beyond ASCII that python's strip(), and so the convention, takes off.
bool is_wide_space(std::uint32_t code) {
  return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
         code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

}  // namespace

std::string_view XmlTree::left_trimmed(std::string_view text) {
  while (!text.empty()) {
    std::size_t length = 1;
    auto const c = static_cast<unsigned char>(text[0]);
    if (c != ' ' && (c < 0xc2 || !is_wide_space(code_at(text.data(), length)))) break;
    text.remove_prefix(length);
  }
  return text;
}

std::string_view XmlTree::right_trimmed(std::string_view text) {
  while (!text.empty()) {
    std::size_t length = 1;
    auto const c = static_cast<unsigned char>(text.back());
    if (c < 0x80) {
      if (c != ' ') break;
    } else {
      char const* front = text.data() + text.size() - 1;
      while ((static_cast<unsigned char>(*front) & 0xc0) == 0x80) --front;
      if (!is_wide_space(code_at(front, length))) break;
    }
    text.remove_suffix(length);
  }
  return text;
}

void XmlTree::begin_document(std::size_t limit) {
  clear();
  limit_ = std::min(limit, kMaxText);
  frames_.clear();
  matched_ = 0;
  had_parent_ = false;
}

void XmlTree::clear() {
  constexpr std::size_t kept = std::size_t{1} << 20;
  auto reset = [](auto& list, std::size_t first) {
    list.resize(first);
    if (list.capacity() * sizeof(list[0]) > kept) list.shrink_to_fit();
  };
  reset(nodes_, 1);
  reset(pieces_, 1);
  reset(attributes_, 0);
  reset(escaped_, 0);
  given_up_.clear();
  bound_ = 16;
}

void XmlTree::give_up(std::string why) {
  clear();
  given_up_ = std::move(why);
  for (std::size_t i = record_frame_; i < frames_.size(); ++i) frames_[i] = {};
}

void XmlTree::give_up_size() { give_up(fmt::format("a record of more than {} bytes of text", limit_)); }

XmlTree::Tag XmlTree::begin_tag(XmlName const& name, std::uint64_t mark) const {
  Tag tag{attributes_.size(), escaped_.size(), mark};
  bool const inside = keeps();
  std::string const& local = name.local->text;
  tag.is_step = !inside && matched_ == frames_.size() && matched_ < each_.size() && local == each_[matched_];
  bool const begins = !inside && (each_.empty() ? frames_.empty() : tag.is_step && matched_ + 1 == each_.size());
  tag.is_kept = inside || begins;
  if (tag.is_kept) tag.shape = shape_.below(inside ? nodes_[frames_.back().node].shape : XmlShape::kRoot, "", local);
  return tag;
}

void XmlTree::undo(Tag const& tag) {
  attributes_.resize(tag.attributes);
  escaped_.resize(tag.escaped);
}

void XmlTree::open(Tag const& tag, XmlName const& name) {
  Frame frame;
  if (tag.is_kept && nodes_.size() > kMaxElements) {
    give_up(fmt::format("more than {} elements in a record", kMaxElements));
  } else if (tag.is_kept) {
    frame.node = static_cast<std::uint32_t>(nodes_.size());
    if (frame.node == kRoot) record_frame_ = frames_.size();
    if (keeps()) {
      Frame& parent = frames_.back();
      (parent.last_child == 0 ? nodes_[parent.node].first_child : nodes_[parent.last_child].next) = frame.node;
      parent.last_child = frame.node;
    }
    Node& node = nodes_.emplace_back();
    node.name = name.local;
    node.first_attribute = static_cast<std::uint32_t>(tag.attributes);
    node.attributes = static_cast<std::uint32_t>(attributes_.size() - tag.attributes);
    node.shape = tag.shape;
    node.is_array = shape_.is_array(tag.shape);
    bound_ += node.name->key.size() + 32;
    for (std::size_t i = tag.attributes; i < attributes_.size(); ++i) bound_ += attributes_[i].name->key.size() + 8;
  } else {
    undo(tag);
  }
  if (tag.is_step) {
    ++matched_;
    had_parent_ = had_parent_ || matched_ + 1 == each_.size();
  }
  frames_.push_back(frame);
}

bool XmlTree::close(std::uint64_t mark) {
  Frame const frame = frames_.back();
  frames_.pop_back();
  matched_ = std::min(matched_, frames_.size());
  if (!given_up_.empty() && frames_.size() == record_frame_) return !each_.empty();
  if (frame.node == 0) return false;
  Node& node = nodes_[frame.node];
  if (frame.solid_piece == 0) {
    node.first_piece = 0;
  } else {
    node.last_piece = frame.solid_piece;
    pieces_[frame.solid_piece].end = frame.solid_end;
  }
  if (node.first_child != 0) group(node, mark);
  return !keeps() && !each_.empty();
}

// Children of the same name become a list at the place of their first. Each is looked at once.
void XmlTree::group(Node& node, std::uint64_t mark) {
  std::uint32_t last = 0;
  for (std::uint32_t child = node.first_child; child != 0;) {
    std::uint32_t const next = nodes_[child].next;
    XmlName& name = *nodes_[child].name;
    nodes_[child].next = 0;
    if (name.child_mark == mark) {
      nodes_[name.last_child].next_same = child;
    } else {
      name.child_mark = mark;
      if (last != 0) nodes_[last].next = child;
      last = child;
    }
    name.last_child = child;
    child = next;
  }
}

// Its first `solid` bytes are what is left without white space at its end.
void XmlTree::add(std::string_view text, std::size_t solid) {
  Frame& frame = frames_.back();
  auto const begin = static_cast<std::uint32_t>(escaped_.size());
  escaped_.append(text);
  auto const after = static_cast<std::uint32_t>(escaped_.size());
  if (frame.piece != 0 && pieces_[frame.piece].end == begin) {
    pieces_[frame.piece].end = after;
  } else {
    auto const piece = static_cast<std::uint32_t>(pieces_.size());
    pieces_.push_back({begin, after, 0});
    if (frame.piece == 0) {
      nodes_[frame.node].first_piece = piece;
    } else {
      pieces_[frame.piece].next = piece;
    }
    frame.piece = piece;
  }
  if (solid > 0) {
    frame.solid_piece = frame.piece;
    frame.solid_end = begin + static_cast<std::uint32_t>(solid);
  }
}

void XmlTree::add_escape(char c) {
  if (!keeps()) return;
  if (c == '"' || c == '\\') {
    char const text[] = {'\\', c};
    add({text, 2}, 2);
  } else if (frames_.back().piece != 0) {
    add(c == '\n' ? "\\n" : c == '\t' ? "\\t" : "\\r", 0);
  }
}

std::string_view XmlTree::text(Node const& node, std::string& scratch) const {
  Piece const& front = pieces_[node.first_piece];
  if (node.first_piece == node.last_piece)
    return std::string_view(escaped_).substr(front.begin, front.end - front.begin);
  scratch.clear();
  for (std::uint32_t i = node.first_piece;; i = pieces_[i].next) {
    scratch.append(escaped_, pieces_[i].begin, pieces_[i].end - pieces_[i].begin);
    if (i == node.last_piece) return scratch;
  }
}

}  // namespace inflight
